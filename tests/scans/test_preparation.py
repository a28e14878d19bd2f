"""Frames and positions that are stored in other ways, brought to the usual one."""

import dataclasses
import itertools
import math
import warnings

import h5py
import numpy as np
import pytest
import tifffile

from ptychi_neural.scans import load_scan, write_diffraction, write_product
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.prepared_frames import oriented


@pytest.fixture
def scan(simulated):
    return simulated().scan()


def load(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_scan(*args, preparation=Preparation(**kwargs))


def write_files(folder, scan, patterns=None):
    write_diffraction(folder / "diffraction.h5", scan.patterns if patterns is None else patterns)
    write_product(folder / "product.h5", scan)
    return folder / "diffraction.h5"


def mirrored(pattern, transpose, flip_y, flip_x):
    """The pattern of a detector that is mounted in another way, by its coordinates about DC."""
    h, w = pattern.shape
    out = np.empty_like(pattern)
    for y, x in itertools.product(range(h), range(w)):
        v, u = y - h // 2, x - w // 2
        v, u = (-v if flip_y else v), (-u if flip_x else u)
        v, u = (u, v) if transpose else (v, u)
        out[y, x] = pattern[(v + h // 2) % h, (u + w // 2) % w]
    return out


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=3)))
def test_orientations_keep_the_direct_beam_in_its_pixel(flags):
    pattern = np.random.default_rng(0).random((6, 6))
    keys = dict(zip(("transpose", "flip_y", "flip_x"), flags))
    found = oriented(Preparation(**keys), pattern[None], near_field=False)[0]
    np.testing.assert_array_equal(found, mirrored(pattern, *flags))


def test_a_quarter_turn_is_counterclockwise_and_four_are_none():
    pattern = np.random.default_rng(0).random((1, 5, 5))
    turned = oriented(Preparation(rotate_deg=90), pattern, near_field=False)
    np.testing.assert_array_equal(turned[0], np.rot90(pattern[0]))
    half = oriented(Preparation(rotate_deg=180), pattern, near_field=True)
    np.testing.assert_array_equal(half[0], pattern[0, ::-1, ::-1])
    back = oriented(Preparation(rotate_deg=270), turned, near_field=False)
    np.testing.assert_array_equal(back, pattern)


def test_a_crop_makes_pixels_coarser_and_keeps_the_positions_in_metres(tmp_path, scan):
    path = write_files(tmp_path, scan)
    read = load(path, crop=(16, 16))
    np.testing.assert_array_equal(read.patterns, scan.patterns[:, 8:24, 8:24])
    assert read.pixel_size_m == pytest.approx(2 * scan.pixel_size_m)
    np.testing.assert_allclose(
        np.diff(read.positions_px, axis=0), np.diff(scan.positions_px, axis=0) / 2, atol=1e-9
    )
    full = np.fft.fftshift(np.fft.fft2(scan.probe[0, 0]))
    small = np.fft.fftshift(np.fft.fft2(read.probe[0, 0]))
    np.testing.assert_allclose(np.abs(small), np.abs(full[8:24, 8:24]), atol=1e-3 * abs(full).max())


def test_binned_frames_are_sums_and_leave_the_pixel_as_it_is(tmp_path, scan):
    read = load(write_files(tmp_path, scan), bin=2)
    sums = scan.patterns.astype(int).reshape(-1, 16, 2, 16, 2).sum(axis=(2, 4))
    np.testing.assert_array_equal(read.patterns, sums)
    assert read.pixel_size_m == scan.pixel_size_m
    assert read.probe.shape == (1, 1, 16, 16)
    np.testing.assert_allclose(
        read.probe[0, 0], 2 * scan.probe[0, 0, 8:24, 8:24], atol=1e-4 * abs(scan.probe).max()
    )


def test_a_beam_elsewhere_is_cut_around(tmp_path, scan):
    moved = np.pad(scan.patterns, ((0, 0), (3, 8), (7, 4)))
    bare = dataclasses.replace(scan, probe=scan.probe[..., :20, :20])
    read = load(
        write_files(tmp_path, bare, moved), crop=(20, 20), center=(19, 23), pixel_size_m=1e-8
    )
    np.testing.assert_array_equal(read.patterns, scan.patterns[:, 6:26, 6:26])
    with pytest.raises(ValueError, match="does not lie in the stored"):
        load(tmp_path / "diffraction.h5", crop=(40, 40), center=(19, 23))


