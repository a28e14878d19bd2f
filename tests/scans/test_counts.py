"""Defects of counts are found and named, and true light is not taken for one."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychi_neural.scans import as_counts, load_scan, repair
from ptychi_neural.scans.defects import unit_of_counts
from ptychi_neural.scans.saturation import saturated

SIZE = 32


def pixels(*where):
    mask = np.zeros((SIZE, SIZE), bool)
    for place in where:
        mask[place] = True
    return mask


CROSS = pixels(np.s_[9:11], np.s_[:, 20:22])
SQUARE = pixels(np.s_[13:19, 13:19])
MODULE = pixels(np.s_[20:29])
POINTS = pixels((3, 5), (16, 16))
DISC = np.hypot(*(np.indices((SIZE, SIZE)) - 15.5)) < 4


def masked(repaired):
    valid = repaired.valid_pixel_mask
    return pixels() if valid is None else ~valid


def is_saturated(counts):
    every = np.ones(counts.shape[1:], bool)
    return saturated(counts, np.ones(len(counts), bool), every, unit_of_counts(counts)).any()


class TestMarkers:
    @pytest.mark.parametrize(
        "where", [CROSS, SQUARE, MODULE, POINTS], ids=["cross", "square", "module", "points"]
    )
    @pytest.mark.parametrize("less", [0, 1, 2])
    @pytest.mark.parametrize(
        ("bits", "dtype"),
        [
            (7, "i1"), (8, "u1"), (8, "f4"), (15, "i2"), (15, "f4"), (16, "u2"), (16, "f4"),
            (16, ">u2"), (20, "u4"), (20, "f4"), (31, "i4"), (31, "f4"), (31, ">f4"), (32, "u4"),
            (32, "f4"), (32, "f8"), (63, "i8"), (63, "f4"), (64, "u8"), (64, "f4"),
        ],
    )  # fmt: skip
    def test_the_largest_numbers_of_counters_mark_gaps(self, simulated, bits, dtype, less, where):
        counts = simulated(300.0).counts.astype(dtype)
        assert counts.max() < 2**bits / 4
        counts[:, where] = np.array(2**bits - 1 - less).astype(dtype)
        repaired = repair(counts)
        np.testing.assert_array_equal(masked(repaired), where)
        assert repaired.kept.all()
        assert len(repaired.report) == 1
        assert f"masked {where.sum()} pixels" in repaired.report[0]
        assert not repaired.patterns[:, where].any()

    @pytest.mark.parametrize(("marker", "dtype"), [(65534, "u2"), (32767, "i2"), (255, "u1")])
    @pytest.mark.parametrize("part", [0.3, 0.9])
    def test_a_marker_in_every_frame_is_found_beside_counts_as_large(
        self, simulated, marker, dtype, part
    ):
        counts = simulated().intensities
        counts = np.random.default_rng(1).poisson(counts * (marker * part / counts.max()))
        counts = counts.clip(max=marker - 3).astype(dtype)
        counts[:, CROSS] = marker
        np.testing.assert_array_equal(masked(repair(counts)), CROSS)

    @pytest.mark.parametrize("value", [255, 32766, 65534, 2**20 - 1, 2**31 - 1])
    def test_a_true_peak_that_equals_a_marker_is_kept(self, simulated, value):
        intensities = simulated().intensities
        counts = np.random.default_rng(2).poisson(intensities * (value / intensities.max()))
        peak = np.unravel_index(counts.argmax(), counts.shape)
        for dtype in ("f8", "i8"):
            high = counts.astype(dtype)
            high[peak] = value
            assert repair(high).report == []

    def test_a_marker_is_found_though_a_frame_is_far_too_bright(self, simulated):
        counts = simulated().counts.astype(np.uint64)
        counts[7] *= 1000
        counts[:, CROSS] = 2**20 - 1
        repaired = repair(counts)
        np.testing.assert_array_equal(masked(repaired), CROSS)
        assert np.flatnonzero(~repaired.kept).tolist() == [7]

    def test_places_are_named(self, simulated):
        counts = simulated().counts.copy()
        counts[:, CROSS] = 2**32 - 2
        assert "(4294967294) at rows 9 to 10, columns 20 to 21" in repair(counts).report[0]


class TestPixelsWithoutCounts:
    @pytest.mark.parametrize(
        "where",
        [
            CROSS,
            SQUARE,
            DISC,
            DISC | pixels(np.s_[16:, 15:17]),
            pixels(np.s_[:, :14]),
            pixels(np.s_[18:, :]),
            pixels(np.s_[18:, :], (17, 13)),
            pixels(np.s_[18:, :], np.s_[17, 13:15], np.s_[16:18, 18]),
            pixels(np.s_[:15, :15]),
            pixels(np.s_[15, :]),
            pixels(np.s_[16, 14:16]),
            pixels((16, 16)),
        ],
        ids=[
            "cross",
            "square",
            "disc",
            "arm",
            "left",
            "bottom",
            "bottom and dead pixel",
            "bottom and dead pairs",
            "corner",
            "row",
            "pair",
            "pixel",
        ],
    )
    @pytest.mark.parametrize(("photons", "most"), [(700, 0.03), (1e5, 2e-3), (1e7, 2e-3)])
    def test_light_that_a_block_of_zeros_has_swallowed_is_masked(
        self, simulated, photons, most, where
    ):
        truth = simulated(photons).counts
        repaired = repair(np.where(where, 0, truth))
        found = masked(repaired)
        assert not (found & ~where).any()
        swallowed, light = truth[:, where & ~found].sum(), truth.sum()
        assert swallowed < most * light
        assert repaired.kept.all()

    @pytest.mark.parametrize("photons", [1e5, 1e7])
    def test_a_module_where_the_light_falls_off_steeply_is_masked(self, simulated, photons):
        counts = simulated(photons).counts
        found = masked(repair(np.where(pixels(np.s_[:, :7]), 0, counts)))
        assert not found[:, 7:].any()
        assert counts[:, :, :7][:, ~found[:, :7]].sum() < 1e-4 * counts.sum()

    @pytest.mark.parametrize("probe", ["gauss", "disc", "zone plate"])
    @pytest.mark.parametrize("photons", [1e2, 1e3, 1e5, 1e9])
    @pytest.mark.parametrize("object_", ["blobs", "absorber"])
    def test_dark_regions_and_weak_frames_of_a_true_scan_are_kept(
        self, simulated, photons, probe, object_
    ):
        sim = simulated(photons, probe, object_)
        for counts in (sim.counts, sim.counts * 1e-16, sim.counts * 1e20):
            report = repair(counts).report
            told = [line for line in report if "empty frames" not in line]
            assert ["no counts" in line for line in told] == [True] * int(counts.max() < 1)

    @pytest.mark.parametrize("rounded", [True, False])
    @pytest.mark.parametrize("probe", ["gauss", "disc"])
    def test_counts_without_noise_are_kept(self, simulated, probe, rounded):
        intensities = simulated(1e5, probe).intensities
        assert repair(np.round(intensities) if rounded else intensities).report == []

    @pytest.mark.parametrize("n", [5, 10, 100])
    @pytest.mark.parametrize("photons", [1e3, 1e5])
    def test_a_noisy_detector_whose_background_is_cut_at_zero_is_kept(self, simulated, photons, n):
        counts = simulated(photons).counts[:n]
        noisy = counts + np.random.default_rng(0).normal(0, 3, counts.shape)
        assert repair(noisy.clip(min=0).astype(np.float32)).report == []

    def test_a_given_mask_is_trusted_about_them(self, simulated):
        counts = np.where(SQUARE, 0, simulated().counts)
        assert repair(counts, ~pixels((0, 0))).report == []

    def test_three_frames_tell_no_dark_spot_from_a_dead_pixel(self, simulated):
        counts = simulated().counts.copy()
        counts[:, 16, 16] = 0
        assert "dead" in repair(counts[:4]).report[0]
        assert repair(counts[:3]).report == []


class TestBrightPixels:
    def test_hot_pixels_are_masked(self, simulated):
        hot = pixels((2, 2), (16, 20), (30, 5))
        counts = simulated().counts.copy()
        counts[:, hot] = 100 * counts.max()
        np.testing.assert_array_equal(masked(repair(counts)), hot)

    @pytest.mark.parametrize("dtype", ["u4", "f4"])
    @pytest.mark.parametrize("part", [0.5, 0.8])
    def test_saturated_pixels_are_masked(self, simulated, part, dtype):
        counts = simulated().counts
        level = np.round(part * counts.max())
        cut = np.minimum(counts, level).astype(dtype)
        np.testing.assert_array_equal(masked(repair(cut)), (cut == level).any(axis=0))

    @pytest.mark.parametrize("level", [7, 15, 31, 63, 100, 255])
    @pytest.mark.parametrize("peak", [2, 3, 10])
    @pytest.mark.parametrize("probe", ["gauss", "disc"])
    def test_counts_cut_off_at_any_level_are_masked(self, simulated, level, peak, probe):
        intensities = simulated(1e5, probe).intensities
        counts = np.random.default_rng(3).poisson(intensities * peak * level / intensities.max())
        cut = np.minimum(counts, level).astype("u2")
        repaired = repair(cut)
        np.testing.assert_array_equal(masked(repaired), (cut == level).any(axis=0))
        assert len(repaired.report) == 1
        assert "saturated" in repaired.report[0]

    @pytest.mark.parametrize("peak", [0.02, 0.1, 0.5, 1, 2, 3, 5, 10, 30, 100, 1e4])
    @pytest.mark.parametrize("probe", ["gauss", "disc", "zone plate"])
    def test_counts_that_are_not_cut_off_are_not_saturated(self, simulated, peak, probe):
        intensities = simulated(1e5, probe).intensities
        intensities = intensities * (peak / intensities.max())
        rng = np.random.default_rng(4)
        counts = rng.poisson(intensities)
        for unsaturated in (
            counts,
            10 * counts,
            np.round(rng.poisson(4 * intensities) / 4),  # the mean of four
            counts.reshape(-1, 16, 2, 16, 2).sum((2, 4)),
            counts.repeat(2, 1).repeat(2, 2),
            counts.repeat(3, 0),
            np.round(intensities),
        ):
            assert not is_saturated(unsaturated)

    @pytest.mark.parametrize("level", [1, 3, 20, 1000])
    @pytest.mark.parametrize("n", [2, 5, 50])
    def test_even_and_binary_patterns_are_not_saturated(self, level, n):
        rng = np.random.default_rng(n)
        shifts = rng.normal(size=(n, 2, 1, 1))
        moving = np.hypot(*(np.indices((SIZE, SIZE)) - 15.5 - shifts).swapaxes(0, 1)) < 8
        for intensities in (level * DISC[None].repeat(n, 0), level * moving):
            assert not is_saturated(intensities)
            assert not is_saturated(rng.poisson(intensities))
        assert not is_saturated(level * rng.integers(0, 2, (n, SIZE, SIZE)))
        assert not is_saturated(rng.integers(0, level + 1, (n, SIZE, SIZE)))

    def test_a_bright_peak_is_kept(self, simulated):
        counts = simulated().counts.copy()
        counts[10] *= 5
        counts[:, 15:17, 15:17] *= 20
        assert repair(counts).report == []


class TestFrames:
    @pytest.mark.parametrize("photons", [1e3, 1e5, 1e7])
    @pytest.mark.parametrize("dark", [10, 30, 100])
    def test_frames_of_dark_counts_are_dropped(self, simulated, photons, dark):
        counts = simulated(photons).counts.copy()
        odd = [3, 77]
        counts[odd] = np.random.default_rng(0).poisson(dark / SIZE**2, (2, SIZE, SIZE))
        repaired = repair(counts)
        assert np.flatnonzero(~repaired.kept).tolist() == odd
        assert "dropped 2 frames with next to no light: 3, 77" in repaired.report
        assert repaired.valid_pixel_mask is None

    @pytest.mark.parametrize("factor", [100, 1000])
    def test_frames_far_too_bright_are_dropped(self, simulated, factor):
        counts = simulated().counts.copy()
        counts[[5, 50]] *= factor
        repaired = repair(counts)
        assert np.flatnonzero(~repaired.kept).tolist() == [5, 50]
        assert "dropped 2 frames far too bright: 5, 50" in repaired.report

    @pytest.mark.parametrize("factor", [5.0, 0.3, 0.1, 0.03, 0.01])
    def test_a_weak_or_bright_frame_is_kept(self, simulated, factor):
        counts = simulated().intensities.copy()
        counts[10] *= factor
        assert repair(np.random.default_rng(1).poisson(counts)).report == []

    def test_frames_of_a_block_are_not_compared(self, simulated):
        counts = simulated().counts.copy()
        counts[3] *= 1000
        assert repair(counts, whole_scan=False).kept.all()

    def test_no_frame_of_a_block_needs_to_be_left(self):
        repaired = repair(np.zeros((3, 8, 8)), whole_scan=False)
        assert repaired.patterns.shape == (0, 8, 8)
        with pytest.raises(ValueError, match="no frame holds a count"):
            repair(np.zeros((3, 8, 8)))

    def test_frames_are_named_by_their_numbers(self, simulated):
        counts = simulated().counts.copy()
        counts[3] = 0
        numbers = np.arange(len(counts)) + 1000
        report = repair(counts, frame_numbers=numbers).report
        assert report == ["dropped 1 empty frame: 1003"]


class TestRefusals:
    def test_bad_data_can_be_an_error(self, simulated):
        counts = simulated().counts.copy()
        assert repair(counts, on_bad_data="error").report == []
        counts[:, 3, 5] = 2**32 - 2
        with pytest.raises(ValueError, match=r"4294967294\) at \(3, 5\)"):
            repair(counts, on_bad_data="error")

    @pytest.mark.parametrize(
        ("patterns", "message"),
        [
            (np.ones((2, 4, 4), complex), "complex"),
            (np.full((2, 4, 4), "1"), "real numbers"),
            (np.ones((4, 4)), r"\(n, h, w\)"),
            (np.ones((2, 0, 4)), r"\(n, h, w\)"),
        ],
    )
    def test_what_is_no_stack_of_counts_is_refused(self, patterns, message):
        with pytest.raises(ValueError, match=message):
            repair(patterns)

    def test_another_frame_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"\(n, 8, 8\), got \(2, 4, 4\)"):
            as_counts(np.ones((2, 4, 4)), (8, 8))
        with pytest.raises(ValueError, match="valid_pixel_mask has shape"):
            repair(np.ones((2, 4, 4)), np.ones((8, 8), bool))


def test_the_unit_of_counts_is_known_where_the_frames_looked_at_are_empty():
    counts = np.zeros((64, 8, 8), int)
    counts[1, 2, 3] = 3
    assert unit_of_counts(counts) == 3


class TestTypes:
    @pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8", "f2", "?", "longdouble"])
    def test_types_that_torch_lacks_are_converted(self, dtype):
        torch = pytest.importorskip("torch")
        given = (np.arange(32).reshape(2, 4, 4) % 5).astype(dtype)
        counts = as_counts(given)
        assert torch.from_numpy(counts).shape == (2, 4, 4)
        np.testing.assert_array_equal(counts, given)

    def test_negative_strides_are_straightened(self):
        torch = pytest.importorskip("torch")
        given = np.arange(32.0).reshape(2, 4, 4)[::-1, :, ::-1]
        np.testing.assert_array_equal(torch.from_numpy(as_counts(given)).numpy(), given)

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "u8", "f4", "f8"])
    def test_other_types_stay_and_are_not_copied(self, dtype):
        given = np.ones((2, 4, 4), dtype)
        assert as_counts(given) is given


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_defects_are_masked_and_nothing_else(simulated, data):
    """Any mixture of single bad pixels and odd frames is found without loss of good ones."""
    counts = simulated(1e4).counts.astype(np.float32)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bad = pixels()
    for value in data.draw(
        st.lists(st.sampled_from([np.nan, np.inf, -1.0, 2.0**32, 1e9, 65535.0]), max_size=6)
    ):
        y, x = rng.integers(0, SIZE, 2)
        frames = slice(None) if rng.random() < 0.5 else rng.integers(0, len(counts))
        if value == 1e9:  # a hot pixel shines in every frame
            frames = slice(None)
        if not bad[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].any():
            counts[frames, y, x] = value
            bad[y, x] = True
    odd = set()
    for factor in data.draw(st.lists(st.sampled_from([0.0, 1000.0, np.nan]), max_size=4)):
        frame = int(rng.integers(0, len(counts)))
        if frame not in odd and np.isfinite(counts[frame]).all():
            counts[frame] *= factor
            odd.add(frame)
    repaired = repair(counts)
    assert not (masked(repaired) & ~bad).any()
    assert set(np.flatnonzero(~repaired.kept)) == odd
    assert np.isfinite(repaired.patterns).all()


@pytest.mark.parametrize("name", ["siemens_star", "rotavirus"])
@pytest.mark.parametrize("dtype", [None, np.float32])
def test_nothing_is_masked_in_measured_scans(data_folder, name, dtype):
    folder = data_folder / name
    scan = load_scan(folder / "diffraction.h5", folder / "product.h5")
    assert scan.valid_pixel_mask is None
    if dtype is not None:
        assert repair(scan.patterns[:300].astype(dtype)).report == []


def test_the_dead_pixels_of_a_measured_scan_are_those_of_its_mask(data_folder):
    path = data_folder / "near_field" / "PETRAIII_P25_Near_Field_Ptycho.cxi"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = load_scan(path)
    assert repair(scan.patterns, scan.valid_pixel_mask).report == []
    found = repair(scan.patterns)
    np.testing.assert_array_equal(found.valid_pixel_mask, scan.valid_pixel_mask)
