"""The key of ``[data]`` that takes some frames of a scan."""

import dataclasses

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from ptychi_neural.scans import load_scan, write_diffraction, write_product
from ptychi_neural.scans.frames import Frames
from ptychi_neural.scans.preparation import Preparation

GRID = np.indices((3, 4)).reshape(2, -1).T * 10.0


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({}, range(12)),
        ({"stop": 5}, range(5)),
        ({"start": 4, "stop": 100, "every": 3}, [4, 7, 10]),
        ({"window_px": 10.0}, [5, 6]),
        ({"window_px": 20.0, "every": 2}, [1, 5, 9]),
        ({"start": 4, "window_px": 10.0}, [5, 6, 9, 10]),  # in the middle of the frames from 4 on
    ],
)
def test_frames_are_a_range_then_a_window_of_it_then_every_some_of_those(keys, kept):
    assert Frames(**keys).indexes(GRID).tolist() == list(kept)


def test_none_left_and_unknown_keys_are_refused():
    with pytest.raises(ValueError, match=r"data.frames = \{ start = 12 \} leaves none of 12"):
        Frames(start=12).indexes(GRID)
    for wrong in ({"stop": 0}, {"every": 0}, {"start": -1}, {"window_px": 0}, {"first": 3}):
        with pytest.raises(ValidationError):
            Frames(**wrong)


def loaded(path, **keys):
    return load_scan(path, preparation=Preparation(**keys))


@pytest.fixture
def scan(simulated):
    n = len(simulated().counts)
    return simulated().scan(opr_mode_weights=np.arange(1.0, n + 1)[:, None])


def written(folder, scan):
    write_diffraction(folder / "diffraction.h5", scan.patterns)
    write_product(folder / "product.h5", scan)
    return folder / "diffraction.h5"


def test_only_these_frames_are_read_with_all_that_belongs_to_them(tmp_path, scan):
    read = loaded(written(tmp_path, scan), frames={"start": 10, "stop": 90, "every": 4})
    rows = np.arange(10, 90, 4)
    np.testing.assert_array_equal(read.patterns, scan.patterns[rows])
    np.testing.assert_array_equal(read.frame_indexes, rows)
    np.testing.assert_allclose(read.positions_px, scan.positions_px[rows])
    np.testing.assert_allclose(read.opr_mode_weights, scan.opr_mode_weights[rows])
    assert read.object.shape == scan.object.shape  # that of the file, whose positions these are


def test_a_window_is_in_pixels_of_the_object_as_it_is_used(tmp_path, scan):
    side_px = 20.0
    middle = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2
    inside = (abs(scan.positions_px - middle) <= side_px / 2).all(axis=1)
    assert 4 < inside.sum() < 50
    path = written(tmp_path, scan)
    read = loaded(path, frames={"window_px": side_px})
    np.testing.assert_array_equal(read.frame_indexes, np.flatnonzero(inside))
    np.testing.assert_array_equal(read.patterns, scan.patterns[inside])
    coarse = loaded(path, frames={"window_px": side_px / 2}, crop=(16, 16))
    np.testing.assert_array_equal(coarse.frame_indexes, np.flatnonzero(inside))


def test_frames_without_a_position_are_in_no_window_and_told_elsewhere(tmp_path, scan):
    positions_px = scan.positions_px.copy()
    positions_px[[1, 45]] = np.nan
    path = written(tmp_path, dataclasses.replace(scan, positions_px=positions_px))
    with pytest.warns(UserWarning, match="dropped 1 frame with NaN or Inf positions"):
        read = loaded(path, frames={"stop": 20})
    assert read.frame_indexes.tolist() == [0, *range(2, 20)]
    assert 45 not in loaded(path, frames={"window_px": 25.0}).frame_indexes


def test_an_object_that_is_made_holds_these_frames_and_not_the_whole_scan(tmp_path, scan):
    with h5py.File(tmp_path / "scan.cxi", "w") as file:
        file["cxi_version"] = 160
        file["entry_1/data_1/data"] = scan.patterns
        translation = np.zeros((len(scan.patterns), 3))
        translation[:, 1::-1] = scan.positions_px * 1e-8
        file["entry_1/sample_1/geometry_1/translation"] = translation
    keys = {"pixel_size_m": 1e-8}
    with pytest.warns(UserWarning, match="mean pattern"):
        whole = loaded(tmp_path / "scan.cxi", **keys)
    with pytest.warns(UserWarning, match="mean pattern"):
        few = loaded(tmp_path / "scan.cxi", frames={"stop": 10}, **keys)
    assert few.object.shape[1] < whole.object.shape[1] - 25
    centers = [np.asarray(read.object_center_m) / 1e-8 for read in (whole, few)]
    np.testing.assert_allclose(
        few.positions_px + centers[1], whole.positions_px[:10] + centers[0], atol=1e-6
    )


def test_none_that_are_left_name_the_file(tmp_path, scan):
    path = written(tmp_path, scan)
    with pytest.raises(ValueError, match=r"product.h5: data.frames = \{ start = 100 \}"):
        loaded(path, frames={"start": 100})
