"""The defocus of a probe, found by trial before anything else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from ptychi_neural.comparison.target import Target
from ptychi_neural.engine import start
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.defocus import (
    curvature,
    defocused,
    downhill,
    farthest,
    find_defocus,
    has_phase,
)
from ptychi_neural.scans import mean_pattern_probe
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task, object_of

LIGHT, DIM, SCARCE = 1e5, 2e3, 400


def scan_with(defocus_error, photons=LIGHT, seed=0, **options):
    scan = Raster(n_y=10, n_x=10, step_px=3.0, jitter_px=0.7)
    given = {"frame_shape": (24, 24), "probe_defocus_error": defocus_error, "scan": scan}
    given |= options
    return simulate(SimulationOptions(seed=seed, photons_per_frame=photons, **given))


def options_for(n_epochs=0):
    options = default_options(num_epochs=n_epochs)
    options.probe_options.optimizable = True
    return options


def likeness(probe, truth):
    """How far two first modes are the same, wherever they are: 1 if they are."""
    spectra = [np.fft.fft2(each[0, 0]) for each in (probe, truth)]
    correlation = np.abs(np.fft.ifft2(spectra[0].conj() * spectra[1])).max()
    return correlation * spectra[0].size / np.prod([np.linalg.norm(each) for each in spectra])


def searched(simulated, options=None):
    """The likeness to the true probe before and after the search, and the change of phase."""
    reconstructor = build_task(options or options_for(), simulated.scan).reconstructor
    reconstructor.begin_run()
    given = reconstructor.model.probe.data.detach().numpy().copy()
    loss_function = reconstructor.judge.loss_function
    found = find_defocus(reconstructor.scan, loss_function, tqdm(disable=True))
    after = reconstructor.model.probe.data.detach().numpy()
    truth = simulated.truth.probe
    return likeness(given, truth), likeness(after, truth), found


@pytest.mark.parametrize("photons", [LIGHT, DIM])
@pytest.mark.parametrize("error", [0.6, -0.4])
def test_it_is_found_with_ample_and_with_scarce_light(photons, error):
    before, after, _ = searched(scan_with(error, photons, n_probe_modes=2))
    assert before < 0.95
    assert after > 0.985


@pytest.mark.parametrize("error", [0.6, -0.4])
def test_two_slices_do_not_hide_it(error):
    phases = {"kind": "dead_leaves", "amplitude_range": (0.8, 1.0), "phase_range": (-0.5, 0.5)}
    two = {"n_slices": 2, "slice_spacing_m": 2e-6, "object": phases}
    before, after, _ = searched(scan_with(error, **two))
    assert before < 0.95
    assert after > 0.985


def test_no_probe_in_focus_that_fits_each_frame_by_itself_is_taken_for_it():
    """Towards focus the left-out pixels are predicted better here, too, and by far."""
    simulated = scan_with(
        -0.5,
        seed=1,
        frame_shape=(64, 64),
        n_probe_modes=2,
        object={"kind": "dead_leaves"},
        scan=Raster(n_y=10, n_x=10, step_px=7.0, jitter_px=1.75),
    )
    before, after, _ = searched(simulated)
    assert before < 0.5
    assert after > 0.99


@pytest.mark.parametrize("n_modes", [1, 2])
def test_the_root_of_the_mean_pattern_is_brought_out_of_focus(n_modes):
    """Its Fourier transform has no phase: the true one may be anywhere."""
    simulated = scan_with(0.0, n_probe_modes=n_modes)
    scan = simulated.scan
    scan = replace(scan, probe=mean_pattern_probe(scan.patterns))
    task = make_task(options_for(), scan)
    task.run()
    assert likeness(scan.probe, simulated.truth.probe) < 0.7
    assert likeness(task.get_data_to_cpu("probe", as_numpy=True), simulated.truth.probe) > 0.99
    target = Target(simulated.truth.object, "ground truth")
    assert target.error(object_of(task), scan, refined=True) < 0.05


def test_a_probe_in_focus_has_no_phase_but_a_constant():
    probe = torch.zeros(1, 1, 32, 32, dtype=torch.complex64)
    probe[..., 12:20, 12:20] = 1.0
    pupil = torch.fft.fft2(probe)
    flat = torch.fft.fftshift(torch.fft.ifft2(pupil.abs()), dim=(-2, -1)).to(torch.complex64)
    assert not has_phase(flat)
    assert not has_phase(flat * torch.polar(torch.tensor(2.0), torch.tensor(0.7)))
    assert has_phase(defocused(flat, 0.3, curvature(flat)))


def test_the_farthest_defocus_fills_the_frame():
    """A pupil that is a disc is a disc far from focus, too."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    pupil = torch.as_tensor((k < 0.25).astype(np.complex64))
    flat = torch.fft.fftshift(torch.fft.ifft2(pupil), dim=(-2, -1))[None, None]
    far = defocused(flat, farthest(flat), curvature(flat))[0, 0].abs().square().numpy()
    y, x = np.mgrid[:128, :128] - 64
    inside = np.hypot(y, x) < 64
    assert far[inside].sum() > 0.9 * far.sum()
    assert far[np.hypot(y, x) < 48].sum() < 0.75 * far.sum()


