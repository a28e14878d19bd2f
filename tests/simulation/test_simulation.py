"""The simulated scans: their physics, their statistics, their files."""

from typing import get_args

import h5py
import numpy as np
import ptychi.api as api
import ptychi.maths as pty_maths
import ptychi.utils as pty_utils
import pytest
import skimage.io
import torch
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask
from pydantic import ValidationError

from ptychi_neural import simulation as sim
from ptychi_neural.simulation.images import SampleImage
from ptychi_neural.simulation.probes import mixed_states, propagate

SMALL = sim.Raster(n_y=5, n_x=6)
"""A scan that is quick to simulate."""

MATERIALS = [sim.Lines, sim.DeadLeaves, sim.SiemensStar, sim.Cells]
OBJECTS = [*MATERIALS, sim.PublishedLines, sim.Natural]
PROBES = [sim.Gaussian, sim.ZonePlate, sim.Aperture]


def small(**changes: object) -> sim.SimulatedScan:
    return sim.simulate(sim.SimulationOptions(**{"scan": SMALL, **changes}))


def shifted(wave: NDArray, dy: float, dx: float) -> NDArray:
    """``wave`` moved by a fraction of a pixel towards larger y and x (Fourier shift theorem)."""
    fy, fx = np.fft.fftfreq(wave.shape[0])[:, None], np.fft.fftfreq(wave.shape[1])[None, :]
    return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-2j * np.pi * (fy * dy + fx * dx)))


def numpy_intensities(obj: NDArray, modes: NDArray, positions: NDArray) -> NDArray:
    """The forward model again, in numpy and with loops, for objects and probes of even sides."""
    (height, width), (h, w) = obj.shape, modes.shape[-2:]
    patterns = np.zeros((len(positions), h, w))
    for i, (y, x) in enumerate(positions):
        top = height // 2 - h // 2 + int(np.rint(y))
        left = width // 2 - w // 2 + int(np.rint(x))
        patch = obj[top : top + h, left : left + w]
        for j, mode in enumerate(modes):
            if j == 0:  # pty-chi moves the first mode only
                mode = shifted(mode, y - np.rint(y), x - np.rint(x))
            patterns[i] += np.abs(np.fft.fftshift(np.fft.fft2(mode * patch))) ** 2
    return patterns


# Physics


@pytest.mark.parametrize(
    "positions",
    [[[0, 0], [5, -3], [-6, 7], [2, 8]], [[0.3, -0.2], [4.7, -3.4], [-5.6, 7.1]]],
    ids=["whole pixels", "fractions of pixels"],
)
@pytest.mark.parametrize("n_modes", [1, 3])
def test_intensities_agree_with_an_independent_forward_model(positions, n_modes):
    obj = sim.DeadLeaves().build((40, 50), seed=1)
    modes = mixed_states(
        propagate(sim.Gaussian().build((16, 20)), 0.2), n_modes=n_modes, secondary_fraction=0.1
    )
    expected = numpy_intensities(obj, modes, np.array(positions, dtype=float))
    predicted = sim.predict_intensities(obj[None], modes[None], np.array(positions, dtype=float))
    np.testing.assert_allclose(predicted, expected, rtol=1e-7, atol=1e-9 * expected.max())


def test_truth_reproduces_its_own_patterns_to_the_last_photon():
    truth = small(position_error_px=0.5, n_probe_modes=2).truth
    predicted = sim.predict_intensities(truth.object, truth.probe, truth.positions_px)
    np.testing.assert_allclose(predicted, truth.patterns, rtol=1e-10)


def test_a_prism_moves_the_pattern_towards_its_phase_gradient():
    ramp = np.exp(2j * np.pi * 4 / 32 * np.arange(64))[None, :] * np.ones((64, 1))
    probe = sim.Gaussian().build((32, 32))
    pattern = sim.predict_intensities(ramp[None], probe[None], np.zeros((1, 2)))[0]
    y, x = np.indices(pattern.shape)
    centroid = [(axis * pattern).sum() / pattern.sum() for axis in (y, x)]
    np.testing.assert_allclose(centroid, [16, 20], atol=0.05)


