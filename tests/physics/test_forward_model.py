"""Predicted intensities and losses against pty-chi and independent oracles."""

import numpy as np
import pytest
import torch
from ptychi.api import LossFunctions
from ptychi.api.task import PtychographyTask
from ptychi.image_proc import shift_images

from irregular_scan import PATCH, H, W, complex_random, make_scan, make_task
from ptychi_neural.physics.losses import MeanLoss, build_loss_function, losses_of_pixels
from ptychi_neural.physics.shifted_probes import FourierShifts


def predicted_through_patches(scan):
    """Counts that the start predicts when it is cut into patches and stitched of them again."""
    patches = scan.start_patches(scan.frames)
    return scan.predict(scan.accumulate(scan.frames, patches).object(scan.start))


@pytest.mark.parametrize(("n_slices", "n_modes"), [(1, 1), (1, 3), (2, 1)])
def test_with_the_true_object_the_forward_model_predicts_what_pty_chi_predicts(n_slices, n_modes):
    scan = make_scan(5, n_slices=n_slices, n_modes=n_modes)
    expected = scan.model(scan.frames)  # pty-chi's own pass, with the task's object
    torch.testing.assert_close(predicted_through_patches(scan), expected, rtol=1e-10, atol=1e-12)


def test_low_memory_mode_predicts_the_same():
    scan = make_scan(5, n_modes=3)
    scan.start.requires_grad_()

    def intensities_and_gradient():
        intensities = predicted_through_patches(scan)
        return intensities, torch.autograd.grad(intensities.sum(), scan.start)[0]

    expected = intensities_and_gradient()
    scan.model.low_mem_mode = True
    torch.testing.assert_close(intensities_and_gradient(), expected, rtol=1e-10, atol=1e-10)