def test_a_plane_wave_has_no_defocus():
    simulated = scan_with(0.0)
    scan = replace(simulated.scan, probe=np.full_like(simulated.scan.probe, 2.0))
    assert farthest(torch.as_tensor(scan.probe)) == 0
    assert searched(replace(simulated, scan=scan))[2] == 0


def test_positions_that_are_off_do_not_hide_it():
    options = options_for()
    options.probe_position_options.optimizable = True
    before, after, _ = searched(scan_with(0.6, position_error_px=0.7), options)
    assert after > max(0.97, before)


def test_a_beam_that_varies_is_not_taken_for_it():
    options = options_for()
    weights = options.opr_mode_weight_options
    weights.optimizable = weights.optimize_intensity_variation = True
    weights.optimize_eigenmode_weights = False
    simulated = scan_with(0.5, beam_variation=0.4)
    before, after, _ = searched(simulated, options)
    assert after > max(0.98, before)
    assert (make_task(options, simulated.scan).get_data_to_cpu("opr_mode_weights") == 1).all()


def test_a_right_probe_stays_as_it_is():
    before, after, found = searched(scan_with(0.0))
    assert abs(found) < 0.1
    assert before == pytest.approx(1, abs=1e-5)
    assert after > 0.998


@pytest.mark.parametrize("how", ["known", "near field", "plan", "option"])
def test_it_is_not_looked_for_elsewhere(how, caplog):
    options = options_for()
    start = options.reconstructor_options.start
    start.n_iterations = 3
    simulated = scan_with(0.3)
    if how == "known":
        options.probe_options.optimizable = False
    elif how == "near field":
        options.data_options.free_space_propagation_distance_m = 1e-4
    elif how == "plan":
        options.probe_options.optimization_plan.start = 2
    else:
        start.defocus_range = 0
    with caplog.at_level("INFO"):
        make_task(options, simulated.scan).run()
    assert "Defocus" not in caplog.text


def test_a_radian_of_it_is_one_of_the_pupils_phase():
    rng = np.random.default_rng(0)
    probe = torch.as_tensor(rng.normal(size=(1, 2, 12, 16, 2))).view(1, 2, 12, 16, 2)
    probe = torch.view_as_complex(probe)
    phase = curvature(probe).numpy()
    power = (np.abs(np.fft.fft2(probe.numpy()[0])) ** 2).sum(0)
    mean = (power * phase).sum() / power.sum()
    assert mean == pytest.approx(0, abs=1e-6)
    assert (power * phase**2).sum() / power.sum() == pytest.approx(1, rel=1e-5)
    ky, kx = np.fft.fftfreq(12), np.fft.fftfreq(16)
    assert np.corrcoef(phase.ravel(), np.add.outer(ky**2, kx**2).ravel())[0, 1] > 1 - 1e-9
    there = defocused(probe, 0.7, torch.as_tensor(phase))
    back = defocused(there, -0.7, torch.as_tensor(phase))
    np.testing.assert_allclose(back.numpy(), probe.numpy(), atol=1e-6)


