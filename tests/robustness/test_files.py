"""Hostile files of scans: one table of what is in them and of what exactly is said."""

import os
import struct
import warnings

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import strategies as st

from hostile_scans import FEW_AND_MANY, SIZE, for_all, result_or_words
from ptychi_neural.scans import load_scan, write_diffraction, write_product, write_scan
from ptychi_neural.scans.preparation import Preparation

TOLD = (ValueError, FileNotFoundError)
"""All that loading may raise."""


@pytest.fixture
def files(scans, tmp_path):
    sim = scans()
    write_diffraction(tmp_path / "diffraction.h5", sim.counts)
    write_product(tmp_path / "product.h5", sim.scan)
    return tmp_path


def data(name, value, file="diffraction.h5"):
    """Replace a dataset by an array, a link, or what a function makes in the file."""

    def change(folder):
        with h5py.File(folder / file, "r+") as h:
            attributes = {} if name not in h else dict(h[name].attrs)
            for alias in ("dp", "patterns", "indexes", "bad_pixels") if name == "dp" else (name,):
                if alias in h:
                    del h[alias]
            if callable(value):
                value(h)
            elif value is not None:
                h[name] = value
                if isinstance(h.get(name), h5py.Dataset):
                    h[name].attrs.update(attributes)

    return change


def attribute(name, key, value):
    def change(folder):
        with h5py.File(folder / "product.h5", "r+") as h:
            h[name].attrs[key] = value

    return change


def energy(value):
    def change(folder):
        with h5py.File(folder / "product.h5", "r+") as h:
            h.attrs.update({name: value for name in h.attrs if "energy" in name})

    return change


def distance(value):
    return attribute("/", "detector_object_distance_m", value)


def content(new, file="diffraction.h5"):
    def change(folder):
        old = (folder / file).read_bytes()
        (folder / file).write_bytes(new(old) if callable(new) else new)

    return change


def scaled(factor):
    def change(folder):
        with h5py.File(folder / "product.h5", "r+") as h:
            for axis in "yx":
                h[f"probe_position_{axis}_m"][...] *= factor

    return change


def declares_much(h):
    h.create_dataset("dp", (N, 2**16, 2**16), "u4", chunks=(1, 1024, 1024))


def virtual(h):
    layout = h5py.VirtualLayout((49, SIZE, SIZE), "u4")
    layout[:] = h5py.VirtualSource("gone.h5", "dp", (49, SIZE, SIZE))
    h.create_virtual_dataset("dp", layout)


def raw_bytes_of_another_file(h):
    h.create_dataset("dp", (4, SIZE, SIZE), "u1", external=[("/etc/passwd", 0, 4 * SIZE**2)])


def circle(h):
    h["dp"] = h5py.SoftLink("/patterns")
    h["patterns"] = h5py.SoftLink("/dp")


def no_numbers(h):
    h["valid_pixel_mask"] = np.zeros((SIZE, SIZE), [("bad", "u1")])


def stuck_where_valid(h):
    valid = np.zeros((SIZE, SIZE), bool)
    valid[:, 5] = True
    h["dp"] = np.where(valid, 900, np.random.default_rng(0).poisson(9, (N, SIZE, SIZE)))
    h["valid_pixel_mask"] = valid


