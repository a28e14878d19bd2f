"""Consistency layer, forward model and losses against independent oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptychi.api import LossFunctions
from ptychi.api.task import PtychographyTask
from ptychi.forward_models import PlanarPtychographyForwardModel

import ptychi_neural.api as napi
from ptychi_neural.physics.forward_model import MODULUS_FLOOR, ExitWaveCorrection
from ptychi_neural.physics.losses import MeanLoss, build_loss_function, losses_of_pixels
from ptychi_neural.physics.pixel_splits import PixelSplits
from ptychi_neural.projections import accelerated as projections
from ptychi_neural.projections.contrast_transfer import ContrastTransfer, responses
from ptychi_neural.projections.first_moments import FLOOR, STEP, FirstMoments
from ptychi_neural.projections.halves import interleaved_halves
from ptychi_neural.runs.reconstruct import build_task
from ptychi_neural.simulation import Raster, SimulationOptions, simulate

H = W = 40
PATCH = 12


def complex_random(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def make_task(
    seed=0,
    n_positions=15,
    n_slices=1,
    n_modes=1,
    patterns=None,
    patch=PATCH,
    loss_function=LossFunctions.POISSON,
    held_out=0.0,
    **consistency,
):
    """A float64 task on irregular sub-pixel positions, with a probe that has no symmetry."""
    rng = np.random.default_rng(seed)
    options = napi.NeuralPtychographyOptions()
    reconstructor = options.reconstructor_options
    reconstructor.default_dtype = "float64"
    reconstructor.default_device = "cpu"
    reconstructor.random_seed = seed
    reconstructor.batch_size = n_positions
    reconstructor.generator.width = 4
    reconstructor.generator.architecture = "hybrid_uno"
    reconstructor.start.n_iterations = 0
    reconstructor.validation.held_out = held_out
    reconstructor.loss_function = loss_function
    for name, value in consistency.items():
        setattr(reconstructor.consistency, name, value)
    if n_slices > 1:
        options.object_options.slice_spacings_m = [1e-6] * (n_slices - 1)
        options.object_options.pixel_size_m = 1e-8
    y, x = np.mgrid[:patch, :patch] - patch / 2 + 0.3
    probe = np.exp(-(x**2 + 0.7 * y**2) / (patch / 2) ** 2) * np.exp(0.05j * (x**2 - y * x))
    probe = probe * (1 + 0.3 * complex_random(rng, 1, n_modes, patch, patch))
    positions = rng.uniform(-12, 12, size=(n_positions, 2))
    if patterns is None:
        patterns = rng.poisson(5, size=(n_positions, patch, patch))
    object_ = np.exp(0.3 * complex_random(rng, n_slices, H, W))
    return PtychographyTask(
        options,
        diffraction_data=patterns,
        object_data=object_,
        probe_data=probe,
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )


@pytest.fixture(autouse=True)
def _restore_torch_defaults():
    yield
    torch.set_default_dtype(torch.float32)


class IdentityNetwork(torch.nn.Module):
    """A generator that keeps the starting object."""

    def __init__(self, n_slices=1):
        super().__init__()
        self.n_slices = n_slices

    def forward(self, patterns):
        ones = torch.ones(*patterns.shape[:2], self.n_slices, *patterns.shape[2:])
        return ones.to(torch.complex128)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_placement_and_extraction_are_adjoint(seed):
    task = make_task(seed, n_slices=2)
    consistency = task.reconstructor.forward_model.consistency
    rng = np.random.default_rng(seed)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 2, PATCH, PATCH))
    canvas = torch.tensor(complex_random(rng, 2, H, W))
    left = torch.sum(consistency.place(patches, positions).conj() * canvas)
    right = torch.sum(patches.conj() * consistency.extract(canvas, positions))
    assert abs(left - right) <= 1e-10 * abs(left)


def test_threads_do_not_change_what_is_placed(monkeypatch):
    model = make_task(n_positions=400, patch=16).reconstructor.model
    monkeypatch.setattr("ptychi.maths._allow_nondeterministic_algorithms", False)
    positions = model.positions(model.everything)
    patches = torch.rand(400, 1, 16, 16, dtype=torch.float32)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        canvases = [model.consistency.place(patches, positions) for _ in range(20)]
    finally:
        torch.set_num_threads(n_threads)
    assert not canvases[0].is_complex()
    assert all(torch.equal(canvas, canvases[0]) for canvas in canvases)


def numpy_stitch(patches, positions, weights):
    """Oracle: pixel by pixel, over every patch that covers the pixel."""
    sums = np.zeros((H, W), complex)
    totals = np.zeros((H, W))
    for patch, (y, x) in zip(patches, positions):
        top = int(np.floor(np.rint(y) + H / 2 - PATCH / 2))
        left = int(np.floor(np.rint(x) + W / 2 - PATCH / 2))
        for i in range(PATCH):
            for j in range(PATCH):
                sums[top + i, left + j] += weights[i, j] * patch[i, j]
                totals[top + i, left + j] += weights[i, j]
    return sums, totals


@pytest.mark.parametrize("weighting", list(napi.StitchWeightings))
def test_stitch_agrees_with_a_numpy_oracle_on_irregular_positions(weighting):
    task = make_task(1, stitch_weighting=weighting)
    model = task.reconstructor.forward_model
    rng = np.random.default_rng(1)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    probe_intensity = np.abs(task.get_data_to_cpu("probe", as_numpy=True)[0, 0]) ** 2
    weights = (
        np.ones((PATCH, PATCH))
        if weighting == napi.StitchWeightings.UNIFORM
        else probe_intensity / probe_intensity.max()
    )
    sums, totals = numpy_stitch(patches[:, 0].numpy(), positions.detach().numpy(), weights)
    covered = totals > 1e-6
    expected = np.where(covered, sums / np.where(covered, totals, 1), model.start_object[0].numpy())
    stitched = model.consistency.accumulate(patches, positions).object(model.start_object)
    np.testing.assert_allclose(stitched[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighting", list(napi.StitchWeightings))
def test_extraction_after_stitching_is_a_projection(weighting):
    task = make_task(2, stitch_weighting=weighting)
    model = task.reconstructor.forward_model
    positions = task.probe_positions.data
    rng = np.random.default_rng(2)
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    once = model.consistency(patches, positions, model.start_object)
    twice = model.consistency(once, positions, model.start_object)
    torch.testing.assert_close(twice, once, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(once, patches)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_stitching_does_not_amplify_anywhere(seed):
    task = make_task(seed)
    model = task.reconstructor.forward_model
    rng = np.random.default_rng(seed)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    consistent = model.consistency(patches, positions, model.start_object)
    assert consistent.abs().max() <= patches.abs().max() * (1 + 1e-12)


def test_gradients_of_stitch_and_extract_are_right():
    task = make_task(3, n_positions=4)
    model = task.reconstructor.forward_model
    positions = task.probe_positions.data.detach()
    rng = np.random.default_rng(3)
    patches = torch.tensor(complex_random(rng, 4, 1, PATCH, PATCH)).requires_grad_()
    index = torch.arange(4)

    def layer(patches):
        return model.consistency(patches[index], positions, model.start_object)

    assert torch.autograd.gradcheck(layer, (patches,), fast_mode=True)


def test_translating_all_positions_translates_the_stitched_object():
    task = make_task(4)
    model = task.reconstructor.forward_model
    rng = np.random.default_rng(4)
    positions = task.probe_positions.data.detach()
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    here = model.consistency.accumulate(patches, positions)
    there = model.consistency.accumulate(patches, positions + torch.tensor([2.0, -1.0]))
    for a, b in zip(here, there):
        torch.testing.assert_close(b, a.roll((2, -1), dims=(-2, -1)))


@pytest.mark.parametrize(("n_slices", "n_modes"), [(1, 1), (1, 3), (2, 1)])
def test_with_the_true_object_the_forward_model_predicts_what_pty_chi_predicts(n_slices, n_modes):
    task = make_task(5, n_slices=n_slices, n_modes=n_modes)
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork(n_slices)
    indices = torch.arange(len(task.dataset))
    expected = super(type(model), model).forward(indices)
    torch.testing.assert_close(model(indices).intensities, expected, rtol=1e-10, atol=1e-12)


def test_low_memory_mode_predicts_the_same():
    task = make_task(5, n_modes=3)
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork()
    indices = torch.arange(len(task.dataset))
    model.start_object.requires_grad_()

    def intensities_and_gradient():
        intensities = model(indices).intensities
        return intensities, torch.autograd.grad(intensities.sum(), model.start_object)[0]

    expected = intensities_and_gradient()
    model.low_mem_mode = True
    torch.testing.assert_close(intensities_and_gradient(), expected, rtol=1e-10, atol=1e-10)


def test_forward_model_agrees_with_a_numpy_oracle():
    task = make_task(6, n_modes=2)
    with torch.no_grad():
        task.probe_positions.tensor.round_()
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork()
    intensities = model(torch.arange(len(task.dataset))).intensities.detach().numpy()
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
    indices = torch.arange(len(task.dataset))
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork()
    truth = model(indices).intensities.detach()
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
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork()
    model.start_object.requires_grad_()
    loss_function = build_loss_function(choice)
    measured = task.dataset.patterns
    predicted = model(indices).intensities
    loss = loss_function(predicted, measured)
    floor = loss_function(measured, measured)
    assert abs(loss - floor) <= 1e-9 * max(1, abs(floor))
    (gradient,) = torch.autograd.grad(loss, model.start_object)
    elsewhere = loss_function(1.1 * predicted.detach(), measured) - floor
    assert elsewhere > 0
    assert gradient.abs().max() < 1e-6


def test_poisson_noise_floor_is_reached_at_the_true_object():
    """Counts: the loss at the truth is the entropy term of Poisson statistics."""
    task = make_task(8, n_positions=40)
    model = task.reconstructor.forward_model
    model.generator.network = IdentityNetwork()
    predicted = model(torch.arange(40)).intensities.detach()
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


@pytest.mark.parametrize("n_modes", [1, 2])
def test_data_update_takes_a_fully_lit_patch_to_the_measured_modulus(n_modes):
    task = make_task(9, n_modes=n_modes, loss_function=LossFunctions.MSE_SQRT)
    model = task.reconstructor.forward_model
    indices = torch.arange(len(task.dataset))
    correction = model.exit_wave_correction(indices, model.start_patches(indices))
    far = model.forward_far_field(
        model.forward_real_space(indices, model.start_patches(indices)) + correction.exit_waves
    )
    predicted = model.intensities_of(indices, model.start_patches(indices))
    floor = MODULUS_FLOOR * predicted.mean(dim=(-2, -1), keepdim=True)
    measured = task.dataset.patterns * predicted / (predicted + floor)
    torch.testing.assert_close(far.abs().square().sum(1), measured, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(measured, task.dataset.patterns, rtol=1e-3, atol=0)


def test_a_poisson_correction_is_the_gradient_of_the_likelihood_up_to_its_limit():
    task = make_task(9, n_modes=2)
    model = task.reconstructor.forward_model
    indices = torch.arange(len(task.dataset))
    patches = model.start_patches(indices)
    correction = model.exit_wave_correction(indices, patches)
    exit_waves = model.forward_real_space(indices, patches).detach().numpy()
    far = np.fft.fft2(exit_waves)
    predicted = (np.abs(far) ** 2).sum(axis=1)
    change = np.minimum((task.dataset.patterns.numpy() / predicted - 1) / 2, 3)
    expected = np.fft.ifft2(change[:, None] * far)
    np.testing.assert_allclose(correction.exit_waves.detach(), expected, atol=1e-4)
    np.testing.assert_allclose(correction.predicted.detach(), predicted, rtol=1e-4, atol=1e-4)


def test_a_summed_update_is_the_least_squares_object_for_the_corrected_exit_waves():
    """Where every patch's corrected exit wave belongs to one object, a step finds it."""
    task = make_task(12, n_positions=60)
    model = task.reconstructor.forward_model
    indices = torch.arange(60)
    positions = model.positions(indices)
    rng = np.random.default_rng(12)
    change = torch.tensor(complex_random(rng, 1, H, W))
    probe = model._incident_probes(indices).detach()
    wanted = probe * model.consistency.extract(change, positions)
    correction = ExitWaveCorrection(probe, wanted, torch.ones(1), torch.ones(1))
    canvas = model.place_correction(correction, positions)
    lit = canvas.weight > 0.3 * canvas.weight.max()
    found = model.object_update(canvas)
    torch.testing.assert_close(found[0][lit], change[0][lit], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("n_modes", [1, 2])
def test_the_probes_update_is_the_adjoint_of_what_a_probe_does_to_the_exit_waves(n_modes):
    model = make_task(9, n_modes=n_modes).reconstructor.forward_model
    indices = torch.arange(9)
    fractions = model.get_probe_grid_position_data()[2]
    assert fractions.abs().max() > 0.2
    patches = model.start_patches(indices)
    rng = np.random.default_rng(4)
    window = torch.tensor(np.outer(*[np.hanning(PATCH) ** 2] * 2))  # pty-chi pads shifted probes
    change = window * torch.tensor(complex_random(rng, n_modes, PATCH, PATCH))
    exit_waves = window * torch.tensor(complex_random(rng, 9, n_modes, PATCH, PATCH))
    shifted = PlanarPtychographyForwardModel.shift_unique_probes(
        model, indices, change.expand(9, -1, -1, -1), first_mode_only=True
    )
    correction = ExitWaveCorrection(shifted, exit_waves, torch.ones(1), torch.ones(1))
    update = model.probe_update(indices, patches, correction)
    ahead = (shifted * patches).conj() * exit_waves
    torch.testing.assert_close(ahead.sum(), (change.conj() * update).sum(), rtol=1e-3, atol=1e-3)
    unshifted = (patches.conj() * exit_waves).sum(0)
    assert (ahead.sum() - (change.conj() * unshifted).sum()).abs() > 0.02 * ahead.sum().abs()


def test_only_the_phase_of_the_pupil_takes_longer_steps():
    rng = np.random.default_rng(5)
    pupil = np.exp(1j * rng.uniform(-3, 3, (2, PATCH, PATCH)))
    change = rng.normal(size=pupil.shape)
    probe, of_amplitude, of_phase = (
        torch.tensor(np.fft.ifft2(x)) for x in (pupil, change * pupil, 1j * change * pupil)
    )
    found = projections._with_longer_phase_steps(of_amplitude + of_phase, probe)
    torch.testing.assert_close(found, of_amplitude + projections.PUPIL_PHASE_GAIN * of_phase)


def test_contrast_transfer_is_that_of_a_wave_and_its_twin():
    """A wave's image in the likelihood's step is half itself and half its twin, which adds in
    amplitude and subtracts in phase."""
    model, scan = flat_scan()
    amplitude, phase = ContrastTransfer(model, floor=0.1).response
    assert torch.allclose(amplitude + phase, torch.ones_like(phase))
    assert amplitude[0] > 0.999
    probe = scan.probe[0, 0]
    size = probe.shape[-1]
    pattern = np.fft.fft2(probe)
    for periods in (1, 2, 3, 4, 6, 8):
        wave = np.exp(2j * np.pi * np.arange(size) * periods / size)
        shares = []
        for turned in (wave[None, :], wave[:, None]):
            one, other = np.fft.fft2(probe * turned), np.fft.fft2(probe * turned.conj())
            twin = (one * other).conj() * pattern**2 / np.abs(pattern) ** 2
            shares.append((1 - twin.sum().real / (np.abs(one) ** 2).sum()) / 2)
        assert float(phase[2 * periods]) == pytest.approx(np.mean(shares), abs=0.03)


@pytest.mark.parametrize("periods", [3, 6])
def test_an_update_takes_as_much_of_a_contrast_as_its_transfer_tells(periods):
    model, _ = flat_scan()
    height, width = model.start_object.shape[-2:]
    frequency = periods / 32
    told = responses(model, torch.tensor([frequency]))[:, 0]
    window = ContrastTransfer(model, floor=0.1).window
    wave = window * torch.cos(2 * torch.pi * frequency * torch.arange(width)).expand(height, -1)
    flat = torch.ones_like(model.start_object)
    taken = []
    for contrast in (0.01 + 0j, 0.01j):
        model.dataset.patterns = model.intensities_of(
            model.everything,
            model.consistency.extract(
                flat * (1 + contrast * wave), model.positions(model.everything)
            ),
        ).detach()
        update = model.object_update(model.accumulate_update(model.everything, flat)) / contrast
        taken.append(((update[0].real * wave).sum() / wave.square().sum()).detach())
    assert (torch.stack(taken) - told).abs().max() < 0.06


def flat_scan():
    """A forward model with an empty object, and its scan."""
    simulated = simulate(SimulationOptions(seed=0, scan=Raster(n_y=10, n_x=10)))
    options = napi.NeuralPtychographyOptions()
    options.reconstructor_options.default_device = "cpu"
    options.reconstructor_options.validation.held_out = 0
    task = build_task(options, simulated.scan)
    return task.reconstructor.model, simulated.scan


def test_held_out_pixels_reach_neither_input_nor_update():
    task = make_task(13, held_out=0.2)
    model = task.reconstructor.forward_model
    indices = torch.arange(len(task.dataset))
    held_out = model.held_out_pixels(indices)
    assert 0.15 < held_out.float().mean() < 0.25
    before = [
        model.generator_features(indices),
        model.exit_wave_correction(indices, model.start_patches(indices)).exit_waves,
    ]
    task.dataset.patterns = torch.where(held_out, 1000.0, task.dataset.patterns)
    torch.testing.assert_close(before[0], model.generator_features(indices))
    after = model.exit_wave_correction(indices, model.start_patches(indices))
    torch.testing.assert_close(before[1], after.exit_waves)


def test_frames_at_the_same_position_are_groups_of_their_own():
    task = make_task(15)
    task.probe_positions.set_data(torch.zeros(15, 2))
    groups = task.reconstructor.forward_model._group_neighbours(1)
    assert groups[:, 0].tolist() == list(range(15))


def test_splits_partition_the_pixels_that_are_not_held_out():
    pixels = PixelSplits((7, 16, 16), 3, 0.1, seed=5, device=torch.device("cpu"))
    indices = torch.arange(7)
    of_splits = torch.stack([pixels.predicted(indices, split) for split in range(3)])
    everything = torch.cat([of_splits, pixels.held_out(indices)[None]])
    assert (everything.sum(0) == 1).all()
    assert (of_splits.float().mean((1, 2, 3)) - 0.3).abs().max() < 0.05
    for split in range(3):
        seen = pixels.seen(indices, split)
        assert torch.equal(seen, of_splits.any(0) & ~of_splits[split])
    again = PixelSplits((7, 16, 16), 3, 0.1, seed=5, device=torch.device("cpu"))
    assert torch.equal(again.labels, pixels.labels)


def test_shifted_probes_are_made_anew_when_probe_or_positions_change():
    task = make_task(14)
    model = task.reconstructor.forward_model
    indices = torch.arange(5)
    with torch.no_grad():
        first = model._incident_probes(indices)
        reordered = torch.tensor([3, 0, 4])
        torch.testing.assert_close(model._incident_probes(reordered), first[reordered])
        task.probe.set_data(2 * task.probe.data)
        torch.testing.assert_close(model._incident_probes(indices), 2 * first)
        task.probe_positions.set_data(task.probe_positions.data + 0.3)
        assert not torch.allclose(model._incident_probes(indices), 2 * first)


def test_data_update_leaves_masked_pixels_alone():
    task = make_task(10)
    model = task.reconstructor.forward_model
    task.dataset.valid_pixel_mask = torch.zeros(PATCH, PATCH, dtype=torch.bool)
    indices = torch.arange(len(task.dataset))
    update = model.data_update(indices, model.start_patches(indices))
    assert update.abs().max() < 1e-12


def test_scan_scope_stitches_the_latest_patches_of_the_other_positions():
    task = make_task(11, scope="scan")
    model = task.reconstructor.forward_model
    rng = np.random.default_rng(11)
    n = len(task.dataset)
    model.scan_patches.patches = torch.tensor(complex_random(rng, n, 1, PATCH, PATCH))
    model.scan_patches.refresh()
    members = torch.tensor([2, 5, 7])
    new = torch.tensor(complex_random(rng, 3, 1, PATCH, PATCH))
    everything = model.scan_patches.patches.clone()
    everything[members] = new
    expected = model.consistency.accumulate(everything, task.probe_positions.data)
    stitched = model.stitch(members, new)
    torch.testing.assert_close(stitched, expected.object(model.start_object))
    torch.testing.assert_close(model.scan_patches.total.weighted_patches, expected[0])


def on_raster(patterns_of, n=13, step=4, size=24):
    """A float64 task with a defocused probe on a raster; its patterns come from the patches of
    (n^2, size, size) probes that ``patterns_of`` multiplies with its object's."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    probe = np.exp(-(x**2 + y**2) / 40) * np.exp(0.03j * (x**2 + y**2))
    side = (n - 1) * step + size + 4
    corners = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    corners = corners * step + 2
    row, column = np.mgrid[:side, :side]
    object_ = patterns_of(row / side, column / side)
    waves = np.stack([probe * object_[i : i + size, j : j + size] for i, j in corners])
    options = napi.NeuralPtychographyOptions()
    reconstructor = options.reconstructor_options
    reconstructor.default_dtype = "float64"
    reconstructor.default_device = "cpu"
    reconstructor.validation.held_out = 0
    options.probe_options.optimizable = False
    where = corners - corners.mean(axis=0)
    task = PtychographyTask(
        options,
        diffraction_data=np.fft.fftshift(np.abs(np.fft.fft2(waves)) ** 2, axes=(1, 2)),
        object_data=np.ones((1, side, side), dtype=complex),
        probe_data=probe[None, None],
        probe_position_x_px=where[:, 1],
        probe_position_y_px=where[:, 0],
    )
    return task, object_


def moments_of_a_flat_object(task):
    model = task.reconstructor.forward_model
    moments = FirstMoments(model)
    indices = model.everything
    correction = model.exit_wave_correction(indices, model.start_patches(indices))
    positions = model.positions(indices)
    lacking = moments.accumulate(correction, model.measured_patterns(indices), positions)
    return moments, lacking.detach(), model.illumination(correction.probe, positions)


def test_moments_tell_the_slope_of_the_phase():
    task, _ = on_raster(lambda y, x: np.exp(1j * (9 * y - 5 * x)))
    _, lacking, illumination = moments_of_a_flat_object(task)
    side = len(illumination)
    bright = illumination > 0.5 * illumination.max()
    slope = (lacking[0] / illumination)[bright]
    torch.testing.assert_close(slope.real, torch.full_like(slope.real, 9 / side), rtol=1e-2, atol=0)
    torch.testing.assert_close(
        slope.imag, torch.full_like(slope.real, -5 / side), rtol=1e-2, atol=0
    )


def test_coarse_phase_is_found_from_the_moments():
    task, object_ = on_raster(lambda y, x: np.exp(0.5j * np.cos(6 * y) * np.sin(5 * x + 1)))
    moments, lacking, illumination = moments_of_a_flat_object(task)
    bright = (illumination > 0.5 * illumination.max()).numpy()
    found = moments.phase(lacking, illumination).detach().numpy()[bright]
    true = np.angle(object_)[bright]
    assert np.corrcoef(found, true)[0, 1] > 0.97
    slope = np.polyfit(true, found, 1)[0]
    assert 0.5 < slope / (STEP / (1 + FLOOR)) < 1  # less towards the rim


def test_moments_of_pixels_that_may_not_be_seen_count_as_predicted():
    task, _ = on_raster(lambda y, x: np.exp(9j * y))
    _, whole, _ = moments_of_a_flat_object(task)
    model = task.reconstructor.forward_model
    model.dataset.valid_pixel_mask = torch.zeros_like(model.dataset.valid_pixel_mask)
    _, blind, _ = moments_of_a_flat_object(task)
    assert blind.abs().max() < 1e-9 * whole.abs().max()


def test_halves_of_a_raster_are_the_fields_of_a_chequerboard():
    y, x = (index.flatten() for index in torch.meshgrid(*2 * [torch.arange(9)], indexing="ij"))
    order = torch.randperm(81, generator=torch.Generator().manual_seed(0))
    positions = 3.0 * torch.stack([y, x], -1)[order]
    for half in interleaved_halves(positions):
        assert ((y + x)[order][half] % 2).unique().numel() == 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=60),
    st.integers(0, 1),
)
@settings(deadline=None, max_examples=40)
def test_halves_share_all_frames_and_neighbours_are_parted(points, far):
    positions = torch.tensor(points, dtype=torch.float64)
    positions[::2] += 1000.0 * far
    first, second = interleaved_halves(positions)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(points)))
    for i in set(first.tolist()):
        distances = (positions - positions[i]).norm(dim=1)
        distances[i] = torch.inf
        nearest = (distances == distances.min()).nonzero()[:, 0]
        if len(nearest) == 1:  # It is then the spanning tree's neighbour.
            assert nearest[0] in second
