"""What each frame has of its own: steps against finite differences, and what they find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural.comparison.target import Target
from ptychi_neural.physics.losses import build_loss_function
from ptychi_neural.projections import frame_parameters
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.frame_parameters import FrameParameters, modulus_changes
from ptychi_neural.projections.positions import slopes
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from ptychi_neural.simulation.precision import double_precision_on_cpu
from ptychi_neural.simulation.simulate import build_forward_model
from small_tasks import default_options, make_task, object_of

N = 81


def small_scan(seed, **options):
    options = {"photons_per_frame": 1e5, **options}
    scan = Raster(n_y=9, n_x=9, step_px=3.0)
    return simulate(SimulationOptions(seed=seed, frame_shape=(24, 24), scan=scan, **options))


def options_for(n_iterations, dtype="float32"):
    options = default_options(num_epochs=0)
    options.reconstructor_options.default_dtype = dtype
    options.reconstructor_options.start.n_iterations = n_iterations
    options.probe_options.optimizable = True
    return options


def make_opr_task(options, scan):
    return make_task(options, scan, opr_mode_weights_data=scan.opr_mode_weights)


def exposed(simulated, probe, weights, seed=0):
    """The scan as a beam of (n_opr_modes, n_modes, h, w) probe and (n, n_opr_modes) weights
    would have exposed it."""
    truth = simulated.truth
    with double_precision_on_cpu(), torch.no_grad():
        options = PtychographyTaskOptions()
        model = build_forward_model(truth.object, probe, truth.positions_px, options, weights)
        expected = torch.fft.fftshift(model(torch.arange(N)), dim=(-2, -1)).numpy()
    patterns = np.random.default_rng(seed).poisson(expected).astype(np.uint32)
    return replace(simulated.scan, patterns=patterns)


def tilted(probe):
    """A second OPR mode that turns the beam: orthogonal to the (1, n_modes, h, w) probe."""
    first = probe[0, 0]
    mode = first * (np.indices(first.shape)[1] - first.shape[1] // 2)
    mode = mode - first * np.vdot(first, mode) / np.vdot(first, first)
    both = np.stack([probe[0], np.zeros_like(probe[0])])
    both[1, 0] = mode * np.linalg.norm(first) / np.linalg.norm(mode)
    return both


@torch.no_grad()
def test_changes_of_the_modulus_are_those_of_a_moved_object():
    task = make_task(options_for(0, "float64"), small_scan(0, n_probe_modes=2).truth)
    rng = np.random.default_rng(1)
    probe = rng.normal(size=(2, 24, 24)) + 1j * rng.normal(size=(2, 24, 24))
    spectrum = np.zeros((40, 40), complex)
    spectrum[:6, :6] = rng.normal(size=(6, 6)) + 1j * rng.normal(size=(6, 6))
    frequencies = 2 * np.pi * np.fft.fftfreq(40)

    def moved(y, x):
        turn = np.exp(1j * (frequencies[:, None] * y + frequencies * x))
        return np.fft.ifft2(spectrum * turn)

    def modulus(y, x):
        far = np.fft.fft2(probe * moved(y, x)[5:29, 7:31])
        return np.sqrt((np.abs(far) ** 2).sum(0))

    h = 1e-4
    expected = [
        (modulus(h, 0) - modulus(-h, 0)) / (2 * h),
        (modulus(0, h) - modulus(0, -h)) / (2 * h),
    ]
    canvas = torch.as_tensor(moved(0, 0))[None]
    cut = (..., slice(5, 29), slice(7, 31))
    probe = torch.as_tensor(probe)[None]
    waves = [[probe * slope[cut][None]] for slope in slopes(canvas)]
    model, patches = task.reconstructor.model, canvas[cut][None]
    found = modulus_changes(
        model, torch.arange(1), model.forward_far_field(probe * patches), waves, patches
    )
    assert found[0].numpy() == pytest.approx(np.array(expected), rel=1e-3, abs=1e-5)


@torch.no_grad()
def test_changes_go_on_through_several_slices():
    """Against finite differences, and the right side of the systems against its definition."""
    options = options_for(0, "float64")
    options.data_options.wavelength_m = 1e-9
    options.object_options.slice_spacings_m = [2e-5]
    options.probe_position_options.optimizable = True
    options.opr_mode_weight_options.optimizable = True
    options.opr_mode_weight_options.optimize_intensity_variation = True
    simulated = small_scan(3, n_probe_modes=2)
    object_ = np.repeat(simulated.truth.object, 2, axis=0)
    probe = tilted(simulated.truth.probe)
    weights = np.tile([1.0, 0.1], (N, 1))
    scan = replace(simulated.scan, object=object_, probe=probe, opr_mode_weights=weights)
    physics = make_opr_task(options, scan).reconstructor.scan
    model, frames = physics.model, torch.arange(5)

    def corrected(moved_by=(0.0, 0.0), weighted_by=0.0):
        height, width = physics.start.shape[-2:]
        ky, kx = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
        turn = torch.exp(2j * np.pi * (ky * moved_by[0] + kx * moved_by[1]))
        model.opr_mode_weights.set_data(torch.as_tensor(weights + weighted_by))
        moved = torch.fft.ifft2(torch.fft.fft2(physics.start) * turn)
        patches = physics.extract(moved, frames)
        return physics.correction(frames, patches, of_modulus=True), patches

    def difference(**change):
        ahead, behind = (
            corrected(**{name: h * np.asarray(by) for name, by in change.items()})[0].far
            for h in (1e-4, -1e-4)
        )
        moduli = [far.abs().square().sum(1).sqrt() for far in (ahead, behind)]
        return (moduli[0] - moduli[1]) / 2e-4

    expected = [difference(moved_by=axis) for axis in ([1.0, 0.0], [0.0, 1.0])]
    expected += [difference(weighted_by=axis) for axis in ([1.0, 0.0], [0.0, 1.0])]
    correction, patches = corrected()
    parameters = FrameParameters(physics)
    parameters.begin(100, physics.start)
    parameters.accumulate(correction, patches, frames)
    seen, scale = correction.seen, model.intensity_scale.value
    expected = torch.where(seen[..., None, :, :], torch.stack(expected, 1), 0.0).flatten(2)
    normal = scale * expected @ expected.mT
    torch.testing.assert_close(
        parameters._normal[frames], normal, rtol=1e-3, atol=1e-4 * float(normal.abs().max())
    )
    left = model.measured(frames).sqrt() - correction.predicted.sqrt()
    asked = scale.sqrt() * (expected @ left.flatten(1)[..., None])
    torch.testing.assert_close(
        parameters._asked[frames], asked, rtol=1e-3, atol=1e-4 * float(asked.abs().max())
    )


@torch.no_grad()
@pytest.mark.parametrize("what", ["positions", "weights", "both"])
def test_a_step_finds_a_small_error_of_each_frame(what):
    rng = np.random.default_rng(0)
    simulated = small_scan(2)
    probe = tilted(1e3 * simulated.truth.probe)
    weights = np.stack([np.ones(N), 0.2 * rng.normal(size=N)], 1)
    scan = exposed(simulated, probe, weights)
    apart = rng.normal(0, 0.05, simulated.truth.positions_px.shape)
    off = 0.02 * rng.normal(size=(N, 2))
    wrong = {
        "object": simulated.truth.object,
        "probe": probe,
        "positions_px": simulated.truth.positions_px + apart * (what != "weights"),
        "opr_mode_weights": weights + off * (what != "positions"),
    }
    options = options_for(0, "float64")
    options.probe_position_options.optimizable = what != "weights"
    options.opr_mode_weight_options.optimizable = what != "positions"
    options.opr_mode_weight_options.optimize_eigenmode_weights = True
    options.opr_mode_weight_options.optimize_intensity_variation = True
    physics = make_opr_task(options, replace(scan, **wrong)).reconstructor.scan
    physics.options.start.frame_damping = 1e-6
    parameters = FrameParameters(physics)
    parameters.begin(100, physics.start)
    patches = physics.start_patches(physics.frames)
    measured = physics.model.measured(physics.frames)
    correction = physics.correction(physics.frames, patches, measured, of_modulus=True)
    parameters.accumulate(correction, patches, physics.frames)
    true = {"positions": [apart], "weights": [off], "both": [apart, off]}[what]
    true = np.concatenate(true, 1)
    left = parameters.steps(physics.frames).numpy() + true
    assert np.all(np.median(np.abs(left), 0) < 0.2 * np.median(np.abs(true), 0))


def test_a_beam_that_varies_needs_no_second_opr_mode():
    rng = np.random.default_rng(5)
    simulated = small_scan(1, probe_defocus_error=0.3)
    weights = np.sqrt(1 + 0.3 * rng.normal(size=(N, 1)).clip(-2, 2))
    beams = simulated.truth.patterns * weights[:, :, None] ** 2
    scan = replace(simulated.scan, patterns=rng.poisson(beams).astype(np.uint32))
    options = options_for(100)
    refined = options.opr_mode_weight_options
    refined.optimizable = refined.optimize_intensity_variation = True
    refined.optimize_eigenmode_weights = False
    task = make_task(options, scan)
    task.run()
    found = task.get_data_to_cpu("opr_mode_weights", as_numpy=True)
    assert np.corrcoef(found[:, 0], weights[:, 0])[0, 1] > 0.95
    target = Target(simulated.truth.object, "ground truth")
    assert target.error(object_of(task), scan, refined=True) < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beam_and_opr_modes_are_found_from_a_guess(seed):
    """What the beam does at each position is found along with object and probe."""
    rng = np.random.default_rng(seed)
    simulated = small_scan(seed, probe_defocus_error=0.3)
    probe = tilted(simulated.truth.probe)
    weights = np.stack([1 + 0.2 * rng.normal(size=N), 0.3 * rng.normal(size=N)], 1)
    scan = exposed(simulated, probe, weights, seed)
    noise = rng.normal(size=probe[0].shape) * np.abs(scan.probe[0])
    scan = replace(
        scan,
        probe=np.stack([scan.probe[0], noise]),
        opr_mode_weights=np.stack([np.ones(N), 0.01 * rng.normal(size=N)], 1),
    )
    options = options_for(100)
    refined = options.opr_mode_weight_options
    refined.optimizable = refined.optimize_eigenmode_weights = True
    refined.optimize_intensity_variation = True
    task = make_opr_task(options, scan)
    task.run()
    found = task.get_data_to_cpu("opr_mode_weights", as_numpy=True)
    assert np.corrcoef(found[:, 0], weights[:, 0])[0, 1] > 0.95
    assert abs(np.corrcoef(found[:, 1], weights[:, 1])[0, 1]) > 0.95
    refined.optimizable = False
    without = make_opr_task(options, scan)
    without.run()
    errors = [
        Target(simulated.truth.object, "ground truth").error(object_of(each), scan, refined=True)
        for each in (task, without)
    ]
    assert errors[0] < 0.5 * errors[1]


@torch.no_grad()
def test_going_back_gives_all_that_was_found_again():
    options = options_for(0)
    options.probe_position_options.optimizable = True
    options.opr_mode_weight_options.optimizable = True
    options.opr_mode_weight_options.optimize_intensity_variation = True
    physics = make_task(options, small_scan(3, position_error_px=0.5).scan).reconstructor.scan
    loss_function = build_loss_function(physics.options.loss_function)
    projections = AcceleratedProjections(physics, loss_function, None, None)
    parameters = FrameParameters(physics)
    before = projections.state()
    for iteration in range(50, 53):
        parameters.begin(iteration, projections.object)
        projections.iterate(update_probe=True, of_frames=parameters)
    after = projections.state()
    for old, new in zip([before.object, *before.refined], [after.object, *after.refined]):
        assert (new - old).abs().max() > 1e-4
    projections.go_back(before)
    again = projections.state()
    for old, new in zip([before.object, *before.refined], [again.object, *again.refined]):
        assert torch.equal(new, old)


@torch.no_grad()
def test_the_systems_of_the_frames_are_made_and_summed_every_fourth_iteration(monkeypatch):
    options = options_for(0)
    options.probe_position_options.optimizable = True
    options.opr_mode_weight_options.optimizable = True
    options.opr_mode_weight_options.optimize_intensity_variation = True
    physics = make_task(options, small_scan(3, position_error_px=0.5).scan).reconstructor.scan
    parameters, n_propagated, n_summed = FrameParameters(physics), [], []
    monkeypatch.setattr(
        frame_parameters,
        "modulus_changes",
        lambda *given: n_propagated.append(iteration) or modulus_changes(*given),
    )
    monkeypatch.setattr(
        frame_parameters,
        "summed",  # over ranks: (n, 1) right sides, (n, n) systems
        lambda of_frames: n_summed.append((iteration, of_frames.shape[-1] > 1)) or of_frames,
    )
    patches = physics.start_patches(physics.frames)
    correction = physics.correction(physics.frames, patches, of_modulus=True)
    first_weight = physics.options.start.first_weight_iteration
    for iteration in range(first_weight - 1, first_weight + 8):
        parameters.begin(iteration, physics.start)
        parameters.accumulate(correction, patches, physics.frames)
        steps = parameters.steps(physics.frames)
    assert n_propagated == [first_weight - 1, first_weight, first_weight + 4]
    assert [each for each, is_system in n_summed if is_system] == n_propagated
    assert len(n_summed) == 9 + len(n_propagated)
    assert steps.shape == (N, 3)
    fresh = FrameParameters(physics)
    fresh.begin(iteration, physics.start)
    fresh.accumulate(correction, patches, physics.frames)
    assert torch.equal(steps, fresh.steps(physics.frames))
