"""One check of measured counts, for files, arrays handed to a task, and blocks of a stream.

What no loss may see is masked or dropped, counted and named:

- Counts that are NaN, infinite, negative, the largest number of an unsigned type of two bytes or
  more, or the number with which detectors mark gaps (``markers``): a pixel is masked in all
  frames, unless most of a frame is broken; then the frame is dropped.
- Frames that do not belong to the scan, because the shutter was closed, the beam far too bright or
  the light even (``odd_frames``), and frames without a single count: dropped.
- Dead, hot and stuck pixels and blocks without counts, looked for where nobody gave a mask, and
  pixels that saturate or flash (``defects``): masked.

True light is not taken for a defect: speckle of a probe smaller than the field of view is wider
than a pixel, so that neighbouring pixels and other frames tell what a pixel can count.
"""

from typing import Literal, NamedTuple, get_args
from weakref import ref

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.counted import counted
from ptychi_neural.scans.blocks import blocks_without_counts
from ptychi_neural.scans.defects import (
    FEWEST_FOR_STUCK,
    dead,
    flashing,
    hot,
    stuck,
    unit_of_counts,
)
from ptychi_neural.scans.earlier_frames import EarlierFrames, PixelHistory
from ptychi_neural.scans.hdf5 import native
from ptychi_neural.scans.hints import hints
from ptychi_neural.scans.markers import broken_counts, marked_counts
from ptychi_neural.scans.masks import telling
from ptychi_neural.scans.odd_frames import (
    FEWEST_COUNTS_ALONE,
    FLAT_FRACTION,
    are_dark,
    evenly_lit,
    light_of_frames,
    sum_of_frames,
    too_bright,
    too_dark,
)
from ptychi_neural.scans.saturation import saturated

BROKEN_FRACTION = 0.5
"""Part of its pixels from which a frame counts as broken, part of the frames from which a pixel
does, and part of the detector that may be masked."""

FEWEST_FRAMES_WITHOUT_COUNTS = 4
"""Frames without counts from which a dark pixel is no dark spot of the speckle."""

NEGATIVE_HINT = (
    " Negative counts come of a subtracted background, which may be cut off at 0, or of logarithms."
)

TOO_DARK = "frames with next to no light"

ABSORBER_HINT = (
    "whose shutter was closed, or which lie behind a strong absorber: there count longer, until "
    f"frames have {FEWEST_COUNTS_ALONE:.0f} counts with the shape of the other patterns"
)

MOST_NAMED = 8
"""Pixels or frames that a message names one by one."""

OnBadData = Literal["mask", "error"]
"""What is done about defects: mask and drop them, or refuse the data."""

