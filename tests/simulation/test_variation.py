"""Scans whose probe or beam changes from frame to frame, and objects of several slices."""

import numpy as np
import pytest
import torch
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural import simulation as sim
from ptychi_neural.scans import load_scan
from ptychi_neural.simulation.probes import propagate

SMALL = sim.Raster(n_y=5, n_x=6)
MOTIONS = ("shift_y", "shift_x", "tilt_y", "tilt_x", "defocus")


def small(**changes):
    return sim.simulate(sim.SimulationOptions(**{"scan": SMALL, **changes}))


def moved(probe, motion, amount):
    """The (h, w) probe after a small motion, each computed another way than by a derivative."""
    y, x = (np.arange(n) - n // 2 for n in probe.shape)
    if motion == "defocus":
        return propagate(probe[None], amount)[0]
    if motion.startswith("tilt"):
        return probe * np.exp(1j * amount * (y[:, None] if motion == "tilt_y" else x[None, :]))
    axis = 0 if motion == "shift_y" else 1
    q = np.fft.fftfreq(probe.shape[axis])
    ramp = np.exp(-2j * np.pi * q * amount)
    return np.fft.ifft(
        np.fft.fft(probe, axis=axis) * (ramp[:, None] if axis == 0 else ramp), axis=axis
    )


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_is_what_its_mode_adds_to_the_probe(motion):
    truth = small(probe_variation={"motions": [motion]}).truth
    main, mode = truth.probe[:, 0]
    rest = []
    for amount in (1e-2, 1e-3):
        change = moved(main, motion, amount) - main
        size = np.linalg.norm(change)
        for known in (main, mode):
            change = change - known * np.vdot(known, change) / np.vdot(known, known)
        rest.append(np.linalg.norm(change) / size)
    assert rest[1] < 0.01
    assert rest[1] == pytest.approx(rest[0] / 10, rel=0.2)  # what is left is of second order


def test_modes_are_orthogonal_and_their_weights_have_the_asked_size():
    variation = sim.ProbeVariation(motions=MOTIONS, rms=0.3)
    options = sim.SimulationOptions(probe_variation=variation, n_probe_modes=2)
    truth = sim.simulate(options).truth
    modes, weights = truth.probe[:, 0].reshape(6, -1), truth.opr_mode_weights
    gram = modes @ modes.conj().T / modes.shape[1]
    np.testing.assert_allclose(gram[1:, 1:], np.eye(5), atol=1e-9)
    assert np.abs(gram[0, 1:]).max() < 1e-9 * np.sqrt(gram[0, 0].real)
    assert not truth.probe[1:, 1].any()
    assert (weights[:, 0] == 1).all()
    rms = np.sqrt((weights[:, 1:] ** 2).sum(axis=1).mean() / gram[0, 0].real)
    assert rms == pytest.approx(0.3, rel=0.1)


def test_patterns_are_those_of_the_probe_of_each_frame():
    truth = small(probe_variation={}, n_probe_modes=2, photons_per_frame=1e4).truth
    assert truth.patterns.sum(axis=(1, 2)).mean() == pytest.approx(1e4, rel=1e-12)
    for k in (0, 17):
        own = truth.probe[0].copy()
        own[0] = np.tensordot(truth.opr_mode_weights[k], truth.probe[:, 0], 1)
        alone = sim.predict_intensities(truth.object, own[None], truth.positions_px[[k]])
        np.testing.assert_allclose(truth.patterns[[k]], alone, rtol=1e-9, atol=1e-9)
    still = sim.predict_intensities(truth.object, truth.probe[:1], truth.positions_px)
    assert np.linalg.norm(still - truth.patterns) > 0.05 * np.linalg.norm(truth.patterns)


def test_the_guess_knows_nothing_of_the_variation_and_repeats():
    torch.manual_seed(5)
    options = sim.SimulationOptions(scan=SMALL, probe_variation={})
    scan, again = sim.simulate(options).scan, sim.simulate(options).scan
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    np.testing.assert_array_equal(scan.probe, again.probe)
    np.testing.assert_array_equal(scan.opr_mode_weights, again.opr_mode_weights)
    truth = sim.simulate(options).truth
    np.testing.assert_array_equal(scan.probe[0], truth.probe[0])
    for guessed, true in zip(scan.probe[1:, 0], truth.probe[1:, 0]):
        assert np.mean(np.abs(guessed) ** 2) == pytest.approx(1)
        assert abs(np.vdot(guessed, true)) < 0.2 * np.vdot(true, true).real
    assert (scan.opr_mode_weights[:, 0] == 1).all()
    assert 0 < np.abs(scan.opr_mode_weights[:, 1:]).max() < 1e-4
    assert not np.array_equal(scan.probe[1:], small(probe_variation={}, seed=1).scan.probe[1:])


def test_a_motion_that_is_given_twice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"motions: tilt_y does not change .* beside tilt_y"):
        small(probe_variation={"motions": ["tilt_y", "tilt_y"]})