@pytest.mark.parametrize("probe", [sim.Gaussian(), sim.ZonePlate(), sim.Aperture()])
def test_light_stays_on_the_detector_and_in_the_frame(probe):
    truth = small(probe=probe).truth
    for intensity in (np.abs(truth.probe[0, 0]) ** 2, truth.patterns.mean(axis=0)):
        assert intensity[2:-2, 2:-2].sum() > 0.97 * intensity.sum()
        assert intensity.max() < 0.2 * intensity.sum()


def test_lsqml_recovers_the_default_object_with_the_probe_known():
    simulated = sim.simulate(sim.SimulationOptions())
    scan, true_object = simulated.scan, simulated.truth.object[0]
    options = api.LSQMLOptions()
    options.reconstructor_options.num_epochs = 15
    options.reconstructor_options.batch_size = 50
    options.reconstructor_options.default_device = api.Devices.CPU
    options.reconstructor_options.random_seed = 0
    options.probe_options.optimizable = False
    task = PtychographyTask(
        options,
        diffraction_data=scan.patterns.astype(np.float32),
        object_data=scan.object,
        probe_data=scan.probe,
        probe_position_y_px=scan.positions_px[:, 0],
        probe_position_x_px=scan.positions_px[:, 1],
    )
    task.run()
    scanned = (slice(20, -20),) * 2
    found, truth = task.get_data_to_cpu("object", as_numpy=True)[0][scanned], true_object[scanned]
    found = found * np.vdot(found, truth) / np.vdot(found, found)
    assert np.linalg.norm(found - truth) < 0.15 * np.linalg.norm(truth)


# Statistics


@pytest.mark.parametrize("dose", [1e3, 1e7])
def test_mean_counts_per_frame_are_the_dose(dose):
    simulated = small(photons_per_frame=dose)
    counts = simulated.scan.patterns.sum(axis=(1, 2))
    assert simulated.truth.patterns.sum(axis=(1, 2)).mean() == pytest.approx(dose, rel=1e-12)
    assert counts.mean() == pytest.approx(dose, abs=5 * np.sqrt(dose / len(counts)))
    assert np.issubdtype(simulated.scan.patterns.dtype, np.unsignedinteger)


@pytest.mark.parametrize("read_noise", [0.0, 4.0])
def test_counts_have_poisson_and_read_noise_variance(read_noise):
    simulated = small(photons_per_frame=1e6, read_noise_counts=read_noise)
    bright = simulated.truth.patterns > 400
    expected = simulated.truth.patterns[bright]
    residual = simulated.scan.patterns[bright] - expected
    chi_squared = residual**2 / (expected + read_noise**2)
    assert bright.sum() > 3000
    assert chi_squared.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / bright.sum()))


def test_read_noise_never_makes_counts_negative():
    patterns = small(photons_per_frame=1e3, read_noise_counts=3.0).scan.patterns
    assert patterns.min() == 0
    assert np.issubdtype(patterns.dtype, np.floating)


@pytest.mark.parametrize("read_noise", [0.0, 4.0])
def test_dead_pixels_read_zero_and_are_masked(read_noise):
    scan = small(dead_pixel_fraction=0.05, read_noise_counts=read_noise).scan
    assert (~scan.valid_pixel_mask).sum() == round(0.05 * 32 * 32)
    assert not scan.patterns[:, ~scan.valid_pixel_mask].any()
    assert scan.patterns[:, scan.valid_pixel_mask].any()


def test_a_detector_without_faults_has_no_mask():
    assert small().scan.valid_pixel_mask is None


def test_same_seed_gives_the_same_data_and_another_seed_other_data():
    options = {"dead_pixel_fraction": 0.02, "position_error_px": 0.3, "read_noise_counts": 1.0}
    first, again, other = small(**options), small(**options), small(**options, seed=1)
    for a, b, c in (
        (first.scan.patterns, again.scan.patterns, other.scan.patterns),
        (first.scan.positions_px, again.scan.positions_px, other.scan.positions_px),
        (first.truth.positions_px, again.truth.positions_px, other.truth.positions_px),
        (first.scan.valid_pixel_mask, again.scan.valid_pixel_mask, other.scan.valid_pixel_mask),
    ):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    np.testing.assert_array_equal(first.truth.object, again.truth.object)


