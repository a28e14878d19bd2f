"""The losses of a fit: their values, and the epochs in which they count."""

import numpy as np
import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.options import FitLossOptions
from ptychi_neural.physics.losses import (
    FitLoss,
    amplitude_error,
    deviance_of_noise,
    object_error,
)
from small_tasks import make_task, neural_options

PREDICTED = torch.tensor([4.0, 9.0, 1.0, 0.25])
MEASURED = torch.tensor([1.0, 16.0, 0.0, 4.0])


class Illuminated:
    """A scan that lights the first pixel fully and the second one by half."""

    coverage = torch.tensor([[1.0, 0.5]])


OBJECT = torch.tensor([[[1.0 + 1.0j, 2.0]]])
TRUTH = torch.tensor([[[1.0 - 2.0j, 1.0]]])


def terms(**weights):
    options = FitLossOptions()
    options.likelihood.enabled = "likelihood" in weights
    for name, weight in weights.items():
        getattr(options, name).enabled = True
        getattr(options, name).weight = weight
    return options


def value(options, epoch=0, truth=None):
    loss = FitLoss(options, torch.nn.MSELoss(), truth)
    loss.epoch = epoch
    return loss(PREDICTED, MEASURED, OBJECT, Illuminated()).item()


def test_amplitude_errors_are_means_over_all_or_over_bright_pixels():
    errors = np.abs(np.sqrt(PREDICTED.numpy()) - np.sqrt(MEASURED.numpy()))
    assert amplitude_error(PREDICTED, MEASURED).item() == pytest.approx(errors.mean(), rel=1e-5)
    bright = amplitude_error(PREDICTED, MEASURED, counts_above=1.0).item()
    assert bright == pytest.approx(errors[[1, 3]].mean(), rel=1e-5)
    assert amplitude_error(PREDICTED, MEASURED, counts_above=100.0).item() == 0


def test_the_error_of_an_object_is_that_of_the_best_complex_scale():
    o, t = OBJECT.numpy().ravel(), TRUTH.numpy().ravel()
    root = np.sqrt(Illuminated.coverage.numpy().ravel())
    scale = np.linalg.lstsq((root * o)[:, None], root * t, rcond=None)[0][0]
    oracle = np.linalg.norm(root * (scale * o - t)) ** 2 / np.linalg.norm(root * t) ** 2
    found = object_error(OBJECT, TRUTH, Illuminated.coverage).item()
    assert found == pytest.approx(oracle, rel=1e-5)
    same = object_error((2 - 1j) * TRUTH, TRUTH, Illuminated.coverage).item()
    assert same == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p: amplitude_error(p, MEASURED.double(), 0.5),
        lambda p: object_error(torch.complex(p, -p)[None, None], TRUTH.repeat(1, 1, 2), 1.0),
    ],
)
def test_losses_pass_gradcheck(loss):
    p = torch.tensor([4.0, 9.0, 1.5, 0.25], dtype=torch.float64, requires_grad=True)
    weighted = torch.ones((), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: weighted * loss(p), (p,), atol=1e-4)


def test_a_mix_is_the_weighted_sum_of_its_terms():
    of_counts = torch.nn.functional.mse_loss(PREDICTED, MEASURED).item()
    of_amplitudes = amplitude_error(PREDICTED, MEASURED).item()
    of_object = object_error(OBJECT, TRUTH, Illuminated.coverage).item()
    assert value(FitLossOptions()) == pytest.approx(of_counts)
    assert value(terms(amplitude_error=3.0)) == pytest.approx(3 * of_amplitudes)
    mixed = terms(likelihood=2.0, amplitude_error=3.0, object_error=5.0)
    expected = 2 * of_counts + 3 * of_amplitudes + 5 * of_object
    assert value(mixed, truth=TRUTH) == pytest.approx(expected)


