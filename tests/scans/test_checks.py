"""What a reconstruction starts from is checked in the same words for files and for tasks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptychi_neural.scans import (
    check_geometry,
    check_positions,
    check_start,
    empty_object,
    load_scan,
    write_diffraction,
    write_product,
)

GRID = np.stack(np.meshgrid(np.arange(-20.0, 21, 4), np.arange(-12.0, 13, 4), indexing="ij"), -1)
GRID = GRID.reshape(-1, 2)
PROBE, OBJECT = (1, 1, 32, 32), (1, 80, 64)


class TestPositions:
    @pytest.mark.parametrize(
        "positions",
        [
            GRID,
            GRID[:1],
            np.zeros((5, 2)),
            np.stack([np.zeros(9), np.arange(9.0)], axis=1),
            GRID + np.array([3.9, 0]),
        ],
        ids=["grid", "one", "equal", "line", "moved"],
    )
    def test_positions_inside_the_object_pass(self, positions):
        check_positions(positions, PROBE, OBJECT)

    @given(
        st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=5),
        st.integers(1, 64),
    )
    def test_an_empty_object_holds_its_positions(self, positions, size):
        array = np.array(positions)
        if 0 < np.ptp(array, axis=0).max() < 0.01:
            return
        check_positions(array, (size, size), empty_object(array, (size, size), margin=1).shape)

    @pytest.mark.parametrize("offset", [20, 60, 300, 1e4])
    def test_positions_outside_tell_the_size_that_is_needed(self, offset):
        with pytest.raises(ValueError, match=r"of 77 positions lie outside .* enlarge") as caught:
            check_positions(GRID + offset, PROBE, OBJECT)
        needed = str(caught.value).split("enlarge 'object' to (")[1].split(")")[0]
        check_positions(GRID + offset, PROBE, tuple(map(int, needed.split(","))))

    def test_metres_in_a_script_are_recognised(self):
        with pytest.raises(ValueError, match="look like metres; divide them by the pixel size"):
            check_positions(GRID * 1e-8, PROBE, OBJECT)

    @pytest.mark.parametrize(
        ("unit", "factor"),
        [("millimetres", 1e3), ("micrometres", 1e6), ("nanometres", 1e9), ("pixels", 1 / 2e-8)],
    )
    def test_other_units_in_a_file_are_recognised(self, unit, factor):
        with pytest.raises(ValueError, match=f"look like {unit}; files hold metres"):
            check_positions(GRID * factor, PROBE, OBJECT, pixel_size_m=2e-8)

    def test_an_unknown_unit_is_told_without_allocating_anything(self):
        with pytest.raises(ValueError, match=r"spread over 4e\+31 pixels; check their unit"):
            check_positions(GRID * 1e30, PROBE, OBJECT)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_positions_that_are_not_finite_are_counted(self, bad):
        positions = GRID.copy()
        positions[[1, 4]] = bad
        with pytest.raises(ValueError, match="2 of 77 positions are NaN or Inf"):
            check_positions(positions, PROBE, OBJECT)

    @pytest.mark.parametrize("shape", [(0, 2), (5,), (5, 3)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"\(n, 2\)"):
            check_positions(np.zeros(shape), PROBE, OBJECT)


class TestStart:
    probe = np.ones((1, 2, 8, 8), np.complex64)
    object = np.ones((2, 16, 16), np.complex64)

    def test_complex_light_passes(self):
        check_start(self.object, self.probe)
        dark_mode = self.probe.copy()
        dark_mode[0, 1] = 0
        check_start(self.object, dark_mode)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"object": np.zeros((2, 16, 16), complex)}, "object_data is zero everywhere"),
            ({"object": object.real}, "object_data is float32; store it as complex"),
            ({"object": object[0]}, r"object_data must have shape \(n_slices, H, W\)"),
            ({"object": object * np.nan}, "object_data holds 512 NaN or Inf"),
            ({"probe": np.zeros_like(probe)}, "probe_data carries no light"),
            ({"probe": np.abs(probe)}, "probe_data is float32; store it as complex"),
            ({"probe": probe[0]}, "probe_data must have shape"),
            ({"probe": np.full_like(probe, np.inf)}, "probe_data holds 128 NaN or Inf"),
            ({"probe": probe * 1e20}, r"up to 1e\+20, .* multiply it by 1e-20"),
            (
                {"object": object * 1e-12},
                r"object_data has amplitudes of up to 1e-12, .* by 1e\+12",
            ),
        ],
    )
    def test_what_lets_no_light_through_is_named(self, change, message):
        arrays = {"object": self.object, "probe": self.probe} | change
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
            check_start(**arrays, names=("object_data", "probe_data"))

    def test_a_dark_slice_is_named(self):
        object_ = self.object.copy()
        object_[1] = 0
        with pytest.raises(ValueError, match="object is zero in slice 1"):
            check_start(object_, self.probe)


class TestGeometry:
    @pytest.mark.parametrize(("n_slices", "distance_m"), [(2, None), (1, 0.01), (2, np.inf)])
    def test_slices_and_near_field_need_a_wavelength(self, n_slices, distance_m):
        with pytest.raises(ValueError, match="needs a wavelength"):
            check_geometry(n_slices, None, distance_m)
        check_geometry(n_slices, 1e-10, distance_m)

    @pytest.mark.parametrize("distance_m", [None, np.inf])
    def test_one_slice_in_the_far_field_needs_none(self, distance_m):
        check_geometry(1, None, distance_m)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions_px": GRID * 1e6}, "look like micrometres"),
        ({"positions_px": GRID / 1e-8}, "look like pixels"),
        ({"positions_px": GRID + 300}, "enlarge 'object'"),
        ({"object": np.zeros((1, 80, 80), complex)}, "'object' is zero everywhere"),
        ({"object": np.ones((1, 80, 80))}, "store it as complex"),
        ({"probe": np.ones((1, 1, 32, 32))}, "store it as complex"),
    ],
)
def test_files_are_checked_in_the_same_way(tmp_path, simulated, change, message):
    counts = simulated().counts[: len(GRID)]
    scan = dataclasses.replace(
        simulated().scan(), positions_px=GRID, object=np.ones((1, 80, 80), complex)
    )
    write_diffraction(tmp_path / "diffraction.h5", counts)
    write_product(tmp_path / "product.h5", dataclasses.replace(scan, **change))
    with pytest.raises(ValueError, match=rf"product\.h5.*{message}"):
        load_scan(tmp_path / "diffraction.h5")