N = 49
PRODUCT = "product.h5"
TABLE = [
    ("empty", content(b""), "not an HDF5 file"),
    ("text", content(b"counts: 3\n" * 99), "not an HDF5 file"),
    ("truncated", content(lambda old: old[: len(old) // 2]), "truncated|damaged"),
    ("missing", lambda folder: os.remove(folder / "diffraction.h5"), "does not exist"),
    ("no patterns", data("dp", None), "holds no arrays"),
    ("a group", data("dp", lambda h: h.create_group("dp")), "no dataset"),
    ("declares 784 GiB", data("dp", declares_much), "GiB .*more than"),
    ("text for counts", data("dp", np.array([b"abc"] * N)), "real numbers"),
    ("complex counts", data("dp", np.ones((N, SIZE, SIZE), complex)), "real numbers"),
    ("one frame less", data("dp", np.ones((N - 1, SIZE, SIZE), "u2")), "lacks 1 of them"),
    ("flat", data("dp", np.ones((N, SIZE**2), "u2")), r"\(n, h, w\)"),
    ("another size", data("dp", np.ones((N, 16, 16), "u2")), "pixels, the patterns"),
    ("no counts at all", data("dp", np.zeros((N, SIZE, SIZE), "u2")), "no frame holds a count"),
    ("NaN everywhere", data("dp", np.full((N, SIZE, SIZE), np.nan)), "hold NaN"),
    ("negative everywhere", data("dp", np.full((N, SIZE, SIZE), -1.0)), "negative"),
    ("soft link to nothing", data("dp", h5py.SoftLink("/gone")), "'gone' .* does not exist"),
    ("links in a circle", data("dp", circle), "circle"),
    ("external link to nothing", data("dp", h5py.ExternalLink("gone.h5", "dp")), r"gone\.h5"),
    ("external link outside", data("dp", h5py.ExternalLink("/etc/passwd", "dp")), "outside"),
    ("link up and outside", data("dp", h5py.ExternalLink("../../x.h5", "dp")), "outside"),
    ("virtual source gone", data("dp", virtual), r"gone\.h5"),
    ("bytes of another file", data("dp", raw_bytes_of_another_file), "outside"),
    ("mask of another size", data("valid_pixel_mask", np.ones((3, 3), bool)), "mask has shape"),
    ("mask without numbers", data("valid_pixel_mask", h5py.Empty("u1")), "mask has shape"),
    ("mask of records", data("valid_pixel_mask", no_numbers), "as whole numbers"),
    ("mask of text", data("mask", np.full((SIZE, SIZE), b"1")), "as whole numbers"),
    ("inverted mask", data("dp", stuck_where_valid), "the mask is inverted"),
    ("micrometres", scaled(1e6), "look like micrometres"),
    ("pixels", scaled(1e8), "look like pixels"),
    ("far away", scaled(1e30), "check their unit|spread over"),
    ("no positions", data("probe_position_y_m", None, PRODUCT), "probe_position_y_m"),
    ("NaN positions", data("probe_position_y_m", np.full(N, np.nan), PRODUCT), "finite"),
    ("positions of text", data("probe_position_y_m", [b"a"] * N, PRODUCT), "real numbers"),
    ("too few positions", data("probe_position_x_m", np.zeros(3), PRODUCT), "one number each"),
    ("fractional indexes", data("probe_position_indexes", np.arange(N) + 0.5, PRODUCT), "whole"),
    ("a frame twice", data("probe_position_indexes", np.zeros(N, int), PRODUCT), "twice"),
    ("negative indexes", data("probe_position_indexes", np.arange(N) - 1, PRODUCT), "lacks 1"),
    ("huge indexes", data("probe_position_indexes", np.arange(N) + 2**62, PRODUCT), "lacks"),
    ("dark probe", data("probe", np.zeros((1, 1, SIZE, SIZE), complex), PRODUCT), "no light"),
    ("real probe", data("probe", np.ones((1, 1, SIZE, SIZE)), PRODUCT), "complex"),
    ("NaN probe", data("probe", np.full((1, 1, SIZE, SIZE), np.nan * 1j), PRODUCT), "NaN or Inf"),
    ("flat probe", data("probe", np.ones(9, complex), PRODUCT), "must have shape"),
    ("no weights", data("probe", np.ones((2, 1, SIZE, SIZE), complex), PRODUCT), "opr_weights"),
    ("NaN weights", data("opr_weights", np.full((N, 1), np.nan), PRODUCT), "'opr_weights' has NaN"),
    ("few weights", data("opr_weights", np.ones((3, 1)), PRODUCT), r"need \(49, 1\)"),
    ("photons of text", data("probe_photon_counts", [b"a"] * N, PRODUCT), "write real numbers"),
    ("endless energy", attribute("/", "photon_energy_eV", np.inf), "wavelength_m = 0"),
    ("dark object", data("object", np.zeros((1, 60, 60), complex), PRODUCT), "zero everywhere"),
    ("small object", data("object", np.ones((1, 30, 30), complex), PRODUCT), "enlarge 'object'"),
    ("pixels of no size", attribute("object", "pixel_width_m", 0.0), "square pixels"),
    ("pixels of NaN", attribute("object", "pixel_width_m", np.nan), "finite length"),
    ("pixel sizes of text", attribute("object", "pixel_width_m", "10 nm"), "one number"),
    ("several pixel sizes", attribute("object", "pixel_width_m", [1e-8, 2e-8]), "one number"),
    ("photons of no energy", energy(1e-300), "wavelength_m = .* give metres"),
    ("no pixel size", attribute("object", "pixel_width_m", h5py.Empty("f8")), "finite length"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE])
def test_what_is_wrong_with_a_file_is_told(files, change, message):
    change(files)
    with pytest.raises(TOLD, match=message) as told:
        load_scan(files / "diffraction.h5", files / PRODUCT)
    assert str(files) in str(told.value)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (energy(1e-300), {"photon_energy_eV": 8e3}),
        (energy(1e-300), {"wavelength_m": 1.5e-10}),
        (energy(np.inf), {"wavelength_m": 1.5e-10}),
        (distance(1e300), {"detector_distance_m": 2.0, "detector_pixel_size_m": 5e-5}),
    ],
)
def test_an_impossible_length_that_a_run_file_replaces_does_not_matter(files, change, keys):
    change(files)
    paths = files / "diffraction.h5", files / PRODUCT
    with pytest.raises(TOLD, match="give metres"):
        load_scan(*paths)
    scan = load_scan(*paths, preparation=Preparation(pixel_size_m=1e-8, **keys))
    assert scan.pixel_size_m == 1e-8
    for name in set(keys) & {"wavelength_m", "detector_distance_m"}:
        assert getattr(scan, name) == keys[name]


def archive(folder, scan, change=None, **arrays):
    """An archive of PtychoPINN with other arrays, or other bytes."""
    write_scan(folder / "scan.npz", scan, "ptychopinn")
    arrays = dict(np.load(folder / "scan.npz")) | arrays
    with open(folder / "scan.npz", "wb") as file:
        np.savez_compressed(file, **arrays)
    if change is not None:
        (folder / "scan.npz").write_bytes(change((folder / "scan.npz").read_bytes()))
    return [folder / "scan.npz"]


def cxi(folder, scan, name, value):
    write_scan(folder / "scan.cxi", scan, "cxi")
    with h5py.File(folder / "scan.cxi", "r+") as file:
        if name in file:
            del file[name]
        file[name] = value
    return [folder / "scan.cxi"]


def pair(folder, scan, **numbers):
    """A pair of fold_slice with other numbers."""
    told = dict(zip(("ppY", "ppX"), (scan.positions_px * 1e-8).T)) | {"dx": 1e-8}
    for name, arrays in (("dp", {"dp": scan.patterns}), ("para", told | numbers)):
        with h5py.File(folder / f"a_{name}.hdf5", "w") as file:
            for key, value in arrays.items():
                file[key] = value
    return [folder / "a_dp.hdf5"]


def stack(folder, scan, write):
    """Frames that ``write`` puts into a file of this name, and their positions beside it."""
    name = write(folder, scan.patterns)
    np.save(folder / "at.npy", scan.positions_px * 1e-8)
    return [folder / name, folder / "at.npy"]


def header_of_npy(folder, patterns):
    np.save(folder / "a.npy", patterns)
    whole = bytearray((folder / "a.npy").read_bytes())
    whole[10:60] = b"\xff" * 50
    (folder / "a.npy").write_bytes(whole)
    return "a.npy"


def vast_tiff(folder, patterns):
    """A compressed TIFF whose images say that they have 2^50 pixels."""
    tifffile.imwrite(folder / "a.tif", patterns.astype("u2"), compression="zlib")
    whole = bytearray((folder / "a.tif").read_bytes())
    for tag, size in ((256, 2**30), (257, 2**20)):
        entry = struct.pack("<HHI", tag, 4, 1)
        at = whole.find(struct.pack("<HH", tag, 3) + entry[4:])
        at = whole.find(entry) if at < 0 else at
        whole[at : at + 12] = entry + struct.pack("<I", size)
    (folder / "a.tif").write_bytes(whole)
    return "a.tif"


def scrambled(old):
    return old[:3000] + bytes(byte ^ 0x55 for byte in old[3000:9000]) + old[9000:]


def encrypted(old):
    """The archive with the flag of encryption set in all its entries."""
    new = bytearray(old)
    for mark, flag in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = -1
        while (at := old.find(mark, at + 1)) >= 0:
            new[at + flag] |= 1
    return bytes(new)


EXTRA, GEOMETRY = "entry_1/ptychodus", "entry_1/sample_1/geometry_1/translation"
BASIS = "entry_1/instrument_1/detector_1/basis_vectors"
FORMATS = [
    ("scrambled archive", archive, {"change": scrambled}, "cannot be read"),
    ("encrypted archive", archive, {"change": encrypted}, "encrypted"),
    ("complex positions", archive, {"xcoords": np.ones(N, complex)}, "write real numbers"),
    ("text for positions", archive, {"ycoords": np.array(["1"] * N)}, "write real numbers"),
    ("several sizes", archive, {"pixel_size_m": np.ones(3)}, "write one number"),
    ("no size", archive, {"pixel_size_m": 0.0}, "pixel_size_m = 0"),
    ("mirrored", pair, {"dx": -1e-8}, "pixel_size_m = -1e-08"),
    ("negative wavelength", pair, {"lambda": -1.0}, "wavelength_m = -1"),
    ("positions of bytes", pair, {"ppY": [b"1"] * N}, "write real numbers"),
    ("complex translations", cxi, {"name": GEOMETRY, "value": np.ones((N, 3), complex)}, "real"),
    ("few translations", cxi, {"name": GEOMETRY, "value": np.ones((9, 3))}, r"need \(9,"),
    ("rows along columns", cxi, {"name": BASIS, "value": np.ones((2, 3))}, "right angles"),
    ("half frames", cxi, {"name": f"{EXTRA}/probe_position_indexes", "value": np.arange(N) + 0.5},
     "not all whole"),
    ("one frame", cxi, {"name": f"{EXTRA}/probe_position_indexes", "value": np.zeros(N)}, "twice"),
    ("NaN weights", cxi, {"name": f"{EXTRA}/opr_weights", "value": np.full((N, 1), np.nan)}, "NaN"),
    ("NaN near field", cxi, {"name": f"{EXTRA}/free_space_propagation_distance_m",
     "value": np.nan}, "near field is nan"),
    ("header of nonsense", stack, {"write": header_of_npy}, "a.npy"),
    ("vast images", stack, {"write": vast_tiff}, "GiB .*more than"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "given", "message"), [c[1:] for c in FORMATS], ids=[c[0] for c in FORMATS]
)
def test_what_is_wrong_with_other_formats_is_told(scans, tmp_path, make, given, message):
    paths = make(tmp_path, scans().scan, **given)
    with pytest.raises(TOLD, match=message) as told:
        load_scan(*paths, pixel_size_m=None if len(paths) == 1 else 1e-8)
    assert str(tmp_path) in str(told.value)


def test_wide_numbers_and_fractions_in_masks_mean_what_they_say(files):
    for name, mask in (
        ("bad_pixels", [0.5, np.nan, 2.0**40]),
        ("valid_pixel_mask", [0, np.nan, 0]),
    ):
        bad = np.zeros((SIZE, SIZE)) if name == "bad_pixels" else np.full((SIZE, SIZE), 2.0**32)
        bad[3, 4:7] = mask
        data(name, bad)(files)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = load_scan(files / "diffraction.h5").valid_pixel_mask
        assert np.argwhere(~found).tolist() == [[3, 4], [3, 5], [3, 6]]
        data(name, None)(files)


def test_groups_in_groups_are_no_trap(files):
    """HDF5 would go through them for minutes, or until the stack is full."""

    def nested(h):
        for _ in range(5000):
            h = h.create_group("g")

    data("mask_of_old", nested)(files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_scan(files / "diffraction.h5").patterns) == N


def assert_told_or_finite(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan, words = result_or_words(
            load_scan, folder / "diffraction.h5", folder / PRODUCT, errors=TOLD
        )
    if scan is None:
        assert str(folder) in words
        return
    for array in (scan.patterns, scan.positions_px, scan.probe, scan.object):
        assert np.isfinite(array).all()
    assert (scan.patterns >= 0).all()
    assert len(scan.patterns) == len(scan.positions_px) > 0


VALUES = st.sampled_from(
    [
        None, np.nan, np.inf, -1, 2**63, 1e300, b"x", "", 1j, True, h5py.Empty("f4"), [], [[]],
        np.zeros(N), np.ones((1, SIZE, SIZE)), np.ones((1, 1, 1, 1, 1), complex), [b"a", b"b"],
        np.full((1, 1, SIZE, SIZE), 1e30 + 0j), np.ones((1, 2**9, 2**9), complex),
        h5py.SoftLink("/x"), h5py.SoftLink("/"),
        h5py.ExternalLink("..", "/"), np.arange(N)[::-1], np.array([], complex),
    ]
)  # fmt: skip


@FEW_AND_MANY
def test_files_with_something_replaced_are_told_or_finite(n, files):
    originals = {name: (files / name).read_bytes() for name in ("diffraction.h5", PRODUCT)}
    with h5py.File(files / PRODUCT) as file:
        keys = [(PRODUCT, name, None) for name in file]
        keys += [(PRODUCT, "/", key) for key in file.attrs]
        keys += [(PRODUCT, name, key) for name in ("probe", "object") for key in file[name].attrs]
    keys += [("diffraction.h5", name, None) for name in ("dp", "indexes", "bad_pixels")]

    def check(example):
        (file, name, key), value = example
        for other, bytes_ in originals.items():
            (files / other).write_bytes(bytes_)
        with h5py.File(files / file, "r+") as h:
            if key is None:
                del h[name]
                if value is not None:
                    h[name] = value
            elif value is None or isinstance(value, h5py.SoftLink | h5py.ExternalLink):
                del h[name].attrs[key]
            elif (np.size(value) or 0) < 1000:  # HDF5 has no larger attributes.
                h[name].attrs[key] = value
        assert_told_or_finite(files)

    for_all(n, st.tuples(st.sampled_from(keys), VALUES), check)


@FEW_AND_MANY
def test_truncated_and_overwritten_files_are_told_or_finite(n, files):
    originals = {name: (files / name).read_bytes() for name in ("diffraction.h5", PRODUCT)}

    def check(example):
        name, length, where, new = example
        for other, bytes_ in originals.items():
            (files / other).write_bytes(bytes_)
        spoilt = bytearray(originals[name][: int(length * len(originals[name]))])
        first = int(where * len(spoilt))
        spoilt[first : first + len(new)] = new
        (files / name).write_bytes(spoilt)
        assert_told_or_finite(files)

    lengths = st.one_of(st.just(1.0), st.floats(0, 1))
    names = st.sampled_from(sorted(originals))
    for_all(n, st.tuples(names, lengths, st.floats(0, 1), st.binary(max_size=16)), check)
