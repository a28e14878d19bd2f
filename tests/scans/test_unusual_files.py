"""Files as people have them: without what a format asks for, in other units, on other axes."""

import os
import warnings

import h5py
import numpy as np
import pytest

from ptychi_neural.scans import load_scan, read_product, write_diffraction, write_product
from ptychi_neural.scans.preparation import Preparation

PIXEL_M, WAVELENGTH_M, DISTANCE_M = 1e-8, 1.4e-10, 2.0
GEOMETRY = {
    "wavelength_m": WAVELENGTH_M,
    "detector_distance_m": DISTANCE_M,
    "detector_pixel_size_m": WAVELENGTH_M * DISTANCE_M / (32 * PIXEL_M),
}


def load(*files, **keys):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*started the probe")
        return load_scan(*files, preparation=Preparation(**keys))


def centred(positions_px):
    return positions_px - (positions_px.max(axis=0) + positions_px.min(axis=0)) / 2


@pytest.fixture
def positions_m(simulated):
    return simulated().positions_px * PIXEL_M


def assert_same(scan, simulated):
    np.testing.assert_allclose(
        centred(scan.positions_px), centred(simulated().positions_px), atol=1e-6
    )
    np.testing.assert_array_equal(scan.patterns, simulated().counts)
    assert scan.pixel_size_m == pytest.approx(PIXEL_M)


def test_fold_slice_positions_alone_are_placed_by_the_geometry(tmp_path, simulated, positions_m):
    write_diffraction(tmp_path / "a_dp.hdf5", simulated().counts)
    with h5py.File(tmp_path / "a_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = 1e10 * positions_m.T
    with pytest.raises(ValueError, match=r"lacks the pixel size.*pixel_size_m"):
        load(tmp_path / "a_dp.hdf5")
    scan = load(tmp_path / "a_dp.hdf5", position_units="angstrom", **GEOMETRY)
    assert_same(scan, simulated)


@pytest.mark.parametrize(
    ("name", "unit", "factor"),
    [("units", "um", 1e6), ("unit", "micrometer", 1e6), ("units", "Angstrom", 1e10), ("", "", 1)],
)
def test_units_of_named_positions_are_read(tmp_path, simulated, positions_m, name, unit, factor):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = simulated().counts
        for axis, values in zip("yx", factor * positions_m.T):
            file[axis] = values
            if name:
                file[axis].attrs[name] = unit
    datasets = {"patterns": "frames", "y": "y", "x": "x"}
    assert_same(load(tmp_path / "a.h5", datasets=datasets, **GEOMETRY), simulated)


def test_archives_of_neither_counts_nor_their_roots_are_told(tmp_path, simulated):
    intensities = (0.37 * simulated().counts).astype(np.float32)
    y, x = simulated().positions_px.T
    np.savez(tmp_path / "a.npz", diffraction=intensities, ycoords=y, xcoords=x)
    with pytest.warns(UserWarning, match=r"neither counts.*datasets.patterns = 'diffraction'"):
        squared = load(tmp_path / "a.npz").patterns
    np.testing.assert_allclose(squared, intensities**2, rtol=1e-5)
    read = load(tmp_path / "a.npz", datasets={"patterns": "diffraction"})
    np.testing.assert_array_equal(read.patterns, intensities)
    assert read.known_pixel_size_m is None


@pytest.mark.parametrize("suffix", ["npy", "h5"])
def test_frames_on_the_last_axis_are_told(tmp_path, simulated, positions_m, suffix):
    stack = np.moveaxis(simulated().counts, 0, -1)
    if suffix == "npy":
        np.save(tmp_path / "a.npy", stack)
    else:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["dp"] = stack
    np.save(tmp_path / "at.npy", positions_m)
    with pytest.raises(ValueError, match="last axis is 100 long"):
        load(tmp_path / f"a.{suffix}", tmp_path / "at.npy", **GEOMETRY)


@pytest.mark.parametrize("shape", [(2, 100), (100, 3)])
def test_positions_of_another_shape_are_told(tmp_path, simulated, shape):
    np.save(tmp_path / "a.npy", simulated().counts)
    np.save(tmp_path / "at.npy", np.ones(shape))
    with pytest.raises(ValueError, match=r"at.npy holds .*write positions as \(n, 2\)"):
        load(tmp_path / "a.npy", tmp_path / "at.npy", **GEOMETRY)


def test_a_product_with_the_names_of_ptychodus_1_6_is_read(tmp_path, simulated):
    write_diffraction(tmp_path / "diffraction.h5", simulated().counts)
    write_product(tmp_path / "product.h5", simulated().scan())
    with h5py.File(tmp_path / "product.h5", "a") as file:
        for name in ("photon_energy_eV", "mass_attenuation_m2_per_kg", "far_field"):
            del file.attrs[name]
        del file["loss_epochs"], file["loss_values"], file["object_layer_spacing_m"]
        file["costs"], file["object_layer_spacing_m"] = [2.0, 1.0], [np.inf]
    scan = load(tmp_path / "diffraction.h5")
    assert_same(scan, simulated)
    assert scan.wavelength_m == pytest.approx(WAVELENGTH_M)


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "patterns.h5")
    with pytest.raises(ValueError, match="is a pipe or a device"):
        load_scan(tmp_path / "patterns.h5")


def test_complex_numbers_may_be_pairs_as_matlab_stores_them(tmp_path):
    probe = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).view(complex)[..., 0]
    pairs = np.empty(probe.shape, dtype=[("real", "f8"), ("imag", "f8")])
    pairs["real"], pairs["imag"] = probe.real, probe.imag
    with h5py.File(tmp_path / "a_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = np.arange(8.0).reshape(2, 1, 4) * 1e-7
        file["lambda"], file["dx"], file["probe"] = [[1e-10]], [[1e-8]], pairs
    read = read_product(tmp_path / "a_para.hdf5")
    np.testing.assert_array_equal(read.probe, probe[None])
    assert read.pixel_size_m == 1e-8