def test_terms_count_in_their_range_of_epochs():
    options = terms(likelihood=1.0, amplitude_error=1.0)
    options.amplitude_error.optimization_plan.stop = 3
    options.likelihood.optimization_plan.start = 2
    alone = {name: value(terms(**{name: 1.0})) for name in ("likelihood", "amplitude_error")}
    assert value(options, 1) == pytest.approx(alone["amplitude_error"])
    assert value(options, 2) == pytest.approx(sum(alone.values()))
    assert value(options, 3) == pytest.approx(alone["likelihood"])


def test_epochs_without_a_loss_are_refused(simulated):
    options = neural_options()
    options.reconstructor_options.num_epochs = 5
    options.reconstructor_options.fit_loss.likelihood.optimization_plan.stop = 3
    with pytest.raises(ValueError, match="fit_loss: no loss counts in epoch 3"):
        make_task(options, simulated.scan)


def test_the_first_epoch_without_a_loss_is_found_among_any_number():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(500):
        options = terms(likelihood=1.0, amplitude_error=1.0, object_error=1.0)
        of_terms = (options.likelihood, options.amplitude_error, options.object_error)
        for term in of_terms:
            plan = term.optimization_plan
            plan.start, plan.stride = (int(number) for number in rng.integers((0, 1), (9, 5)))
            plan.stop = int(rng.integers(0, 60)) if rng.random() < 0.5 else None
        counts = [any(t.is_enabled_on_this_epoch(epoch) for t in of_terms) for epoch in range(90)]
        for n_epochs in (90, 2**31 - 1):
            told = list(options.problems(n_epochs))
            assert len(told) == (False in counts)
            assert all(f"epoch {counts.index(False)};" in problem for problem in told)
        found += not told
    assert found > 10


def test_the_error_of_an_object_needs_the_truth(simulated):
    options = neural_options()
    options.reconstructor_options.fit_loss = terms(object_error=1.0)
    task = make_task(options, simulated.scan)
    with pytest.raises(ValueError, match="this scan has no true object; train on simulated"):
        task.run(1)


def test_a_fit_follows_the_terms_of_its_epochs(simulated):
    options = neural_options()
    options.reconstructor_options.num_epochs = 2
    options.reconstructor_options.displayed_loss_function = None  # The table has what is lowered.
    options.reconstructor_options.fit_loss = terms(amplitude_error=1.0, likelihood=1.0)
    options.reconstructor_options.fit_loss.likelihood.optimization_plan.start = 1
    task = make_task(options, simulated.scan)
    task.run()
    first, second = task.reconstructor.loss_tracker.table.loss
    assert 0 < first < 20  # A mean of amplitudes; the likelihood of so many counts is negative.
    assert second < -100


def test_simulated_scans_of_a_training_have_their_truth():
    from ptychi_neural.simulation import Raster, SimulationOptions

    recipe = SimulationOptions(frame_shape=(16, 16), scan=Raster(n_y=5, n_x=5, step_px=2.0))
    options = neural_options(step_size=1e-2)
    options.reconstructor_options.displayed_loss_function = None
    options.reconstructor_options.fit_loss = terms(object_error=1.0)
    workflow = napi.MultiscanTrainingWorkflow([recipe], recipe, options)
    workflow.run(6)
    losses = workflow.table.loss.dropna()
    assert 0 < losses.iloc[-1] < 0.9 * losses.iloc[0] < 1


@pytest.mark.parametrize("mean", [0.003, 0.1, 0.7, 2.0, 30.0, 5e3])
def test_the_deviance_of_noise_is_that_of_drawn_counts(mean):
    counts = np.random.default_rng(3).poisson(mean, 400_000)
    terms = counts * np.log(np.maximum(counts, 1) / mean) - counts + mean
    found = deviance_of_noise(torch.tensor([mean]))
    assert found.item() == pytest.approx(2 * terms.mean(), rel=0.03)


def test_no_counts_make_no_deviance():
    assert deviance_of_noise(torch.zeros(1)).item() < 1e-5
