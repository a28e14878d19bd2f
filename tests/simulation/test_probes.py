"""Simulated probes: their power, their size, their files."""

import h5py
import numpy as np
import pytest

from ptychi_neural import simulation as sim
from ptychi_neural.simulation.probes import mixed_states


@pytest.mark.parametrize("kind", [sim.Gaussian, sim.ZonePlate, sim.Aperture])
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
        sim.simulate(sim.SimulationOptions(probe=sim.ProbeFile(path=path)))


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