def test_another_noise_seed_exposes_the_same_scan_again():
    once, again = (small(noise_seed=seed, dead_pixel_fraction=0.05) for seed in (0, 1))
    valid = once.scan.valid_pixel_mask
    np.testing.assert_array_equal(once.truth.patterns, again.truth.patterns)
    np.testing.assert_array_equal(valid, again.scan.valid_pixel_mask)
    noise, other = ((s.scan.patterns - s.truth.patterns)[:, valid].ravel() for s in (once, again))
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.05


def test_another_dose_leaves_object_and_positions_as_they_are():
    low, high = small(photons_per_frame=1e2).truth, small(photons_per_frame=1e6).truth
    np.testing.assert_array_equal(low.object, high.object)
    np.testing.assert_array_equal(low.positions_px, high.positions_px)
    np.testing.assert_allclose(high.probe, 100 * low.probe)


# The starting point


def test_nominal_positions_scatter_around_the_true_ones():
    simulated = small(scan=sim.Raster(), position_error_px=0.5)
    errors = simulated.scan.positions_px - simulated.truth.positions_px
    assert errors.std() == pytest.approx(0.5, rel=0.1)
    assert np.abs(errors.mean(axis=0)).max() < 0.1


def test_without_errors_the_start_knows_probe_and_positions_but_not_the_object():
    simulated = small()
    np.testing.assert_array_equal(simulated.scan.positions_px, simulated.truth.positions_px)
    np.testing.assert_array_equal(simulated.scan.probe, simulated.truth.probe)
    assert (simulated.scan.object == 1).all()
    assert simulated.scan.object.shape == simulated.truth.object.shape


def test_a_defocus_error_spoils_the_probe_guess_but_keeps_its_power():
    simulated = small(probe_defocus_error=0.2)
    guess, truth = simulated.scan.probe[0, 0], simulated.truth.probe[0, 0]
    assert np.linalg.norm(guess) == pytest.approx(np.linalg.norm(truth))
    overlap = abs(np.vdot(guess, truth)) / np.linalg.norm(truth) ** 2
    assert 0.5 < overlap < 0.99


@pytest.mark.parametrize("frame_shape", [(32, 32), (24, 36), (31, 33)])
def test_every_patch_lies_within_the_object(frame_shape, caplog):
    simulated = small(frame_shape=frame_shape, position_error_px=2.0)
    scan = simulated.scan
    sim.predict_intensities(scan.object, scan.probe, scan.positions_px)
    assert simulated.scan.patterns.shape == (30, *frame_shape)
    assert "pad the image" not in caplog.text


# Objects


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_follow_their_seed_and_shape(kind):
    build = kind().build
    obj = build((140, 150), 3)
    assert obj.shape == (140, 150)
    assert np.isfinite(obj).all()
    np.testing.assert_array_equal(obj, build((140, 150), 3))
    assert not np.allclose(obj, build((140, 150), 4))


@pytest.mark.parametrize("kind", MATERIALS)
def test_objects_fill_the_ranges_asked_for(kind):
    obj = kind(amplitude_range=(0.3, 0.8), phase_range=(-0.5, 2.0)).build((96, 80), 0)
    assert (np.abs(obj).min(), np.abs(obj).max()) == pytest.approx((0.3, 0.8))
    assert (np.angle(obj).min(), np.angle(obj).max()) == pytest.approx((-0.5, 2.0))


@pytest.mark.parametrize("kind", MATERIALS)
def test_amplitude_and_phase_are_correlated_but_not_the_same(kind):
    obj = kind().build((128, 128), 0)
    correlation = np.corrcoef(np.abs(obj).ravel(), np.angle(obj).ravel())[0, 1]
    assert -0.99 < correlation < -0.5


