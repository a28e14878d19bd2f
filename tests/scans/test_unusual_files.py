"""Files as people have them: without what a format asks for, in other units, on other axes."""

import os
import warnings

import h5py
import numpy as np
import pytest
import tifffile

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


@pytest.mark.parametrize("shape", [(100, 3), (100,)])
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


def test_rows_of_text_belong_to_the_frames_whose_numbers_they_tell(
    tmp_path, simulated, positions_m
):
    order = np.random.default_rng(0).permutation(len(positions_m))
    rows = np.column_stack([order + 1, positions_m[order] * 1e6])
    np.savetxt(tmp_path / "at.txt", rows, header="frame y_um x_um")
    np.save(tmp_path / "a.npy", simulated().counts)
    scan = load(tmp_path / "a.npy", tmp_path / "at.txt", **GEOMETRY)
    np.testing.assert_array_equal(scan.frame_indexes, order)
    np.testing.assert_array_equal(scan.patterns, simulated().counts[order])
    rows[0] = rows[1]
    np.savetxt(tmp_path / "at.txt", rows, header="frame y_um x_um")
    with pytest.raises(ValueError, match="numbers has other than distinct whole ones"):
        load(tmp_path / "a.npy", tmp_path / "at.txt", **GEOMETRY)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_spreadsheets_of_other_systems_are_read(tmp_path, simulated, positions_m, encoding):
    rows = "".join(f"{y:.12g},{x:.12g},\n" for y, x in positions_m * 1e6)
    text = f"samy (µm),samx (µm),\n{rows}# the end of the scan\n"
    (tmp_path / "at.csv").write_bytes(text.encode(encoding))
    np.save(tmp_path / "a.npy", simulated().counts)
    assert_same(load(tmp_path / "a.npy", tmp_path / "at.csv", **GEOMETRY), simulated)


@pytest.mark.parametrize("turned", [lambda p: p.T, lambda p: p.reshape(10, -1, 2)])
def test_positions_on_other_axes_are_read(tmp_path, simulated, positions_m, turned):
    np.save(tmp_path / "a.npy", simulated().counts)
    np.save(tmp_path / "at.npy", turned(positions_m))
    assert_same(load(tmp_path / "a.npy", tmp_path / "at.npy", **GEOMETRY), simulated)


def test_named_positions_may_be_columns_of_three(tmp_path, simulated, positions_m):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/frames"] = simulated().counts
        file["xyz"] = np.column_stack([positions_m[:, ::-1], positions_m[:, 0]])
    named = {"patterns": "/a/frames", "y": "xyz[:, 1]", "x": "xyz[:, 0]"}
    assert_same(load(tmp_path / "a.h5", datasets=named, **GEOMETRY), simulated)
    with pytest.raises(ValueError, match=r"columns of one: y = \"xyz\[:, 0\]\""):
        load(tmp_path / "a.h5", datasets=named | {"y": "xyz", "x": "xyz"}, **GEOMETRY)


def test_images_of_other_names_are_no_frames_and_the_number_that_counts_orders_them(
    tmp_path, simulated, positions_m
):
    (tmp_path / "images").mkdir()
    for i, frame in enumerate(simulated().counts):
        y, x = positions_m[i] * 1e9
        tifffile.imwrite(
            tmp_path / "images" / f"x{x:+.1f}_y{y:+.1f}_{i}.tif", frame.astype(np.uint16)
        )
    tifffile.imwrite(tmp_path / "images" / "dark.tif", np.ones((32, 32), np.uint16))
    np.savetxt(tmp_path / "at.txt", positions_m)
    with pytest.warns(UserWarning, match=r"dark\.tif left out; rename it"):
        scan = load(tmp_path / "images", tmp_path / "at.txt", **GEOMETRY)
    assert_same(scan, simulated)


def test_images_with_colours_are_refused(tmp_path, simulated, positions_m):
    images = np.zeros((len(positions_m), 32, 32, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", images, photometric="rgb")
    np.savetxt(tmp_path / "at.txt", positions_m)
    with pytest.raises(ValueError, match="images have colours; store counts in grey"):
        load(tmp_path / "a.tif", tmp_path / "at.txt", **GEOMETRY)


@pytest.mark.parametrize("names", [("A_DP.HDF5", "A_PARA.HDF5"), ("a_dp.h5", "a_para.hdf5")])
def test_pairs_are_found_in_capitals_and_with_other_suffixes(
    tmp_path, simulated, positions_m, names
):
    with h5py.File(tmp_path / names[0], "w") as file:
        file["dp"] = simulated().counts
    with h5py.File(tmp_path / names[1], "w") as file:
        file["ppY"], file["ppX"] = positions_m.T
        file["lambda"], file["dx"] = WAVELENGTH_M, PIXEL_M
    assert_same(load(tmp_path / names[0]), simulated)


def test_lengths_in_another_unit_than_metres_are_told(tmp_path, simulated, positions_m):
    np.save(tmp_path / "a.npy", simulated().counts)
    np.save(tmp_path / "at.npy", positions_m * 1e6)
    with pytest.raises(ValueError, match=r"set position_units of \[data\]"):
        load(tmp_path / "a.npy", tmp_path / "at.npy", **GEOMETRY)
    with pytest.raises(ValueError, match=r"wavelength_m = 1\.4: give metres"):
        load(tmp_path / "a.npy", tmp_path / "at.npy", wavelength_m=1.4, pixel_size_m=PIXEL_M)


def test_units_that_a_master_does_not_tell_are_doubted(tmp_path, simulated, positions_m):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/data/data"] = simulated().counts
        detector = file.create_group("entry/instrument/detector")
        detector["detector_distance"] = 1e3 * DISTANCE_M
        detector["x_pixel_size"] = 75.0
        detector["detectorSpecific/photon_energy"] = 8.9
    np.savetxt(tmp_path / "at.txt", positions_m)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        load_scan(tmp_path / "a.h5", tmp_path / "at.txt")
    texts = "\n".join(str(warning.message) for warning in told)
    assert "detector pixels: 75 m: the file has another unit" in texts
    assert "the detector's distance: 2000 m: the file has another unit" in texts
    assert "; set photon_energy_eV = 8900 of [data] if it is in keV" in texts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load(tmp_path / "a.h5", tmp_path / "at.txt", **GEOMETRY), simulated)


def test_translations_on_the_first_axis_are_read(tmp_path, simulated, positions_m):
    with h5py.File(tmp_path / "a.cxi", "w") as file:
        file["entry_1/data_1/data"] = simulated().counts
        moves = np.column_stack([positions_m[:, ::-1], 0 * positions_m[:, 0]])
        file["entry_1/sample_1/geometry_1/translation"] = moves.T
        file["entry_1/instrument_1/detector_1/distance"] = -DISTANCE_M
    scan = load(tmp_path / "a.cxi", pixel_size_m=PIXEL_M)
    assert_same(scan, simulated)
    assert scan.detector_distance_m == DISTANCE_M


def test_arrays_of_an_archive_of_no_known_names_are_told(tmp_path, simulated, positions_m):
    np.savez(tmp_path / "a.npz", intensity=simulated().counts, at=positions_m)
    with pytest.raises(ValueError, match=r"It holds 'at', 'intensity'\. Name them: data\.datasets"):
        load(tmp_path / "a.npz")
