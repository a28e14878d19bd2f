"""Initial reconstructions that go on from a file as if they had never ended."""

import numpy as np
import pytest
import torch

from ptychi_neural.engine.state import load_training_state, save_training_state
from small_tasks import default_options, make_task


def known_in_halves(options, data):
    options.reconstructor_options.start.alternate_halves = True
    options.reconstructor_options.start.moment_iterations = 4


def without_splits(options, data):
    options.reconstructor_options.num_epochs = 1
    options.reconstructor_options.start.n_iterations = 8


def positions(options, data):
    options.probe_position_options.optimizable = True
    shift = np.random.default_rng(0).normal(0, 0.7, len(data["probe_position_x_px"]))
    data["probe_position_x_px"] = data["probe_position_x_px"] + shift


def probe(options, data):
    options.probe_options.optimizable = True
    data["probe_data"] = data["probe_data"] * np.exp(0.3j * np.abs(data["probe_data"]))


def probe_late(options, data):
    probe(options, data)
    options.probe_options.optimization_plan.start = 5
    options.reconstructor_options.start.first_divided_iteration = 12


def everything(options, data):
    """Probe, positions and weights of OPR modes, with a probe that is centred."""
    probe(options, data)
    positions(options, data)
    options.probe_options.center_constraint.enabled = True
    options.opr_mode_weight_options.optimizable = True
    eigenmode = np.roll(data["probe_data"], 1, axis=-1)
    data["probe_data"] = np.concatenate([data["probe_data"], 0.2 * eigenmode])
    data["opr_mode_weights_data"] = np.tile([1.0, 0.1], (len(data["diffraction_data"]), 1))


CONDITIONS = [known_in_halves, without_splits, positions, probe, probe_late, everything]


def task_of(condition, scan):
    options = default_options(num_epochs=0)
    options.reconstructor_options.allow_nondeterministic_algorithms = False
    data = {
        "diffraction_data": scan.patterns,
        "probe_data": scan.probe,
        "probe_position_x_px": scan.positions_px[:, 1],
    }
    condition(options, data)
    return make_task(options, scan, **data)


def run(task, folder=None):
    """Run, with the state saved between two iterations; tell how often."""
    n_paused = 0

    def save():
        nonlocal n_paused
        n_paused += 1
        save_training_state(folder / f"{n_paused}.safetensors", task.reconstructor)

    if folder is not None:
        task.reconstructor.start.pause = save
    task.run()
    return n_paused


def outcome(task):
    fitted = task.reconstructor.parameter_group.fitted()
    found = {name: p.data.detach() for name, p in fitted.items()}
    return found | {"course": torch.tensor([e[2] for e in task.reconstructor.judge.course])}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_an_initial_reconstruction_goes_on_from_any_of_its_iterations(condition, dim, tmp_path):
    whole = task_of(condition, dim.scan)
    n_paused = run(whole, tmp_path)
    expected = outcome(whole)
    assert n_paused > 20
    for number in np.unique([7, *np.linspace(16, n_paused, 4).astype(int)]):
        resumed = task_of(condition, dim.scan)
        load_training_state(tmp_path / f"{number}.safetensors", resumed.reconstructor)
        run(resumed)
        for name, found in outcome(resumed).items():
            torch.testing.assert_close(
                found, expected[name], rtol=0, atol=0, equal_nan=True, msg=f"{name} from {number}"
            )
