"""Hostile files of scans: one table of what is in them and of what exactly is said."""

import os
import warnings

import h5py
import numpy as np
import pytest
from hypothesis import strategies as st

from hostile_scans import FEW_AND_MANY, SIZE, for_all, result_or_words
from ptychi_neural.scans import load_scan, write_diffraction, write_product

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
