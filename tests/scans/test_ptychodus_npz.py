"""NPZ archives of ptychodus hold what its HDF5 files hold."""

import dataclasses

import numpy as np
import pytest

from ptychi_neural.runs.output_formats import write_npz
from ptychi_neural.scans import load_scan, read_product, write_product


@pytest.fixture
def scan(simulated):
    """A scan in which every field is set, of an object with an odd side."""
    plain, rng = simulated().scan(), np.random.default_rng(0)
    n = len(plain.patterns)
    return dataclasses.replace(
        plain,
        object=rng.normal(size=(2, 81, 80)) + 1j * rng.normal(size=(2, 81, 80)),
        probe=np.concatenate([plain.probe, 0.1j * plain.probe]),
        opr_mode_weights=rng.random((n, 2)),
        slice_spacings_m=np.array([2e-6]),
        frame_indexes=np.arange(n)[::-1] + 5,
        object_center_m=(1e-4, -2e-4),
        probe_photon_counts=rng.random(n),
        attributes={"tilt_angle_deg": 3.0, "exposure_time_s": 0.2, "polarization": "left_circular"},
        name="gold",
        comments="all set",
    )


def assert_same(a, b):
    for field in dataclasses.fields(a):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("near_field_m", [None, 1e-3])
def test_a_product_is_that_of_the_hdf5_file(scan, near_field_m, tmp_path):
    scan = dataclasses.replace(scan, free_space_propagation_distance_m=near_field_m)
    write_product(tmp_path / "product.h5", scan, [(0, 1.0)])
    write_npz(tmp_path / "product.h5", tmp_path / "product.npz")
    assert_same(read_product(tmp_path / "product.npz"), read_product(tmp_path / "product.h5"))


def test_a_scan_is_read_from_a_pair_of_archives_by_the_numbers_of_its_frames(scan, tmp_path):
    write_product(tmp_path / "product.h5", scan)
    write_npz(tmp_path / "product.h5", tmp_path / "product.npz")
    bad = np.zeros(scan.patterns.shape[1:], bool)
    bad[2, 3] = True
    numbers = np.sort(scan.frame_indexes)
    stored = {"patterns": scan.patterns[::-1], "indexes": numbers, "bad_pixels": bad}
    np.savez(tmp_path / "diffraction.npz", **stored)
    found = load_scan(tmp_path / "diffraction.npz")
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_array_equal(found.valid_pixel_mask, ~bad)
    np.testing.assert_allclose(found.positions_px, scan.positions_px, atol=1e-6)
    np.savez(tmp_path / "diffraction.npz", **stored | {"indexes": numbers + 1})
    with pytest.raises(ValueError, match=r"diffraction.npz holds 100 and lacks 1 of them"):
        load_scan(tmp_path / "diffraction.npz")


def test_what_is_missing_or_wrong_is_told_with_the_archive(scan, tmp_path):
    path = tmp_path / "product.npz"
    write_product(tmp_path / "product.h5", scan)
    write_npz(tmp_path / "product.h5", path)
    whole = dict(np.load(path))
    for name, value, message in (
        ("probe", None, r"product\.npz has no dataset 'probe'"),
        ("object_center_x_m", None, r"product\.npz: 'object' has no attribute 'center_x_m'"),
        ("probe", np.ones((4, 4)), r"product\.npz: 'probe' is float64"),
        ("probe_position_y_m", np.ones(3), r"product\.npz: probe_position_indexes, _y_m"),
    ):
        changed = {k: v for k, v in whole.items() if k != name}
        np.savez(path, **changed if value is None else changed | {name: value})
        with pytest.raises(ValueError, match=message):
            read_product(path)
    np.savez(path, **whole)
    with pytest.raises(ValueError, match="has no array 'patterns'"):
        load_scan(path)