def test_the_walk_ends_at_the_nearest_minimum_and_at_the_range():
    assert downhill(lambda r: min((r - 0.8) ** 2, (r - 4) ** 2 - 1), 3.0) == 0.75
    assert downhill(lambda r: (r + 1.4) ** 2, 3.0) == -1.5
    assert downhill(lambda r: -r, 3.0) == 3.0
    assert downhill(lambda r: r**2, 3.0) == 0.0


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_at_scarce_light_the_probe_does_not_follow_the_noise(seed):
    """Iterations that refine the probe from the first one on end with more than 1.25 times the
    error, at 0.7 counts per pixel."""
    simulated = scan_with(0.5, SCARCE, seed, n_probe_modes=2)
    target = Target(simulated.truth.object, "ground truth")
    errors = []
    for defocus_range in (3.0, 0.0):
        options = options_for()
        options.reconstructor_options.start.defocus_range = defocus_range
        task = make_task(options, replace(simulated.scan))
        task.run()
        errors.append(target.error(object_of(task), simulated.scan, refined=True))
    assert errors[0] < 0.8 * errors[1]


def astigmatic(simulated, strength):
    """The scan, with a probe of so much more astigmatism."""
    ky, kx = np.fft.fftfreq(24)[:, None], np.fft.fftfreq(24)
    turned = np.fft.fft2(simulated.scan.probe) * np.exp(1j * strength * (kx**2 - ky**2))
    return replace(simulated.scan, probe=np.fft.ifft2(turned).astype(np.complex64))


@pytest.mark.slow
@pytest.mark.parametrize("astigmatism", [0, 6, 40])
def test_the_probe_joins_early_where_more_than_its_defocus_is_wrong(astigmatism, monkeypatch):
    """With a little of it, as soon as the object comes no further: joining last ends at .019."""
    simulated = scan_with(0.4)
    scan = astigmatic(simulated, astigmatism)
    options = options_for()
    own = options.reconstructor_options.start
    task = make_task(options, scan)
    planned = task.reconstructor.n_projections()
    joined, join = [], AcceleratedProjections.join

    def n_projections():
        return (task.reconstructor.validation.stage == "projections").sum()

    def join_and_tell(*arguments, **options):
        joined.append(n_projections())
        join(*arguments, **options)

    monkeypatch.setattr(AcceleratedProjections, "join", join_and_tell)
    task.run()
    n_done, n_alone = n_projections(), joined[0]
    if astigmatism == 0:
        assert own.noise_iteration + own.last_joint_iterations < n_done <= planned
    else:
        assert n_done > n_alone + own.held_out_wait + own.noise_iteration
        assert (n_alone == own.noise_iteration) == (astigmatism == 40)
        assert n_alone % own.noise_iteration == 0
        assert n_alone <= 100  # and then with the moduli, and with the likelihood
    target = Target(simulated.truth.object, "ground truth")
    error = target.error(object_of(task), scan, refined=True)
    assert error < (0.016 if astigmatism == 6 else 0.06)
    assert likeness(task.get_data_to_cpu("probe", as_numpy=True), simulated.truth.probe) > 0.99


@pytest.mark.slow
def test_the_object_does_not_follow_a_background_where_the_probe_can(monkeypatch):
    """The median error of seven seeds, beside that of taking whatever is predicted better."""
    errors = []
    for least_gain in (1 - start.STUCK, 0.0):
        monkeypatch.setattr(start, "STUCK", 1 - least_gain)
        for seed in range(7):
            simulated = scan_with(0.4, 3e4, seed)
            scan = astigmatic(simulated, 40)
            background = np.random.default_rng(seed).poisson(0.3, scan.patterns.shape)
            task = make_task(options_for(), replace(scan, patterns=scan.patterns + background))
            task.run()
            target = Target(simulated.truth.object, "ground truth")
            errors.append(target.error(object_of(task), scan, refined=True))
    assert np.median(errors[:7]) < 0.9 * np.median(errors[7:])


def test_without_held_out_pixels_all_of_them_tell_what_noise_is():
    simulated = scan_with(0.5, SCARCE, n_probe_modes=2)
    target = Target(simulated.truth.object, "ground truth")
    errors = []
    for held_out in (0.03, 0.0):
        options = options_for()
        options.reconstructor_options.validation.held_out = held_out
        options.reconstructor_options.start.total_variation = 0.0
        task = make_task(options, simulated.scan)
        task.run()
        errors.append(target.error(object_of(task), simulated.scan, refined=True))
    assert errors[1] < 1.2 * errors[0]