def test_forward_model_agrees_with_a_numpy_oracle():
    task = make_task(6, n_modes=2)
    with torch.no_grad():
        task.probe_positions.tensor.round_()
    intensities = predicted_through_patches(task.reconstructor.scan).detach().numpy()
    object_ = task.get_data_to_cpu("object", as_numpy=True)[0]
    probe = task.get_data_to_cpu("probe", as_numpy=True)[0]
    dft = np.exp(-2j * np.pi * np.outer(np.arange(PATCH), np.arange(PATCH)) / PATCH)
    for pattern, (y, x) in zip(intensities, task.probe_positions.data.detach().numpy()):
        top, left = int(y) + (H - PATCH) // 2, int(x) + (W - PATCH) // 2
        patch = object_[top : top + PATCH, left : left + PATCH]
        expected = sum(np.abs(dft @ (mode * patch) @ dft.T) ** 2 for mode in probe)
        np.testing.assert_allclose(pattern, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("choice", list(LossFunctions))
@pytest.mark.parametrize("fft_shift", [True, False])
def test_loss_at_the_true_object_is_the_noise_floor_with_no_gradient(choice, fft_shift):
    """Noise-free data: the loss is that of the data with themselves, and nothing pulls away."""
    task = make_task(7)
    truth = predicted_through_patches(task.reconstructor.scan).detach()
    patterns = torch.fft.fftshift(truth, dim=(-2, -1)) if fft_shift else truth
    options = task.options
    options.data_options.fft_shift = fft_shift
    options.reconstructor_options.loss_function = choice
    task = PtychographyTask(
        options,
        diffraction_data=patterns.numpy(),
        object_data=task.get_data_to_cpu("object"),
        probe_data=task.get_data_to_cpu("probe"),
        probe_position_x_px=task.get_probe_positions_x().clone(),
        probe_position_y_px=task.get_probe_positions_y().clone(),
    )
    scan = task.reconstructor.scan
    scan.start.requires_grad_()
    loss_function = build_loss_function(choice)
    measured = task.dataset.patterns
    predicted = predicted_through_patches(scan)
    loss = loss_function(predicted, measured)
    floor = loss_function(measured, measured)
    assert abs(loss - floor) <= 1e-9 * max(1, abs(floor))
    (gradient,) = torch.autograd.grad(loss, scan.start)
    elsewhere = loss_function(1.1 * predicted.detach(), measured) - floor
    assert elsewhere > 0
    assert gradient.abs().max() < 1e-6


def test_poisson_noise_floor_is_reached_at_the_true_object():
    """Counts: the loss at the truth is the entropy term of Poisson statistics."""
    predicted = predicted_through_patches(make_scan(8, n_positions=40)).detach()
    predicted = predicted * 50 / predicted.mean()
    rng = np.random.default_rng(8)
    counts = rng.poisson(predicted.numpy())
    loss = float(build_loss_function(LossFunctions.POISSON)(predicted, torch.tensor(counts)))
    mean = predicted.numpy()
    expected = np.mean(mean - mean * np.log(mean))
    deviation = np.sqrt(np.mean(mean * np.log(mean) ** 2) / mean.size)
    assert abs(loss - expected) < 4 * deviation


def test_the_mean_loss_of_bright_pixels_tells_hundredths_of_a_nat_apart():
    measured = torch.full((4, 8, 8), 1e6)
    chosen = torch.arange(8) < 4
    values = []
    for predicted in (measured, torch.where(chosen, 1.0003 * measured, torch.nan)):
        mean = MeanLoss()
        loss_function = build_loss_function(LossFunctions.POISSON)
        losses = losses_of_pixels(loss_function, predicted, measured)
        mean.add(losses, chosen.expand(8, 8))
        values.append(mean.value)
    assert values[1] - values[0] == pytest.approx(1e6 * 0.0003**2 / 2, rel=0.05)


def test_frames_at_the_same_position_are_groups_of_their_own():
    model = make_task(15, positions=np.zeros((15, 2))).reconstructor.model
    assert model.neighbours(1)[:, 0].tolist() == list(range(15))


def test_shifted_probes_are_made_anew_when_probe_or_positions_change():
    task = make_task(14)
    model = task.reconstructor.model
    frames = torch.arange(5)
    with torch.no_grad():
        first = model.incident_probes(frames)
        reordered = torch.tensor([3, 0, 4])
        torch.testing.assert_close(model.incident_probes(reordered), first[reordered])
        task.probe.set_data(2 * task.probe.data)
        torch.testing.assert_close(model.incident_probes(frames), 2 * first)
        task.probe_positions.set_data(task.probe_positions.data + 0.3)
        assert not torch.allclose(model.incident_probes(frames), 2 * first)


def test_probes_are_shifted_as_by_pty_chi():
    model = make_task(14, n_modes=3).reconstructor.model
    frames = torch.arange(5)
    with torch.no_grad():
        probes = model.get_unique_probes(frames)
        expected = super(type(model), model).shift_unique_probes(frames, probes, True)
        shifted = model.shift_unique_probes(frames, probes, True)
    torch.testing.assert_close(shifted, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 9), (8, 16)])
def test_factors_shift_as_pty_chi_does(shape):
    """Also the same image to all positions, and back, summed with weights."""
    rng = np.random.default_rng(3)
    images = torch.tensor(complex_random(rng, 5, *shape))
    shifts = torch.tensor(rng.uniform(-0.5, 0.5, (5, 2)))
    factors = FourierShifts.of(shifts, images)
    close = {"rtol": 1e-10, "atol": 1e-12}
    expected = shift_images(images, shifts, method="fourier")
    torch.testing.assert_close(factors.shift(images), expected, **close)
    torch.testing.assert_close(
        factors.shift(images[:1]),
        shift_images(images[:1].expand(5, -1, -1), shifts, method="fourier"),
        **close,
    )
    back = shift_images(images, shifts, method="fourier", adjoint=True)
    weights = torch.tensor(rng.normal(size=(5, 2)))
    expected = torch.einsum("jk,jhw->khw", weights.to(back.dtype), back)
    torch.testing.assert_close(factors.summed_back(images, weights), expected, **close)
