"""Epochs that gain hardly anything end a run."""

import math
from types import SimpleNamespace

import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task

STATE = SimpleNamespace(state_dict=lambda: None)

SCAN = SimpleNamespace(options=napi.NeuralReconstructorOptions())

OBJECT = torch.ones(1, 4, 4, dtype=torch.complex64)


def judged(losses, **options):
    """A judge that has seen these losses: of the initial reconstruction, then every five epochs."""
    judge = HeldOutJudge(napi.ValidationOptions(**options), torch.nn.MSELoss())
    for k, loss in enumerate(losses):
        judge.loss = lambda *_, loss=loss: loss
        judge.judge(None, OBJECT, 5 * k, 5 * k, lambda: STATE)
        if k == 0:
            judge.take_as_start(SCAN, 0)
    return judge


@pytest.mark.parametrize(
    ("losses", "gains"),
    [
        ([9.0, 8.0, 8.0, 8.0, 8.0, 8.0], False),
        ([9.0, 8.0, 8.0, 8.0, 8.0, 7.99], False),
        ([9.0, 8.0, 8.0, 8.0, 8.0, 7.97], False),
        ([9.0, 8.0, 8.0, 8.0, 8.0, 7.94], True),
        ([9.0, 8.0, 7.99, 7.98, 7.94, 7.94], True),
        ([9.0, 8.0, 8.0, 8.0, 8.0], True),  # not for long enough
        ([9.0, 9.1, 9.2, 9.1, 9.1, 9.1], True),  # the trial's to end
        ([9.0, 9.1, 9.1, 9.1, 9.1, 8.9], True),
        ([9.0, 8.0, math.nan, math.nan, math.nan, math.nan], False),
    ],
)
def test_a_run_goes_on_while_the_network_gains(losses, gains):
    """A twentieth of what was gained in all, within twenty epochs."""
    judge = judged(losses, least_gain=0.05)
    assert judge.is_out_of_patience(5 * (len(losses) - 1), on_trial=False) == (not gains)
    for options in ({"least_gain": 0.0}, {"patience": None}, {"trial_epochs": None}):
        asked_less = judged(losses, **{"least_gain": 0.05} | options)
        assert not asked_less.is_out_of_patience(5 * (len(losses) - 1), on_trial=False)


def test_gains_are_kept_in_states_and_counted_anew_by_the_next_run():
    judge = judged([9.0, 8.0, 8.0, 8.0], least_gain=0.05)
    again = HeldOutJudge(judge.options, judge.loss_function)
    again.load_state_dict(judge.state_dict())
    assert (again.gained_from, again.gained_loss) == (5, 8.0)
    assert judge.is_out_of_patience(25, on_trial=False)
    judge.begin(20)
    assert not judge.is_out_of_patience(25, on_trial=False)
    assert judge.is_out_of_patience(40, on_trial=False)


def test_fits_from_nothing_are_not_ended_by_small_gains():
    """There they are late and fine."""
    judge = judged([9.0, 8.0, 8.0, 8.0, 8.0, 8.0], least_gain=0.05)
    assert judge.is_out_of_patience(25, on_trial=False)
    options = napi.NeuralReconstructorOptions()
    options.start.n_iterations = 0
    judge.take_as_start(SimpleNamespace(options=options), 0)
    assert not judge.is_out_of_patience(25, on_trial=False)


def test_small_gains_end_a_run():
    """The network has beaten the initial reconstruction of this scan after five epochs."""
    scan = Raster(n_y=10, n_x=10)
    helped = simulate(SimulationOptions(seed=23, photons_per_frame=1e3, scan=scan))
    n_epochs = []
    for least_gain in (0.0, 0.9):
        options = default_options(num_epochs=20)
        validation = options.reconstructor_options.validation
        validation.trial_epochs, validation.least_gain = 6, least_gain
        task = make_task(options, helped.scan)
        task.run()
        assert not task.reconstructor.network_was_tried_in_vain
        n_epochs.append(task.reconstructor.current_epoch)
    assert 6 < n_epochs[1] < n_epochs[0] == 20