def test_a_beam_that_varies_scales_every_frame_and_is_not_told():
    still, varied = (
        sim.simulate(sim.SimulationOptions(beam_variation=v, n_probe_modes=2)) for v in (0, 0.3)
    )
    beam = varied.truth.patterns / still.truth.patterns
    assert np.ptp(beam, axis=(1, 2)).max() < 1e-9
    beam = beam[:, 0, 0]
    assert beam.std() / beam.mean() == pytest.approx(0.3, abs=0.05)
    assert varied.truth.patterns.sum(axis=(1, 2)).mean() == pytest.approx(1e5)
    photons = varied.truth.probe_photon_counts
    np.testing.assert_allclose(photons / photons.mean(), beam / beam.mean(), rtol=1e-9)
    np.testing.assert_array_equal(varied.truth.object, still.truth.object)
    np.testing.assert_array_equal(varied.truth.positions_px, still.truth.positions_px)
    assert varied.scan.probe_photon_counts is None
    assert varied.scan.opr_mode_weights is None


def test_photons_before_the_sample_are_those_that_an_empty_object_lets_through():
    truth = small(beam_variation=0.3, probe_variation={}, n_probe_modes=2).truth
    empty = sim.predict_intensities(
        np.ones_like(truth.object), truth.probe, truth.positions_px, truth.opr_mode_weights
    ).sum(axis=(1, 2))
    ratio = truth.probe_photon_counts / empty  # the beam of each frame relative to its mean
    assert ratio.mean() == pytest.approx(1, rel=1e-9)
    assert ratio.std() > 0.1


def multislice_intensities(truth, positions):
    options = PtychographyTaskOptions()
    options.object_options.pixel_size_m = truth.pixel_size_m
    options.object_options.slice_spacings_m = truth.slice_spacings_m.tolist()
    options.data_options.wavelength_m = truth.wavelength_m
    return sim.predict_intensities(truth.object, truth.probe, positions, options=options)[0]


def test_slices_agree_with_an_independent_multislice_model():
    spacing = 2e-5
    truth = small(n_slices=3, slice_spacing_m=spacing, n_probe_modes=2).truth
    assert truth.object.shape[0] == 3
    assert truth.slice_spacings_m.tolist() == [spacing, spacing]
    assert not np.allclose(truth.object[0], truth.object[1])
    h, w = truth.patterns.shape[1:]
    qy, qx = (np.fft.fftfreq(n, truth.pixel_size_m) for n in (h, w))
    fresnel = np.exp(
        -1j * np.pi * truth.wavelength_m * spacing * (qy[:, None] ** 2 + qx[None, :] ** 2)
    )
    height, width = truth.object.shape[1:]
    for y, x in np.rint(truth.positions_px[:4]):  # pty-chi shifts the first mode by the rest
        top, left = (int(n // 2 - m // 2 + p) for n, m, p in ((height, h, y), (width, w, x)))
        wave = truth.probe[0]
        for number, piece in enumerate(truth.object[:, top : top + h, left : left + w]):
            if number:
                wave = np.fft.ifft2(np.fft.fft2(wave) * fresnel)
            wave = wave * piece
        expected = (np.abs(np.fft.fftshift(np.fft.fft2(wave), axes=(1, 2))) ** 2).sum(axis=0)
        own = multislice_intensities(truth, np.array([[y, x]]))
        np.testing.assert_allclose(own, expected, rtol=1e-2, atol=1e-3 * expected.max())


def test_everything_is_in_the_files(tmp_path):
    simulated = small(n_slices=2, beam_variation=0.2, probe_variation={"rms": 0.1})
    sim.write_simulation(simulated, tmp_path)
    for name, scan in (("product.h5", simulated.scan), ("truth.h5", simulated.truth)):
        read = load_scan(tmp_path / "diffraction.h5", tmp_path / name)
        np.testing.assert_allclose(read.opr_mode_weights, scan.opr_mode_weights)
        np.testing.assert_allclose(read.slice_spacings_m, scan.slice_spacings_m)
        np.testing.assert_allclose(read.probe, scan.probe, rtol=1e-5)
        assert read.object.shape == scan.object.shape
    assert (read.probe_photon_counts is None) == (simulated.truth.probe_photon_counts is None)


def test_options_of_variation_survive_json():
    options = sim.SimulationOptions(
        probe_variation={"motions": ["shift_x"]}, beam_variation=0.3, n_slices=2
    )
    assert sim.SimulationOptions.model_validate_json(options.model_dump_json()) == options