@pytest.mark.parametrize("dc_at_corner", [False, True])
def test_broken_pixels_are_named_by_their_places_in_the_file(tmp_path, scan, dc_at_corner):
    patterns = np.pad(scan.patterns, ((0, 0), (4, 4), (4, 4))).astype(np.float32)
    patterns[:, 9, 30] = np.nan
    place = r"\(9, 30\)"
    if dc_at_corner:
        patterns, place = np.fft.ifftshift(patterns, axes=(1, 2)), r"\(29, 10\)"
    path = write_files(tmp_path, scan, patterns)
    with pytest.warns(UserWarning, match=f"masked 1 .* at {place}"):
        load_scan(path, preparation=Preparation(crop=(32, 32), dc_at_corner=dc_at_corner))


def test_a_direct_beam_at_the_corner_comes_to_the_centre(tmp_path, scan):
    stored = np.fft.ifftshift(scan.patterns, axes=(1, 2))
    read = load(write_files(tmp_path, scan, stored), dc_at_corner=True)
    np.testing.assert_array_equal(read.patterns, scan.patterns)


@pytest.mark.parametrize("kind", ["number", "file"])
def test_a_background_is_subtracted(tmp_path, scan, kind):
    dark = np.random.default_rng(0).integers(1, 9, (32, 32))
    dark = np.full_like(dark, 5) if kind == "number" else dark
    tifffile.imwrite(tmp_path / "dark.tif", np.stack([dark - 1, dark + 1]).astype(np.uint16))
    given = 5.0 if kind == "number" else tmp_path / "dark.tif"
    read = load(
        write_files(tmp_path, scan, scan.patterns + dark.astype(np.uint32)), background=given
    )
    np.testing.assert_allclose(read.patterns, scan.patterns)


def test_pixels_are_masked_by_file_and_by_their_counts(tmp_path, scan):
    patterns = scan.patterns.copy()
    patterns[3, 9, 9], patterns[:, 2, 2] = 10**6, 1
    bad = np.zeros((32, 32), np.uint8)
    bad[30, 1] = 1
    np.save(tmp_path / "bad.npy", bad)
    np.save(tmp_path / "valid.npy", 1 - bad)
    path = write_files(tmp_path, scan, patterns)
    everything = {"saturated_counts": 1e6, "dark_counts": 0.0}
    for name in ("bad.npy", "valid.npy"):
        read = load(path, mask=tmp_path / name, **everything)
        dark = (patterns == 0).all(axis=0)
        expected = (bad == 0) & ~dark
        expected[9, 9] = False
        np.testing.assert_array_equal(read.valid_pixel_mask, expected)


def hdf5(path, name, array):
    with h5py.File(path, "w") as file:
        file[name], file["about"], file["line"] = array, "a mask", np.arange(9)


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("a.npy", lambda path, name, array: np.save(path, array)),
        ("a.npz", lambda path, name, array: np.savez(path, **{name: array})),
        ("a.txt", lambda path, name, array: np.savetxt(path, array, fmt="%d")),
        ("a.csv", lambda path, name, array: np.savetxt(path, array, fmt="%d", delimiter=",")),
        ("a.tif", lambda path, name, array: tifffile.imwrite(path, array)),
        ("a.h5", hdf5),
    ],
)
@pytest.mark.parametrize("name", ["mask", "entry/data/data", "valid"])
def test_a_mask_is_read_from_files_of_many_kinds(tmp_path, scan, file, write, name):
    bad = np.zeros((32, 32), np.uint8)
    bad[30, 1] = 1
    is_named = file in ("a.h5", "a.npz")
    if not is_named and name == "valid":
        file = f"valid_{file}"
    name = name.replace("/", "_") if file == "a.npz" else name
    write(tmp_path / file, name, 1 - bad if name == "valid" else bad)
    read = load(write_files(tmp_path, scan), mask=tmp_path / file)
    np.testing.assert_array_equal(read.valid_pixel_mask, bad == 0)


