"""TIFF, EMD and files of electron cameras, written by published packages where possible."""

import sys

import h5py
import numpy as np
import pytest
import tifffile

from dm4_files import write_dm4
from ptychi_neural.scans import load_scan, read_diffraction, read_product
from ptychi_neural.scans.preparation import Preparation


@pytest.fixture
def cube():
    """3 x 4 positions of 16 x 14 pixels, whose axes cannot be taken for each other."""
    return np.random.default_rng(0).poisson(20, (3, 4, 16, 14)).astype(np.uint16)


def frames(cube):
    return cube.reshape(-1, *cube.shape[-2:])


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"bigtiff": True, "byteorder": ">"}]
)
def test_tiff_stacks_are_read(tmp_path, cube, options):
    tifffile.imwrite(tmp_path / "a.tif", frames(cube), **options)
    read = read_diffraction(tmp_path / "a.tif", [3, 1, 7]).patterns
    np.testing.assert_array_equal(read, frames(cube)[[3, 1, 7]])
    assert read.dtype == np.uint16


def test_tiff_pages_that_are_no_series_and_folders_are_read(tmp_path, cube):
    (tmp_path / "frames").mkdir()
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for i, frame in enumerate(frames(cube)):
            file.write(frame, contiguous=False)
            tifffile.imwrite(tmp_path / "frames" / f"scan_{i}.tif", frame)
    for name in ("a.tif", "frames"):
        np.testing.assert_array_equal(read_diffraction(tmp_path / name).patterns, frames(cube))


def test_a_broken_tiff_is_told(tmp_path, cube):
    tifffile.imwrite(tmp_path / "a.tif", frames(cube))
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read_diffraction(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("header", "factor", "columns"),
    [("", 1.0, (0, 1)), ("x_um,y_um", 1e6, (1, 0)), ("# frame,Y (mm),X (mm)", 1e3, (None, 0, 1))],
)
def test_positions_are_read_from_text(tmp_path, header, factor, columns):
    positions_m = np.random.default_rng(0).normal(size=(7, 2)) * 1e-6
    table = [np.arange(7) if c is None else positions_m[:, c] * factor for c in columns]
    lines = [",".join(f"{value:.17g}" for value in row) for row in zip(*table)]
    (tmp_path / "a.csv").write_text("\n".join([header, *lines] if header else lines))
    np.testing.assert_allclose(
        read_product(tmp_path / "a.csv").positions_px, positions_m, rtol=1e-12
    )


@pytest.mark.parametrize(
    ("header", "factor"), [("y [micron];x [micron]", 1e6), ("Y (Å)\tX (Å)", 1e10), ("", 1.0)]
)
def test_a_table_may_have_other_spellings_and_decimal_commas(tmp_path, header, factor):
    positions_m = np.random.default_rng(0).normal(size=(7, 2)) * 1e-6
    mark = "\t" if "\t" in header else ";"
    rows = [mark.join(f"{value * factor:.17g}" for value in row) for row in positions_m]
    text = "\n".join([header, *(row.replace(".", ",") for row in rows)]).strip("\n")
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    read = read_product(tmp_path / "a.csv").positions_px
    np.testing.assert_allclose(read, positions_m, rtol=1e-12)


def test_a_table_may_hold_pixels(tmp_path):
    positions_px = np.random.default_rng(0).normal(size=(12, 2)) * 5
    np.savetxt(tmp_path / "at.txt", positions_px[:, ::-1], header="x_px y_px", comments="")
    np.save(tmp_path / "frames.npy", np.random.default_rng(1).poisson(9.0, (12, 8, 8)))
    with pytest.warns(UserWarning, match="root of the mean pattern"):
        read = load_scan(tmp_path / "frames.npy", tmp_path / "at.txt", pixel_size_m=3e-9)
    moves = positions_px - positions_px[0]
    np.testing.assert_allclose(read.positions_px - read.positions_px[0], moves, atol=1e-12)