def test_published_lines_have_the_published_phase_and_scale():
    obj = sim.PublishedLines(patch_shape=(32, 32)).build((80, 90), 0)
    amplitude, phase = np.abs(obj), np.angle(obj)
    expected = np.pi * np.tanh((amplitude - amplitude.max() / 2) / (3 * amplitude.mean()))
    np.testing.assert_allclose(phase, expected, rtol=1e-10)
    maxima = [
        amplitude[y : y + 32, x : x + 32].max() for y in range(80 - 31) for x in range(90 - 31)
    ]
    assert np.mean(maxima) == pytest.approx(1)


def test_published_lines_need_room_for_a_patch():
    with pytest.raises(ValueError, match="smaller than patch_shape"):
        sim.PublishedLines().build((100, 140), 0)


def test_image_pair_maps_black_and_white_to_the_ends_of_the_ranges(tmp_path):
    rows = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[:, None], 60, axis=1)
    skimage.io.imsave(tmp_path / "rows.png", rows, check_contrast=False)
    skimage.io.imsave(tmp_path / "columns.png", rows.T, check_contrast=False)
    obj = sim.ImagePair(
        amplitude_image=tmp_path / "rows.png",
        phase_image=tmp_path / "columns.png",
        phase_range=(0.0, 1.5),
    ).build((20, 20), 0)
    amplitude, phase = np.abs(obj), np.angle(obj)
    np.testing.assert_allclose(amplitude[[0, -1]], [[0.6] * 20, [1.0] * 20])
    np.testing.assert_allclose(phase[:, [0, -1]], [[0.0, 1.5]] * 20, atol=1e-12)
    assert np.ptp(amplitude, axis=1).max() < 1e-6


