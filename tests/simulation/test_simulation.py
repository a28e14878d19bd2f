"""The simulated scans: their physics, their statistics, their files."""

import sys

import h5py
import numpy as np
import ptychi.api as api
import ptychi.maths as pty_maths
import ptychi.utils as pty_utils
import pytest
import torch
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask
from pydantic import ValidationError

from ptychi_neural import simulation as sim
from ptychi_neural.simulation.probes import mixed_states, propagate

SMALL = sim.Raster(n_y=5, n_x=6)
"""A scan that is quick to simulate."""


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
    with h5py.File(tmp_path / "scan" / "diffraction.h5") as file:
        told, scan = file["patterns"].attrs, simulated.scan
        for side, n in (("height", scan.patterns.shape[1]), ("width", scan.patterns.shape[2])):
            size_m = scan.wavelength_m * scan.detector_distance_m / (n * scan.pixel_size_m)
            assert told[f"detector_pixel_{side}_m"] == pytest.approx(size_m)


def test_files_are_replaced_only_on_request(tmp_path):
    sim.write_simulation(small(), tmp_path)
    (tmp_path / "diffraction.h5").unlink()
    with pytest.raises(FileExistsError, match=r"product\.h5.*truth\.h5.*overwrite"):
        sim.write_simulation(small(), tmp_path)
    assert not (tmp_path / "diffraction.h5").exists()
    sim.write_simulation(small(seed=1), tmp_path, overwrite=True)
    with h5py.File(tmp_path / "diffraction.h5") as file:
        np.testing.assert_array_equal(file["dp"][()], small(seed=1).scan.patterns)


def test_a_guess_from_the_mean_pattern_knows_nothing_of_the_probe_but_its_modes():
    simulated = small(probe_guess="mean_pattern", n_probe_modes=2, dead_pixel_fraction=0.02)
    guess, mask = simulated.scan.probe[0], simulated.scan.valid_pixel_mask
    assert guess.shape == simulated.truth.probe[0].shape
    assert np.linalg.norm(guess) == pytest.approx(np.linalg.norm(simulated.truth.probe))
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(guess[0])))
    mean = simulated.scan.patterns.mean(0) * mask
    assert np.corrcoef(np.abs(far).ravel(), np.sqrt(mean).ravel())[0, 1] > 0.999
    assert np.abs(np.angle(far[mean > 0.1 * mean.max()])).max() < 1e-6
    with pytest.raises(ValueError, match="has no effect on the root"):
        small(probe_guess="mean_pattern", probe_defocus_error=0.3)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"frame_shape": (10**5, 10**5)}, "GiB .* lower frame_shape, scan or position_error_px"),
        ({"position_error_px": 1e308}, "inf x inf pixels .* lower"),
        ({"scan": {"kind": "raster", "step_px": 1e300}}, "lower frame_shape, scan"),
        ({"pixel_size_m": 1e308}, r"pixel_size_m = 1e\+308: give metres"),
        ({"wavelength_m": 1e-300}, "wavelength_m = 1e-300: give metres"),
        ({"detector_distance_m": np.inf}, "detector_distance_m = inf: give metres"),
        ({"object": {"kind": "dead_leaves", "smallest_radius_px": 1e-9}}, "raise smallest_radius"),
        (
            {"object": {"kind": "cells", "coverage": 1e9}},
            "lower coverage, or make the scan smaller",
        ),
        ({"probe": {"kind": "gaussian", "sigma_px": 1e-300}}, "simulation.probe: becomes NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_recipe_beyond_all_measure_is_refused_before_anything_is_drawn(recipe, message):
    with pytest.raises(ValueError, match=message):
        sim.simulate(sim.SimulationOptions.model_validate(recipe))


def test_frames_of_many_modes_are_computed_few_at_a_time_and_told(monkeypatch):
    told = []

    class Bar:
        def __init__(self, total, name):
            told.append((total, name))

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def update(self, n):
            told.append(n)

    options = sim.SimulationOptions(scan=SMALL, n_probe_modes=3)
    usual = sim.simulate(options)
    monkeypatch.setattr(
        sys.modules["ptychi_neural.simulation.simulate"], "MOST_AT_ONCE", 8 * 3 * 32 * 32
    )
    small_chunks = sim.simulate(options, Bar)
    assert told == [(30, "simulated frames"), 8, 8, 8, 6]
    np.testing.assert_array_equal(small_chunks.scan.patterns, usual.scan.patterns)
