"""Masks are found wherever files have them, and their numbers mean what the formats say."""

import warnings

import h5py
import numpy as np
import pytest

from ptychi_neural.scans import load_scan, write_scan

STOP = np.zeros((32, 32), bool)
STOP[13:19, 13:19] = True


def masked(scan):
    mask = scan.valid_pixel_mask
    return np.zeros((32, 32), bool) if mask is None else ~mask


@pytest.mark.parametrize(
    "name",
    [
        "bad_pixels",
        "mask",
        "pixel_mask",
        "entry_1/mask",
        "entry_1/data_1/mask",
        "entry_1/instrument_1/detector_1/mask",
        "entry/data/mask",
        "entry/instrument/detector/pixel_mask",
        "entry/instrument/detector/detectorSpecific/pixel_mask",
        "valid_pixel_mask",
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int64, np.float32, ">i4"])
def test_masks_are_found_in_every_usual_place(pair, simulated, name, dtype):
    value = ~STOP if "valid" in name else STOP
    files = pair(simulated().counts, **{name: value.astype(dtype)})
    np.testing.assert_array_equal(masked(load_scan(*files)), STOP)


@pytest.mark.parametrize("stack", [(1, 32, 32), (100, 32, 32)])
def test_a_mask_may_have_a_frame_axis(pair, simulated, stack):
    files = pair(simulated().counts, **{"entry_1/data_1/mask": np.broadcast_to(STOP, stack)})
    np.testing.assert_array_equal(masked(load_scan(*files)), STOP)


def test_masks_in_several_places_add_up(pair, simulated):
    corner = np.zeros_like(STOP)
    corner[0, 0] = True
    files = pair(simulated().counts, mask=STOP, **{"entry_1/mask": corner.astype(np.uint32)})
    np.testing.assert_array_equal(masked(load_scan(*files)), STOP | corner)


@pytest.mark.parametrize("place", ["entry_1/data_1/mask", "entry_1/instrument_1/detector_1/mask"])
@pytest.mark.parametrize("bit", range(16))
def test_bits_of_cxi_masks_mean_what_the_standard_says(pair, simulated, place, bit):
    """Invalid, saturated, ... noisy are bad; corrected, peak, signal and jet leave pixels valid."""
    everywhere = np.full((32, 32), 0x4000, np.uint32)
    files = pair(simulated().counts, **{place: everywhere | STOP.astype(np.uint32) << bit})
    np.testing.assert_array_equal(masked(load_scan(*files)), STOP & (bit < 11))


def test_a_mask_of_good_bits_only_is_kept_as_a_mask_of_nothing(pair, simulated):
    place = "entry_1/instrument_1/detector_1/mask"
    scan = load_scan(*pair(simulated().counts, **{place: np.full((32, 32), 0x1000, np.uint32)}))
    assert scan.valid_pixel_mask.all()


def test_bits_that_cxi_does_not_define_are_told(pair, simulated):
    files = pair(simulated().counts, **{"entry_1/mask": STOP.astype(np.uint32) << 20})
    with pytest.warns(UserWarning, match="0x100000, which the CXI format does not define"):
        assert not masked(load_scan(*files)).any()


@pytest.mark.parametrize("bit", [0, 1, 4, 8, 11, 30])
def test_every_bit_of_a_nexus_mask_is_bad(pair, simulated, bit):
    value = STOP.astype(np.uint32) << bit
    files = pair(simulated().counts, **{"entry/instrument/detector/pixel_mask": value})
    np.testing.assert_array_equal(masked(load_scan(*files)), STOP)


def test_a_mask_that_is_1_nearly_everywhere_marks_valid_pixels(pair, simulated):
    files = pair(simulated().counts, mask=(~STOP).astype(np.uint8))
    with pytest.warns(UserWarning, match="1 is taken for a valid pixel"):
        np.testing.assert_array_equal(masked(load_scan(*files)), STOP)


@pytest.mark.parametrize("name", ["mask", "entry_1/data_1/mask", "pixel_mask"])
def test_a_mask_of_another_shape_is_told(pair, simulated, name):
    files = pair(simulated().counts, **{name: np.ones((64, 64), np.uint32)})
    with pytest.warns(UserWarning, match=f"holds '{name}', not used") as caught:
        assert not masked(load_scan(*files)).any()
    assert len(caught) == 1


def test_a_mask_of_an_unknown_name_is_told(pair, simulated):
    files = pair(simulated().counts, **{"calibration/detector_mask": STOP})
    with pytest.warns(UserWarning, match="'calibration/detector_mask', not used"):
        load_scan(*files)


def test_other_datasets_are_not_taken_for_masks(pair, simulated):
    others = {"maskless": np.ones(3), "mask_name": 5, "dark": np.ones((32, 32), np.uint8)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_scan(*pair(simulated().counts, **others))


def test_masks_of_other_entries_are_left_out(simulated, tmp_path):
    write_scan(tmp_path / "scan.cxi", simulated().scan(), "cxi")
    own = np.zeros((32, 32), np.uint32)
    own[0, 3] = 1
    with h5py.File(tmp_path / "scan.cxi", "a") as file:
        file["entry_1/instrument_1/detector_1/mask"] = own
        file["entry_2/instrument_1/detector_1/data"] = simulated().counts[:5]
        file["entry_2/instrument_1/detector_1/mask"] = STOP.astype(np.uint32)
    with pytest.warns(UserWarning, match="entry_1 is read, and not entry_2"):
        scan = load_scan(tmp_path / "scan.cxi")
    np.testing.assert_array_equal(masked(scan), own != 0)