def test_natural_objects_are_parts_of_two_images_that_the_seed_chooses():
    once, again, other = (sim.Natural().build((30, 40), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).mean() > 0.1
    assert (np.abs(once).min(), np.abs(once).max()) == pytest.approx((0.6, 1.0))
    assert (np.angle(once).min(), np.angle(once).max()) == pytest.approx((-1.0, 1.0))
    similarity = np.corrcoef(np.abs(once).ravel(), np.angle(once).ravel())[0, 1]
    assert abs(similarity) < 0.5
    other_phase = sim.Natural(phase_image="moon").build((30, 40), 1)
    np.testing.assert_allclose(np.abs(once), np.abs(other_phase))
    assert np.abs(np.angle(once) - np.angle(other_phase)).mean() > 0.1


@pytest.mark.parametrize("name", get_args(SampleImage))
def test_every_sample_image_comes_with_scikit_image(name):
    assert np.ptp(np.abs(sim.Natural(amplitude_image=name).build((16, 16), 0))) > 0.3


def test_image_pair_says_which_image_is_wrong(tmp_path):
    skimage.io.imsave(tmp_path / "ok.png", np.eye(8, dtype=np.uint8) * 255, check_contrast=False)
    skimage.io.imsave(tmp_path / "flat.png", np.full((8, 8), 9, np.uint8), check_contrast=False)

    def pair(amplitude: str, phase: str) -> sim.ImagePair:
        return sim.ImagePair(amplitude_image=tmp_path / amplitude, phase_image=tmp_path / phase)

    with pytest.raises(FileNotFoundError, match="amplitude_image: there is no file"):
        pair("absent.png", "ok.png").build((8, 8), 0)
    with pytest.raises(ValueError, match=r"phase_image: .*contrast"):
        pair("ok.png", "flat.png").build((8, 8), 0)


# Probes


@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("shape", [(32, 32), (64, 48)])
def test_probes_have_unit_power_a_curved_phase_and_their_centre_in_the_middle(kind, shape):
    probe = kind().build(shape)
    intensity = np.abs(probe[0]) ** 2
    y, x = np.indices(shape)
    assert probe.shape == (1, *shape)
    assert intensity.sum() == pytest.approx(1)
    assert (y * intensity).sum() == pytest.approx(shape[0] // 2, abs=0.3)
    assert (x * intensity).sum() == pytest.approx(shape[1] // 2, abs=0.3)
    bright = np.angle(probe[0][intensity > 0.05 * intensity.max()])
    assert np.ptp(bright) > 0.5


def test_a_defocused_gaussian_spreads_as_the_paraxial_formula_says():
    n, sigma, defocus = 64, 1.5, 0.5
    probe = sim.Gaussian(sigma_px=sigma, defocus=defocus).build((n, n))
    intensity = np.abs(probe[0]) ** 2
    y = np.arange(n)[:, None] - n // 2
    expected = sigma * np.sqrt(1 + (n * defocus / (4 * np.pi * sigma**2)) ** 2)
    assert np.sqrt((y**2 * intensity).sum()) == pytest.approx(expected, rel=1e-3)


def test_a_zone_plate_lights_a_ring_of_the_detector():
    far = np.abs(np.fft.fftshift(np.fft.fft2(sim.ZonePlate().build((64, 64))[0]))) ** 2
    y, x = np.indices(far.shape) - 32
    radius = np.hypot(y, x)
    ring = (radius > 0.5 * 0.35 * 32 - 2) & (radius < 0.5 * 32 + 2)
    assert far[ring].sum() > 0.9999 * far.sum()


def test_mixed_states_share_the_power_as_asked():
    modes = mixed_states(sim.Gaussian().build((32, 32)), n_modes=4, secondary_fraction=0.08)
    powers = (np.abs(modes) ** 2).sum(axis=(-2, -1))
    np.testing.assert_allclose(powers, [0.76, 0.08, 0.08, 0.08], rtol=1e-6)
    np.testing.assert_allclose(
        modes[0] / np.linalg.norm(modes[0]), sim.Gaussian().build((32, 32))[0], atol=1e-12
    )


def test_mixed_states_leave_power_for_the_first_mode():
    with pytest.raises(ValueError, match="leaves no power for the first"):
        mixed_states(sim.Gaussian().build((32, 32)), n_modes=6, secondary_fraction=0.2)


def test_a_probe_comes_from_numpy_and_hdf5_files(tmp_path):
    probe = 7 * mixed_states(sim.Gaussian().build((32, 32)), n_modes=2, secondary_fraction=0.1)
    np.save(tmp_path / "probe.npy", probe[0])
    with h5py.File(tmp_path / "product.h5", "w") as file:
        file["group/probe"] = probe[None]
    single = sim.ProbeFile(path=tmp_path / "probe.npy").build((32, 32))
    both = sim.ProbeFile(path=tmp_path / "product.h5", dataset="group/probe").build((32, 32))
    np.testing.assert_allclose(single[0], probe[0] / np.linalg.norm(probe[0]))
    np.testing.assert_allclose(both, probe / np.linalg.norm(probe))


def test_an_unfit_probe_file_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "probe.h5"
    with h5py.File(path, "w") as file:
        file["probe"] = np.ones((16, 16), complex)
        file["dark"] = np.zeros((16, 16), complex)
    with pytest.raises(FileNotFoundError, match="no probe file"):
        sim.ProbeFile(path=tmp_path / "absent.h5").build((16, 16))
    with pytest.raises(KeyError, match="no dataset 'lamp'"):
        sim.ProbeFile(path=path, dataset="lamp").build((16, 16))
    with pytest.raises(ValueError, match="no light"):
        sim.ProbeFile(path=path, dataset="dark").build((16, 16))
    with pytest.raises(ValueError, match=r"set frame_shape = \[16, 16\]"):
        small(probe=sim.ProbeFile(path=path))


def test_the_published_probe_is_a_measured_one_with_the_parabola_of_its_phase(tmp_path):
    y, x = np.arange(16)[:, None] - 8, np.arange(20)[None, :] - 10
    r2 = (y**2 + x**2).astype(float)
    amplitude = np.exp(-r2 / 50) + 0.1
    measured = amplitude * np.exp(1j * (0.02 * r2 - 0.7))
    np.save(tmp_path / "probe.npy", np.stack([measured, np.ones_like(measured)]))
    published = sim.PublishedProbe(path=tmp_path / "probe.npy")
    probe = published.build((32, 40))[0]
    assert np.linalg.norm(probe) == pytest.approx(1)
    # Smoothing changes little where the phase is slow.
    middle = probe[16 - 4 : 16 + 5, 20 - 4 : 20 + 5] / measured[8 - 4 : 8 + 5, 10 - 4 : 10 + 5]
    np.testing.assert_allclose(middle / middle.mean(), 1, atol=0.03)
    y, x = np.arange(32)[:, None] - 16, np.arange(40)[None, :] - 20
    turned = probe * np.exp(-0.02j * (y**2 + x**2))
    assert np.ptp(np.angle(turned[10:-10, 10:-10])) < 0.05
    left = np.abs(probe[14:18, 4:8])  # Padded with the edge.
    assert np.ptp(left, axis=1).max() < 0.05 * left.mean()
    with pytest.raises(ValueError, match=r"the probe in .* is \(16, 20\)"):
        published.build((16, 16))


def test_an_object_comes_from_the_middle_of_a_file(tmp_path):
    whole = np.arange(70).reshape(7, 10) * np.exp(0.3j)
    np.save(tmp_path / "object.npy", whole)
    with h5py.File(tmp_path / "product.h5", "w") as file:
        file["object"] = whole[None]
        file["slices"] = np.stack([whole, whole])
    for name in ("object.npy", "product.h5"):
        found = sim.ObjectFile(path=tmp_path / name).build((3, 4), 0)
        np.testing.assert_array_equal(found, whole[2:5, 3:7])
    with pytest.raises(ValueError, match=r"one slice of at least \(8, 4\)"):
        sim.ObjectFile(path=tmp_path / "product.h5").build((8, 4), 0)
    with pytest.raises(ValueError, match="one slice"):
        sim.ObjectFile(path=tmp_path / "product.h5", dataset="slices").build((3, 4), 0)


def test_a_scan_is_simulated_of_the_object_in_a_file(tmp_path):
    kind = sim.ObjectFile(path=tmp_path / "object.npy")
    np.save(kind.path, sim.Cells().build((200, 200), 3))
    simulated = small(object=kind)
    shape = simulated.truth.object.shape[-2:]
    np.testing.assert_allclose(simulated.truth.object[0], kind.build(shape, 0))


# Scans


@pytest.mark.parametrize(
    "scan",
    [
        sim.Raster(n_y=4, n_x=5, step_px=3, jitter_px=1),
        sim.FermatSpiral(n=50, step_px=3),
        sim.Concentric(n_rings=4, step_px=3, n_first_ring=5),
        sim.Line(n=9, step_px=2, angle_deg=30),
    ],
)
def test_scans_are_centred(scan):
    positions = scan.build(0)
    np.testing.assert_allclose(positions.min(axis=0), -positions.max(axis=0), atol=1e-9)


def test_a_raster_is_y_first_and_x_fast():
    positions = sim.Raster(n_y=2, n_x=3, step_px=4, jitter_px=0).build(0)
    expected = [[-2, -4], [-2, 0], [-2, 4], [2, -4], [2, 0], [2, 4]]
    np.testing.assert_array_equal(positions, expected)


def test_jitter_stays_within_its_limit():
    moved = sim.Raster(n_y=30, n_x=30, step_px=4, jitter_px=1).build(0)
    moved -= sim.Raster(n_y=30, n_x=30, step_px=4, jitter_px=0).build(0)
    extent = np.ptp(moved, axis=0)
    assert ((extent > 1.9) & (extent <= 2)).all()


def test_a_fermat_spiral_gives_each_point_its_share_of_the_area():
    positions = sim.FermatSpiral(n=2000, step_px=3).build(0)
    inside = np.hypot(*positions.T) < 45
    assert inside.sum() == pytest.approx(np.pi * 45**2 / 9, rel=0.02)


def test_rings_have_equal_spacing_and_more_points_outwards():
    rings = sim.Concentric(n_rings=3, step_px=2, n_first_ring=6)
    radius = np.hypot(*rings.build(0).T)
    np.testing.assert_allclose(np.sort(radius), np.repeat([0, 2, 4, 6], [1, 6, 12, 18]), atol=1e-9)


def test_a_line_runs_from_the_x_axis_towards_the_y_axis():
    positions = sim.Line(n=3, step_px=2, angle_deg=90).build(0)
    np.testing.assert_allclose(positions, [[-2, 0], [0, 0], [2, 0]], atol=1e-12)


# Options, state and files


def test_the_defaults_are_the_small_standard_scan():
    options = sim.SimulationOptions()
    assert options.build_positions(0).shape == (400, 2)
    assert (options.frame_shape, options.photons_per_frame) == ((32, 32), 1e5)
    assert options.object.kind == "dead_leaves"


def test_options_survive_json():
    options = sim.SimulationOptions(
        object=sim.Cells(radius_px=9), probe=sim.ZonePlate(), scan=sim.Line(n=5), seed=4
    )
    assert sim.SimulationOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"photons": 1e4}, r"photons\n.*Extra inputs are not permitted"),
        ({"object": {"kind": "lines", "radius_px": 3}}, "radius_px"),
        ({"object": {"kind": "clouds"}}, "'dead_leaves', 'siemens_star'"),
        ({"object": {"kind": "cells", "phase_range": [1, -1]}}, "must be .smallest, largest."),
        ({"photons_per_frame": 0}, "greater than 0"),
        ({"photons_per_frame": float("nan")}, "photons_per_frame"),
        ({"dead_pixel_fraction": 1.0}, "less than 1"),
        ({"probe": {"kind": "aperture", "radius": 0.6}}, "less than 0.5"),
        ({"probe": {"kind": "gaussian", "defocus": 0}, "probe_defocus_error": 0.1}, "leave it"),
        ({"probe": {"kind": "file", "path": "p.npy"}, "probe_defocus_error": 0.1}, "leave it"),
        ({"object": {"kind": "image_pair"}}, "amplitude_image\n.*required"),
    ],
)
def test_bad_options_are_refused_by_name(table, message):
    with pytest.raises(ValidationError, match=message):
        sim.SimulationOptions.model_validate(table)