def test_a_table_whose_columns_have_no_names_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("left,right\n1,2\n3,4\n")
    with pytest.raises(ValueError, match="names no columns y and x"):
        read_product(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("0,1,2\n1,3,4\n")  # the first may be the number of a frame
    with pytest.raises(ValueError, match=r"3 columns without names, such as 0 1 2"):
        read_product(tmp_path / "a.csv")


@pytest.mark.parametrize("place", ["datacube_root/datacube", "4DSTEM_experiment/data/datacubes/a"])
@pytest.mark.parametrize("first", [0, 1])
def test_py4dstem_files_are_read_with_their_calibration(tmp_path, cube, place, first):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group(place)
        group["data"] = cube
        for i, (size, step, unit) in enumerate(
            zip(cube.shape, (5, 5, 0.02, 0.02), ("A", "A", "A^-1", "A^-1"))
        ):
            group[f"dim{i + first}"] = np.arange(size) * step
            group[f"dim{i + first}"].attrs["units"] = unit
    read = read_diffraction(tmp_path / "a.h5", [11, 2]).patterns
    np.testing.assert_array_equal(read, frames(cube)[[11, 2]])
    scan = read_product(tmp_path / "a.h5")
    np.testing.assert_allclose(scan.positions_px[6], [5e-10, 10e-10])
    square = Preparation(crop=(14, 14))
    with pytest.warns(UserWarning, match="mean pattern"):
        loaded = load_scan(tmp_path / "a.h5", preparation=square)
    assert loaded.pixel_size_m == pytest.approx(1e-10 / (14 * 0.02))


def test_steps_of_py4dstem_may_be_in_its_calibration_alone(tmp_path, cube):
    """As emdfile 0.0.16 writes a cube whose axes count pixels."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = cube
        for i in range(4):
            group[f"dim{i}"] = np.array([0, 1])
            group[f"dim{i}"].attrs["units"] = "pixels"
        for root, step in (("other_root", 9.0), ("datacube_root", 5.0)):
            told = file.create_group(f"{root}/metadatabundle/calibration")
            told["R_pixel_size"], told["R_pixel_units"] = step, b"A"
            told["Q_pixel_size"], told["Q_pixel_units"] = 0.02, b"A^-1"
    np.testing.assert_allclose(read_product(tmp_path / "a.h5").positions_px[6], [5e-10, 10e-10])
    with pytest.warns(UserWarning, match="mean pattern"):
        loaded = load_scan(tmp_path / "a.h5", preparation=Preparation(crop=(14, 14)))
    assert loaded.pixel_size_m == pytest.approx(1e-10 / (14 * 0.02))


def test_emd_files_of_rosettasciio_are_read(tmp_path, cube):
    writer = pytest.importorskip("rsciio.emd")
    axes = [
        {"size": n, "index_in_array": i, "name": f"a{i}", "scale": s, "offset": 0, "units": u}
        for i, (n, s, u) in enumerate(
            zip(cube.shape, (2, 3, 0.1, 0.1), ("nm", "nm", "1/nm", "1/nm"))
        )
    ]
    signal = {"data": cube, "axes": [axis | {"navigate": i < 2} for i, axis in enumerate(axes)]}
    general = {"General": {"title": "a"}, "Signal": {}}
    writer.file_writer(
        str(tmp_path / "a.emd"), signal | {"metadata": general, "original_metadata": {}}
    )
    np.testing.assert_array_equal(read_diffraction(tmp_path / "a.emd").patterns, frames(cube))
    np.testing.assert_allclose(read_product(tmp_path / "a.emd").positions_px[5], [2e-9, 3e-9])


def write_mib(path, stack):
    """Merlin's format: a header of 384 bytes and a frame from its last row up, for each frame."""
    with open(path, "wb") as file:
        for i, frame in enumerate(stack):
            h, w = frame.shape
            header = f"MQ1,{i + 1:06},00384,01,{w:04},{h:04},U16,   1x1,01,2020-01-01 00:00:00,"
            header += "0.001,0,0,0,2020-01-01T00:00:00.000000Z,1000000ns,12,"
            file.write(header.encode().ljust(384, b"\0") + frame[::-1].astype(">u2").tobytes())


def test_mib_files_are_read_and_need_a_raster(tmp_path, cube):
    pytest.importorskip("rsciio")
    write_mib(tmp_path / "a.mib", frames(cube))
    read = read_diffraction(tmp_path / "a.mib", [2, 5]).patterns
    np.testing.assert_array_equal(read, frames(cube)[[2, 5]])
    with pytest.raises(ValueError, match=r"raster = \{ shape"):
        load_scan(tmp_path / "a.mib")


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("camera_first", [False, True])
def test_dm4_files_are_read_with_their_calibration(tmp_path, cube, camera_first, dtype):
    pytest.importorskip("rsciio")
    axes = [(2, "nm"), (3, "nm"), (1.5, "mrad"), (1.5, "mrad")]
    stored = cube.astype(dtype)
    if camera_first:  # as the scan is the inner loop of some microscopes
        stored, axes = np.moveaxis(stored, (0, 1), (2, 3)).copy(), axes[2:] + axes[:2]
    write_dm4(tmp_path / "a.dm4", stored, axes, voltage_V=200e3)
    np.testing.assert_array_equal(read_diffraction(tmp_path / "a.dm4").patterns, frames(cube))
    scan = read_product(tmp_path / "a.dm4")
    np.testing.assert_allclose(scan.positions_px[5], [2e-9, 3e-9])
    assert scan.attributes["detector_pixel_angle_rad"] == pytest.approx(1.5e-3)
    assert scan.wavelength_m == pytest.approx(2.508e-12, rel=1e-3)  # of electrons of 200 keV
    with pytest.warns(UserWarning, match="mean pattern"):
        loaded = load_scan(tmp_path / "a.dm4", preparation=Preparation(crop=(14, 14)))
    assert loaded.pixel_size_m == pytest.approx(2.508e-12 / (14 * 1.5e-3), rel=1e-3)


def test_a_dm4_file_without_a_voltage_asks_for_the_energy(tmp_path, cube):
    pytest.importorskip("rsciio")
    axes = [(2, "nm"), (2, "nm"), (1.5, "mrad"), (1.5, "mrad")]
    write_dm4(tmp_path / "a.dm4", cube, axes)
    with pytest.raises(ValueError, match="electron_energy_eV"):
        load_scan(tmp_path / "a.dm4")


def test_without_the_extra_it_is_named(tmp_path, cube, monkeypatch):
    write_mib(tmp_path / "a.mib", frames(cube))
    monkeypatch.setitem(sys.modules, "rsciio.quantumdetector", None)
    with pytest.raises(ValueError, match=r"pip install 'ptychi-neural\[electron\]'"):
        read_diffraction(tmp_path / "a.mib")
