"""The update by the gradient of the loss: the same as the written-down one, and beyond it."""

import numpy as np
import pytest
import torch
from ptychi.api import LossFunctions

import ptychi_neural.api as napi
from ptychi_neural.evaluation import align, complex_error, scanned_area
from ptychi_neural.physics.exit_waves import correct_by_gradient, correct_exit_waves
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from ptychi_neural.simulation.simulate import build_forward_model
from small_tasks import default_options, make_task


@pytest.fixture(scope="module")
def simulated():
    scan = Raster(n_y=9, n_x=9, step_px=3.0, jitter_px=0.7)
    return simulate(SimulationOptions(seed=4, scan=scan))


def options_for(num_epochs=0, n_iterations=60):
    options = default_options(num_epochs)
    options.reconstructor_options.start.n_iterations = n_iterations
    return options


@pytest.mark.parametrize("poisson", [True, False])
@pytest.mark.parametrize(("n_modes", "n_slices"), [(1, 1), (2, 1), (2, 3)])
def test_the_gradient_is_the_written_down_correction(simulated, poisson, n_modes, n_slices):
    options = options_for()
    options.reconstructor_options.default_dtype = "float64"
    options.probe_options.optimizable = True
    if not poisson:
        options.reconstructor_options.loss_function = LossFunctions.MSE_SQRT
    rng = np.random.default_rng(0)
    probe = simulated.scan.probe.repeat(n_modes, axis=1)
    probe = probe * (1 + 0.3 * rng.normal(size=probe.shape))
    given = {"probe_data": probe}
    if n_slices > 1:
        options.data_options.wavelength_m = 1e-9
        options.object_options.slice_spacings_m = [1e-5, 2e-5]
        given["object_data"] = np.ones((n_slices, *simulated.scan.object.shape[1:]), complex)
    scan = make_task(options, simulated.scan, **given).reconstructor.scan
    frames = scan.frames[:7]
    patches = scan.start_patches(frames) * torch.polar(
        1 + 0.1 * torch.rand(7, n_slices, 32, 32), torch.rand(7, n_slices, 32, 32)
    )
    measured, seen = scan.model.measured(frames), scan.seen(frames)
    largest = 3.0 if poisson else None
    arguments = (scan.model, frames, patches, measured, seen, largest)
    expected, found = correct_exit_waves(*arguments), correct_by_gradient(*arguments)
    close = {"rtol": 1e-6, "atol": 1e-6 * float(expected.back_projected().abs().max())}
    torch.testing.assert_close(found.back_projected(), expected.back_projected(), **close)
    torch.testing.assert_close(found.intensity(), expected.intensity(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.predicted, expected.predicted, rtol=1e-10, atol=1e-10)
    change = expected.probe_change(scan.model, frames, patches)
    close["atol"] = 1e-6 * float(change.abs().max())
    torch.testing.assert_close(
        found.probe_change(scan.model, frames, patches), change.detach(), **close
    )


def error_of(task, simulated, truth=None):
    truth = simulated.truth.object if truth is None else truth
    mask = scanned_area(simulated.truth.positions_px, truth.shape[-2:])
    ours = task.get_data_to_cpu("object", as_numpy=True).prod(0)
    ours = align(ours, truth.prod(0), ramp=True, shift=True, mask=mask).aligned
    return complex_error(ours, truth.prod(0), mask)


def cropped(patterns, size):
    low = (patterns.shape[-1] - size) // 2
    return patterns[:, low : low + size, low : low + size]


def test_a_detector_smaller_than_the_probe_is_no_obstacle_to_the_defaults(simulated):
    """All of the pattern gave .02, three quarters of its sides .03 to .05 on three seeds."""
    task = make_task(
        options_for(4), simulated.scan, diffraction_data=cropped(simulated.scan.patterns, 24)
    )
    task.run()
    assert error_of(task, simulated) < 0.1


@pytest.mark.parametrize("architecture", ["cascaded", "hybrid_uno", "cnn"])
@pytest.mark.parametrize("lifter", list(napi.Lifters))
def test_one_shot_generators_take_a_smaller_detector(simulated, architecture, lifter):
    options = options_for(3, 0)
    options.reconstructor_options.generator.architecture = architecture
    options.reconstructor_options.generator.lifter = lifter
    options.reconstructor_options.generator.width = 4
    task = make_task(options, simulated.scan, diffraction_data=cropped(simulated.scan.patterns, 24))
    task.run()
    losses = task.reconstructor.loss_tracker.table.loss
    assert losses.iloc[-1] < losses.iloc[0]


def simulate_with(options, object_, simulated, photons=1e5, seed=0):
    """Patterns of pty-chi's forward model with the geometry of the options, DC at the centre."""
    truth = simulated.truth
    with torch.no_grad():
        model = build_forward_model(object_, truth.probe, truth.positions_px, options)
        expected = model(torch.arange(len(truth.positions_px))).double().numpy()
    if options.data_options.fft_shift:
        expected = np.fft.fftshift(expected, axes=(-2, -1))
    scale = photons / expected.sum(axis=(-2, -1)).mean()
    patterns = np.random.default_rng(seed).poisson(scale * expected).astype(np.float32)
    return patterns, truth.probe * np.sqrt(scale)


def test_two_slices_are_reconstructed_by_the_defaults(simulated):
    options = options_for(4, 120)
    options.object_options.slice_spacings_m = [2e-5]
    options.object_options.pixel_size_m = 2e-8
    options.data_options.wavelength_m = 1.5e-10
    first = np.exp(0.5 * (simulated.truth.object - 1))
    truth = np.concatenate([first, np.roll(first, (5, -7), axis=(1, 2))])
    patterns, probe = simulate_with(options, truth, simulated)
    task = make_task(
        options, simulated.scan, diffraction_data=patterns, probe_data=probe,
        object_data=np.ones_like(truth),
    )  # fmt: skip
    task.run()
    empty = complex_error(
        np.ones_like(truth[0]),
        truth.prod(0),
        scanned_area(simulated.truth.positions_px, truth.shape[-2:]),
    )
    assert error_of(task, simulated, truth) < 0.3 * empty
    assert task.get_data_to_cpu("object").shape == truth.shape


def test_blurred_patterns_are_fitted_by_blurred_predictions(simulated):
    errors = []
    for told in (False, True):
        options = options_for(0, 80)
        blurred = options.reconstructor_options.forward_model_options
        blurred.diffraction_pattern_blur_sigma = 0.8
        patterns, probe = simulate_with(options, simulated.truth.object, simulated)
        blurred.diffraction_pattern_blur_sigma = 0.8 if told else None
        task = make_task(options, simulated.scan, diffraction_data=patterns, probe_data=probe)
        task.run()
        errors.append(error_of(task, simulated))
    assert errors[1] < 0.5 * errors[0]