def test_radii_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="smallest_radius_px = 30"):
        sim.DeadLeaves(smallest_radius_px=30).build((64, 64), 0)


def test_simulating_leaves_global_state_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    states = (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002

    def defaults() -> tuple:
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            pty_utils.get_default_complex_dtype(),
            pty_maths.get_use_double_precision_for_fft(),
        )

    before = defaults()
    small(n_probe_modes=2)
    assert defaults() == before
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_double_precision_is_independent_of_the_callers_defaults():
    expected = small().truth.patterns
    torch.set_default_dtype(torch.float16)
    try:
        np.testing.assert_array_equal(small().truth.patterns, expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_files_hold_the_data_the_start_and_the_truth(tmp_path):
    simulated = small(position_error_px=0.3, dead_pixel_fraction=0.01)
    sim.write_simulation(simulated, tmp_path / "scan")
    with h5py.File(tmp_path / "scan" / "diffraction.h5") as file:
        np.testing.assert_array_equal(file["dp"][()], simulated.scan.patterns)
    for name, scan in (("product.h5", simulated.scan), ("truth.h5", simulated.truth)):
        with h5py.File(tmp_path / "scan" / name) as file:
            np.testing.assert_allclose(file["object"][()], scan.object, rtol=1e-6)
            np.testing.assert_allclose(file["probe"][()], scan.probe, rtol=1e-6)
            y_px = file["probe_position_y_m"][()] / scan.pixel_size_m
            assert np.ptp(y_px) == pytest.approx(np.ptp(scan.positions_px[:, 0]))


def test_files_are_replaced_only_on_request(tmp_path):
    sim.write_simulation(small(), tmp_path)
    (tmp_path / "diffraction.h5").unlink()
    with pytest.raises(FileExistsError, match=r"product\.h5.*truth\.h5.*overwrite"):
        sim.write_simulation(small(), tmp_path)
    assert not (tmp_path / "diffraction.h5").exists()
    sim.write_simulation(small(seed=1), tmp_path, overwrite=True)
    with h5py.File(tmp_path / "diffraction.h5") as file:
        np.testing.assert_array_equal(file["dp"][()], small(seed=1).scan.patterns)
