"""Corrections of exit waves, and what they ask of object and probe."""

import numpy as np
import pytest
import torch
from ptychi.api import LossFunctions
from ptychi.forward_models import PlanarPtychographyForwardModel

from irregular_scan import PATCH, H, W, complex_random, make_scan, make_task
from ptychi_neural.physics.exit_waves import INTENSITY_FLOOR, ExitWaveCorrection
from ptychi_neural.physics.stitching import Canvas


@pytest.mark.parametrize("n_modes", [1, 2])
def test_a_correction_takes_a_fully_lit_patch_to_the_measured_modulus(n_modes):
    scan = make_scan(9, n_modes=n_modes, loss_function=LossFunctions.MSE_SQRT)
    model, patches = scan.model, scan.start_patches(scan.frames)
    correction = scan.correction(scan.frames, patches)
    far = model.forward_far_field(
        model.forward_real_space(scan.frames, patches) + correction.exit_waves[0]
    )
    predicted = model.intensities(scan.frames, patches)
    floor = INTENSITY_FLOOR * predicted.mean(dim=(-2, -1), keepdim=True)
    patterns = model.dataset.patterns
    measured = patterns * predicted / (predicted + floor)
    torch.testing.assert_close(far.abs().square().sum(1), measured, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(measured, patterns, rtol=1e-3, atol=0)


def test_a_poisson_correction_is_the_gradient_of_the_likelihood_up_to_its_limit():
    scan = make_scan(9, n_modes=2)
    patches = scan.start_patches(scan.frames)
    correction = scan.correction(scan.frames, patches)
    exit_waves = scan.model.forward_real_space(scan.frames, patches).detach().numpy()
    far = np.fft.fft2(exit_waves)
    predicted = (np.abs(far) ** 2).sum(axis=1)
    change = np.minimum((scan.model.dataset.patterns.numpy() / predicted - 1) / 2, 3)
    expected = np.fft.ifft2(change[:, None] * far)
    np.testing.assert_allclose(correction.exit_waves[0].detach(), expected, atol=1e-4)
    np.testing.assert_allclose(correction.predicted.detach(), predicted, rtol=1e-4, atol=1e-4)


def test_a_summed_update_is_the_least_squares_object_for_the_corrected_exit_waves():
    """Where every patch's corrected exit wave belongs to one object, a step finds it."""
    scan = make_scan(12, n_positions=60)
    rng = np.random.default_rng(12)
    change = torch.tensor(complex_random(rng, 1, H, W))
    probe = scan.model.incident_probes(scan.frames).detach()
    wanted = probe * scan.extract(change, scan.frames)
    correction = ExitWaveCorrection([probe], [wanted], *[torch.ones(1)] * 3)
    canvas = Canvas(
        scan.back_project(correction, scan.frames), scan.illumination(correction, scan.frames)
    )
    lit = canvas.weight > 0.3 * canvas.weight.max()
    found = scan.object_update(canvas)
    torch.testing.assert_close(found[0][lit], change[0][lit], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("n_modes", [1, 2])
def test_the_probes_update_is_the_adjoint_of_what_a_probe_does_to_the_exit_waves(n_modes):
    scan = make_scan(9, n_modes=n_modes)
    model, frames = scan.model, torch.arange(9)
    fractions = model.get_probe_grid_position_data()[2]
    assert fractions.abs().max() > 0.2
    patches = scan.start_patches(frames)
    rng = np.random.default_rng(4)
    window = torch.tensor(np.outer(*[np.hanning(PATCH) ** 2] * 2))  # pty-chi pads shifted probes
    change = window * torch.tensor(complex_random(rng, n_modes, PATCH, PATCH))
    exit_waves = window * torch.tensor(complex_random(rng, 9, n_modes, PATCH, PATCH))
    shifted = PlanarPtychographyForwardModel.shift_unique_probes(
        model, frames, change.expand(9, -1, -1, -1), first_mode_only=True
    )
    correction = ExitWaveCorrection([shifted], [exit_waves], *[torch.ones(1)] * 3)
    update = correction.probe_change(model, frames, patches)
    ahead = (shifted * patches).conj() * exit_waves
    torch.testing.assert_close(ahead.sum(), (change.conj() * update).sum(), rtol=1e-3, atol=1e-3)
    unshifted = (patches.conj() * exit_waves).sum(0)
    assert (ahead.sum() - (change.conj() * unshifted).sum()).abs() > 0.02 * ahead.sum().abs()


def test_an_update_leaves_masked_pixels_alone():
    task = make_task(10)
    scan = task.reconstructor.scan
    task.dataset.valid_pixel_mask = torch.zeros(PATCH, PATCH, dtype=torch.bool)
    update = scan.patch_update(scan.frames, scan.start_patches(scan.frames))
    assert update.abs().max() < 1e-12