PixelNumbers = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Numbers of rows, and of columns, in the frames as they are stored."""


_REPAIRED: dict[int, tuple[ref, float]] = {}
"""Arrays of repaired counts, while they exist, and the sums of their counts."""


class Repaired(NamedTuple):
    """Patterns free of defects."""

    patterns: NDArray[np.generic]
    """(n_kept, h, w) counts in the type they came in; broken ones are 0 and masked."""

    valid_pixel_mask: NDArray[np.bool_] | None
    """(h, w), True where the detector works; None if all of it does."""

    kept: NDArray[np.bool_]
    """(n,), False where a frame was dropped."""

    report: list[str]
    """What was masked and dropped, counted and named, and what patterns look like if they do not
    look like counts with DC at the centre; empty if there is nothing to tell."""

    known: EarlierFrames | None = None
    """What is known of the scan after a block, for the next one."""

    odd_before: NDArray[np.bool_] | None = None
    """(n_earlier,) True for earlier frames that turned out not to belong, after a block."""


def as_counts(
    patterns: ArrayLike, frame_shape: tuple[int, ...] | None = None
) -> NDArray[np.generic]:
    """Patterns as an array that torch takes.

    Big-endian numbers, negative strides, booleans and half or extended precision are converted;
    other types stay as they are.

    Parameters
    ----------
    patterns : array_like
        (n, h, w) counts.
    frame_shape : tuple, optional
        (h, w) that they must have.

    Raises
    ------
    ValueError
        If they are complex, not numbers, or of another shape.

    Examples
    --------
    >>> as_counts(np.ones((2, 4, 4), ">u2")[:, ::-1]).dtype
    dtype('uint16')
    """
    counts = np.asarray(patterns)
    if counts.dtype.kind == "c":
        raise ValueError("patterns are complex; give counts, not diffraction amplitudes.")
    if counts.dtype.kind not in "uifb":
        raise ValueError(f"patterns are {counts.dtype}; give counts, which are real numbers.")
    if (
        counts.ndim != 3
        or 0 in counts.shape[1:]
        or counts.shape[1:] != (counts.shape[1:] if frame_shape is None else tuple(frame_shape))
    ):
        expected = "n, h, w" if frame_shape is None else f"n, {frame_shape[0]}, {frame_shape[1]}"
        raise ValueError(f"patterns must have the shape ({expected}), got {counts.shape}.")
    other_types = {"b1": np.uint8, "f2": np.float32, "f16": np.float64}
    other = other_types.get(f"{counts.dtype.kind}{counts.dtype.itemsize}")
    counts = native(counts) if other is None else counts.astype(other)
    return counts.copy() if min(counts.strides) < 0 else counts


def repair(
    patterns: ArrayLike,
    valid_pixel_mask: NDArray[np.bool_] | None = None,
    on_bad_data: OnBadData = "mask",
    *,
    frame_numbers: NDArray[np.integer] | None = None,
    pixel_numbers: PixelNumbers | None = None,
    whole_scan: bool = True,
    earlier: EarlierFrames | None = None,
) -> Repaired:
    """Mask and drop what is broken.

    Parameters
    ----------
    patterns : array_like
        (n, h, w) counts, DC at the image centre: neighbouring pixels must be neighbours.
    valid_pixel_mask : ndarray, optional
        (h, w), True where the detector works. Without it dead and hot pixels are looked for.
    on_bad_data : str
        ``"mask"`` what is broken, or raise an ``"error"`` that names it.
    frame_numbers : ndarray, optional
        (n,) numbers by which frames are named; None: 0 ... n - 1.
    pixel_numbers : tuple of ndarray, optional
        (h,) numbers of rows and (w,) of columns by which pixels are named; None: those of
        ``patterns``.
    whole_scan : bool
        False for a block of frames of a scan that goes on: none needs to be left, and frames are
        compared with ``earlier`` ones only.
    earlier : EarlierFrames, optional
        What is known of the scan from earlier blocks.

    Returns
    -------
    Repaired
        Patterns, mask, and what was done.

    Raises
    ------
    ValueError
        If the patterns are no counts, most of the detector is broken, no frame is left, or
        something is broken and ``on_bad_data`` is ``"error"``.
    """
    if on_bad_data not in get_args(OnBadData):
        raise ValueError(f"on_bad_data is {on_bad_data!r}; choose 'mask' or 'error'.")
    patterns = as_counts(patterns)
    frame_shape = patterns.shape[1:]
    if valid_pixel_mask is not None and np.shape(valid_pixel_mask) != frame_shape:
        raise ValueError(
            f"valid_pixel_mask has shape {np.shape(valid_pixel_mask)}, patterns {frame_shape}; "
            "pass one boolean for each detector pixel."
        )
    numbers = np.arange(len(patterns)) if frame_numbers is None else np.asarray(frame_numbers)
    valid = np.ones(frame_shape, bool) if valid_pixel_mask is None else valid_pixel_mask != 0
    known = valid if earlier is None else valid & earlier.valid
    search = _Search(patterns, known, earlier, whole_scan)
    search.look_for_everything(with_dead_and_hot=valid_pixel_mask is None)
    valid, n_masked = search.valid, sum(int(bad.sum()) for bad in search.pixels.values())
    if n_masked > BROKEN_FRACTION * valid.size or not valid.any():
        raise ValueError(
            f"{n_masked} of {valid.size} detector pixels hold NaN, Inf, negative or overflown "
            "counts or gap markers, saturate, or are dead or hot, and "
            f"{int(valid.sum())} valid ones are left; correct the patterns or pass "
            f"valid_pixel_mask.{NEGATIVE_HINT if np.less(patterns, 0).any() else ''}"
        )
    if valid_pixel_mask is not None and whole_scan and search.is_inverted():
        raise ValueError(
            f"the {int(valid.sum())} pixels that the mask calls valid count the same in every "
            "frame, and the others do not: the mask is inverted."
        )
    search.drop("empty frames", np.asarray(~search.patterns.any(axis=(1, 2), where=valid)))
    whole = (np.arange(frame_shape[0]), np.arange(frame_shape[1]))
    report = search.report(numbers, pixel_numbers or whole)
    if report and on_bad_data == "error":
        raise ValueError(
            f"bad data would be masked or dropped ({', '.join(report)}); correct the patterns, "
            "pass valid_pixel_mask, or set on_bad_data to 'mask'."
        )
    if whole_scan and not search.kept.any():
        raise ValueError("no frame holds a count in a valid pixel; check patterns and mask.")
    kept = search.patterns if search.kept.all() else search.patterns[search.kept]
    if whole_scan:
        report += hints(search.patterns, valid)
        remember(kept)
        return Repaired(kept, telling(valid), search.kept, report)
    return Repaired(
        kept, telling(valid), search.kept, report, search.known(kept), search.odd_before
    )


def remember(patterns: NDArray[np.generic]) -> None:
    """Take note that an array holds the repaired counts of a whole scan."""
    key = id(patterns)
    _REPAIRED[key] = (ref(patterns, lambda _: _REPAIRED.pop(key, None)), _sum(patterns))


def is_repaired(patterns: NDArray[np.generic]) -> bool:
    """Whether an array holds the repaired counts of a whole scan, and still the same."""
    known, total = _REPAIRED.get(id(patterns), (None, 0.0))
    return known is not None and known() is patterns and _sum(patterns) == total


def _sum(patterns: NDArray[np.generic]) -> float:
    return float(patterns.sum(dtype=np.float64))


class _Search:
    """What has been found so far, and what is left of the scan."""

    def __init__(
        self,
        patterns: NDArray[np.generic],
        valid: NDArray[np.bool_],
        earlier: EarlierFrames | None,
        whole_scan: bool,
    ) -> None:
        self.patterns = patterns
        self.valid = valid
        self.earlier = earlier
        self.whole_scan = whole_scan
        self.kept = np.ones(len(patterns), bool)
        self.pixels: dict[str, NDArray[np.bool_]] = {}
        self.frames: dict[str, NDArray[np.bool_]] = {}
        self.odd_before = np.zeros(0 if earlier is None else earlier.n_frames, bool)

    def mask(self, what: str, bad: NDArray[np.bool_]) -> None:
        """Take detector pixels, (h, w), out of the scan."""
        self.pixels[what] = self.pixels.get(what, False) | (bad & self.valid)
        self.valid = self.valid & ~bad

    def drop(self, what: str, bad: NDArray[np.bool_]) -> None:
        """Take frames, (n,), out of the scan."""
        self.frames[what] = bad & self.kept
        self.kept = self.kept & ~bad

    def clear(self, what: str, frames: str, bad: NDArray[np.bool_]) -> None:
        """Take counts, (n, h, w), out of the scan: with their pixels or with their frames."""
        self.patterns = np.where(bad, self.patterns.dtype.type(0), self.patterns)
        bad = bad & self.valid & self.kept[:, None, None]
        sporadic = bad
        if self.whole_scan:  # A block may well have no frame that is not broken.
            sporadic = bad & ~(bad.sum(axis=0) > BROKEN_FRACTION * self.kept.sum())
        self.drop(frames, sporadic.mean(axis=(1, 2)) > BROKEN_FRACTION)
        self.mask(what, np.asarray(bad[self.kept].any(axis=0)))

    @property
    def history(self) -> PixelHistory | None:
        """What the pixels have counted before."""
        return None if self.earlier is None else self.earlier.pixels

    def known(self, patterns: NDArray[np.generic]) -> EarlierFrames:
        """What is known for the next block, with the (n, h, w) counts that were kept."""
        earlier = self.earlier or EarlierFrames.none(self.valid)
        light = light_of_frames(patterns, self.valid)
        known = earlier.joined(patterns, light, self.valid, FLAT_FRACTION)
        saturates = self.pixels["saturated pixels"]
        if saturates.any():
            known.cut_off = float(known.pixels.largest[saturates].max())
        return known

    def is_inverted(self) -> bool:
        """Whether the minority of pixels that are called valid is stuck, and the others count."""
        valid = self.valid
        if 2 * valid.sum() >= valid.size or self.kept.sum() < FEWEST_FOR_STUCK:
            return False
        kept = self.patterns[self.kept]
        same = (kept[1:] == kept[0]).all(axis=0)
        return bool(same[valid].all() and not same[~valid].all())

    def look_for_everything(self, with_dead_and_hot: bool) -> None:
        """Look for all that is broken, in an order in which nothing hides anything else."""
        broken = broken_counts(self.patterns)
        if broken is not None:
            what = "pixels with NaN, Inf, negative or overflown counts"
            self.clear(what, "broken frames", broken)
        marked = marked_counts(self.patterns)
        counts = self.patterns if marked is None else marked.others
        unit = unit_of_counts(counts)
        if self.whole_scan or self.earlier is not None:
            self.look_for_odd_frames(counts, unit)
        markers = None if marked is None else marked.among(self.kept)
        if marked is not None and markers is not None:
            what = f"pixels with a detector's gap marker ({marked.named(markers)})"
            self.clear(what, "frames full of gap markers", markers)
        if with_dead_and_hot:
            self.mask("hot pixels", hot(self.scan_counts(), unit))
        of_scan, before = (self.patterns, self.kept), self.history
        self.mask("flashing pixels", flashing(*of_scan, self.valid, unit, before))
        self.mask("saturated pixels", saturated(*of_scan, self.valid, unit, self.earlier))
        if with_dead_and_hot:
            self.mask("stuck pixels", stuck(*of_scan, self.valid, unit, before))
        if with_dead_and_hot:
            self.look_for_dead(unit)

    def look_for_odd_frames(self, patterns: NDArray[np.generic], unit: float) -> None:
        """Drop frames that are far too bright, have next to no light, or no pattern, by (n, h, w)
        counts without markers, which are no light."""
        earlier = self.earlier or EarlierFrames.none(self.valid)
        n_earlier, before = earlier.n_frames, np.where(self.valid, earlier.counts, 0)
        pixels = self.valid & ~self.defects_whatever_frames_are(patterns, unit)
        light = light_of_frames(patterns, pixels)
        every_kept = np.concatenate([np.ones(n_earlier, bool), self.kept])
        bright = too_bright(np.concatenate([earlier.light, light]), every_kept)
        dark = np.zeros_like(bright)
        if bright.any():
            sums = [
                sum_of_frames(patterns, self.kept & (bright[n_earlier:] == of), pixels) / unit
                for of in (False, True)
            ]
            sums[int(bright[:n_earlier].any())] += np.where(pixels, before, 0) / unit
            others_are_dark = are_dark(sums[0], int((every_kept & ~bright).sum()), sums[1], pixels)
            if others_are_dark:
                dark = every_kept & ~bright
            if others_are_dark is not False:
                bright = np.zeros_like(bright)
        self.drop("frames far too bright", bright[n_earlier:])
        dark |= too_dark(patterns, light, self.kept, pixels, unit, self.earlier)
        self.drop(TOO_DARK, dark[n_earlier:])
        self.odd_before = (bright | dark)[:n_earlier]
        even = evenly_lit(patterns, light, self.kept, pixels, unit, self.earlier)
        self.drop("evenly lit frames", even)

    def defects_whatever_frames_are(
        self, patterns: NDArray[np.generic], unit: float
    ) -> NDArray[np.bool_]:
        """(h, w) True for bright pixels and blocks without counts, though frames be far too bright:
        those are among the brighter half."""
        light = light_of_frames(patterns, self.valid)
        every = sum_of_frames(patterns, self.kept, self.valid)
        darker = (
            self.kept & (light <= np.median(light[self.kept])) if self.kept.any() else self.kept
        )
        of_darker = sum_of_frames(patterns, darker, self.valid)
        blocks = blocks_without_counts(every, self.valid, unit)
        bright = hot(every, unit) | hot(of_darker, unit)
        flashes = flashing(patterns, self.kept, self.valid, unit, self.history)
        return bright | flashes | blocks

    def scan_counts(self) -> NDArray[np.float64]:
        """(h, w) sum of the counts of all frames, 0 in masked pixels."""
        counts = sum_of_frames(self.patterns, self.kept, self.valid)
        if self.earlier is not None:
            counts += np.where(self.valid, self.earlier.counts, 0)
        return counts

    def look_for_dead(self, unit: float) -> None:
        """Mask dead pixels and blocks without counts, which may lie beside other defects."""
        n_earlier = 0 if self.earlier is None else self.earlier.n_frames
        if self.kept.sum() + n_earlier >= FEWEST_FRAMES_WITHOUT_COUNTS:
            scan_counts = self.scan_counts()
            self.mask("dead pixels", dead(scan_counts, self.valid, unit))
            lit = self.varying(self.pixels["saturated pixels"])
            if lit.any():
                scan_counts[lit] = sum_of_frames(self.patterns, self.kept, lit)[lit]
            blocks = blocks_without_counts(scan_counts, self.valid | lit, unit)
            self.mask("pixels in blocks without counts", blocks)
            if blocks.any():  # Those that touch a block show now.
                self.mask("dead pixels", dead(self.scan_counts(), self.valid, unit))

    def varying(self, pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(h, w) True for those of some pixels that do not count the same in every frame."""
        counts = self.patterns[:, pixels][self.kept]
        found = np.zeros_like(pixels)
        found[pixels] = (counts != counts[:1]).any(axis=0)
        return found

    def report(self, numbers: NDArray[np.integer], of_pixels: PixelNumbers) -> list[str]:
        """What was masked and dropped, with the places of pixels and the numbers of frames."""
        told = [
            f"masked {counted(bad.sum(), what)} at {_places(bad, *of_pixels)}"
            for what, bad in self.pixels.items()
            if bad.any()
        ]
        for what, bad in self.frames.items():
            if bad.any():
                told.append(f"dropped {counted(bad.sum(), what)}: {_ranges(np.sort(numbers[bad]))}")
                told += [ABSORBER_HINT] * (what == TOO_DARK)
        return told


def _places(
    pixels: NDArray[np.bool_], rows: NDArray[np.integer], columns: NDArray[np.integer]
) -> str:
    """Whole rows and columns, and some of the other pixels or the box around them."""
    wholly = {"rows": rows[pixels.all(axis=1)], "columns": columns[pixels.all(axis=0)]}
    told = [f"{what} {_ranges(np.sort(k))}" for what, k in wholly.items() if len(k)]
    rest = pixels & ~pixels.all(axis=1, keepdims=True) & ~pixels.all(axis=0)
    y, x = np.nonzero(rest)
    where = np.stack([rows[y], columns[x]], axis=1)
    if len(where) > MOST_NAMED:
        (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0)
        told.append(f"({top}, {left}) to ({bottom}, {right})")
    else:
        told += [f"({y}, {x})" for y, x in where]
    return ", ".join(told)


def _ranges(numbers: NDArray[np.integer]) -> str:
    """Whole numbers with a range for those in a row."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    named = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"{', '.join(named[:MOST_NAMED])}{more}"