def test_a_file_of_several_images_is_no_mask(tmp_path, scan):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["flat"] = file["bad"] = np.zeros((32, 32), np.uint8)
    with pytest.raises(ValueError, match=r"several images, 'bad', 'flat'; write the one"):
        load(write_files(tmp_path, scan), mask=tmp_path / "a.h5")


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e6), ("nm", 1e9), ("mm", 1e3), ("px", 1e8)])
def test_positions_are_read_in_their_unit(tmp_path, scan, unit, factor):
    with h5py.File(tmp_path / "at.h5", "w") as file:
        file["v"], file["h"] = (scan.positions_px * 1e-8 * factor).T
        file["dp"] = scan.patterns
    read = load(
        tmp_path / "at.h5",
        datasets={"y": "v", "x": "h"},
        position_units=unit,
        pixel_size_m=1e-8,
    )
    middle = (scan.positions_px.max(0) + scan.positions_px.min(0)) / 2
    np.testing.assert_allclose(read.positions_px, scan.positions_px - middle, atol=1e-6)


@pytest.mark.parametrize(
    "geometry",
    [
        {"wavelength_m": 1e-10, "detector_distance_m": 2.0, "detector_pixel_size_m": 5e-5},
        {"wavelength_m": 1e-10, "detector_pixel_angle_rad": 2.5e-5},
        {"photon_energy_eV": 12398.42, "detector_pixel_angle_rad": 2.5e-5},
        {"pixel_size_m": 1e-10 / (32 * 2.5e-5)},
    ],
)
def test_a_pixel_follows_from_the_geometry(tmp_path, scan, geometry):
    np.save(tmp_path / "a.npy", scan.patterns)
    np.save(tmp_path / "at.npy", scan.positions_px * 1e-8)
    read = load(tmp_path / "a.npy", tmp_path / "at.npy", **geometry)
    assert read.pixel_size_m == pytest.approx(1e-10 / (32 * 2.5e-5), rel=1e-5)
    np.testing.assert_allclose(
        np.ptp(read.positions_px, axis=0) * read.pixel_size_m,
        np.ptp(scan.positions_px, axis=0) * 1e-8,
    )


def test_what_the_geometry_lacks_is_named(tmp_path, scan):
    np.save(tmp_path / "a.npy", scan.patterns)
    np.save(tmp_path / "at.npy", scan.positions_px * 1e-8)
    with pytest.raises(ValueError, match=r"lacks the pixel size.*photon_energy_eV.*detector_dist"):
        load(tmp_path / "a.npy", tmp_path / "at.npy")
    with pytest.raises(ValueError, match=r"needs wavelength_m, detector_pixel_size_m"):
        load(tmp_path / "a.npy", tmp_path / "at.npy", detector_distance_m=2.0)


def test_a_cone_beam_magnifies_the_near_field(tmp_path, scan):
    np.save(tmp_path / "a.npy", scan.patterns)
    np.save(tmp_path / "at.npy", scan.positions_px * 1e-8)
    geometry = {"wavelength_m": 1e-10, "detector_distance_m": 0.99, "detector_pixel_size_m": 1e-6}
    read = load(
        tmp_path / "a.npy", tmp_path / "at.npy", focus_object_distance_m=-0.01, bin=2, **geometry
    )
    assert read.pixel_size_m == pytest.approx(2e-8)  # magnified 100 times
    assert read.free_space_propagation_distance_m == pytest.approx(0.0099)


def test_a_raster_takes_the_place_of_positions(tmp_path, scan):
    np.save(tmp_path / "a.npy", scan.patterns)
    raster = {"shape": (10, 10), "step_m": 4e-8, "snake": True}
    read = load(tmp_path / "a.npy", raster=raster, pixel_size_m=1e-8, rotate_positions_deg=90.0)
    steps = np.diff(read.positions_px[:10], axis=0)
    np.testing.assert_allclose(steps, np.tile([-4, 0], (9, 1)), atol=1e-9)  # x has become -y
    np.testing.assert_allclose(read.positions_px[10], read.positions_px[9] + [0, 4], atol=1e-9)


def test_contradicting_keys_are_told():
    keys = Preparation(wavelength_m=1.0, photon_energy_eV=1.0, center=(1, 1), dc_at_corner=True)
    told = " ".join(keys.problems())
    assert "wavelength_m, photon_energy_eV: give one" in told
    assert "give crop too" in told
    assert "dc_at_corner" in told
    assert math.isclose(
        Preparation(photon_energy_eV=1e4).told_wavelength_m, 1.23984e-10, rel_tol=1e-5
    )
