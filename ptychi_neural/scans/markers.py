"""Counts that are no counts: NaN, overflow, and the numbers with which detectors mark gaps.

Detectors fill the gaps between their modules, and dead pixels, with the largest number of their
counter or one or two less (2^32 - 1 and 2^32 - 2 of an Eiger, 2^20 - 1 of a 20 bit counter), and
later steps copy these numbers into other types. Such a number is a marker, and no true count,
where it stays alone: it is far above every other count of the pixel and its neighbours, or a pixel
holds it in every frame.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

COUNTER_BITS = (7, 8, 12, 14, 15, 16, 20, 24, 31, 32, 63, 64)
"""Bits of counters: signed and unsigned integers, and counters of detectors."""

MARKERS = np.array([2.0**bits - 1 - less for bits in COUNTER_BITS for less in (2, 1, 0)])
"""Largest numbers of counters, and one and two less, in ascending order."""

LARGEST_EXACT = 2.0**53
"""Whole numbers below it are the same in double precision."""

FAR_ABOVE = 4.0
"""A marker is this many times larger than any other count around it."""

SURROUNDINGS = 5
"""Side of the square of pixels around a marker with whose counts it is compared."""

FEWEST_CONSTANT = 8
"""Frames from which a pixel that always holds a marker is one without looking around it."""


def broken_counts(patterns: NDArray[Any]) -> NDArray[np.bool_] | None:
    """(n, h, w) True where a count is NaN, infinite, negative or overflown; None if none is."""
    kind = patterns.dtype.kind
    if kind == "u":
        if patterns.dtype.itemsize == 1:
            return None
        largest = np.iinfo(patterns.dtype).max
        return np.asarray(patterns == largest) if patterns.max(initial=0) == largest else None
    if kind == "i":
        return np.asarray(patterns < 0) if patterns.min(initial=0) < 0 else None
    broken = ~(np.isfinite(patterns) & (patterns >= 0))
    return broken if broken.any() else None


class Marked(NamedTuple):
    """Counts that equal a marker, and may be one."""

    patterns: NDArray[Any]
    """(n, h, w) counts."""

    suspects: NDArray[np.bool_]
    """(n, h, w) True where a count equals a marker."""

    others: NDArray[Any]
    """(n, h, w) counts with 0 in place of suspects."""

    largest: float
    """The largest suspect."""

    def among(self, kept: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """(n, h, w) True where a count is a marker; None if none is.

        Frames that are not ``kept`` do not judge.
        """
        patterns, suspects = self.patterns, self.suspects
        judging = self.others if kept.all() else self.others[kept]
        others = judging.max(axis=0, initial=0).astype(np.float64)
        if self.largest < self._smallest_sure() and self.largest <= FAR_ABOVE * others.max():
            return None
        around = ndimage.maximum_filter(others, size=SURROUNDINGS, mode="constant")
        # A small number may be true light all over a region, and must stand out of the whole scan.
        small = patterns < self._smallest_sure()
        markers = suspects & (patterns > FAR_ABOVE * np.where(small, others.max(), around))
        if kept.sum() >= FEWEST_CONSTANT:
            sure = np.where(suspects, patterns, 0) >= self._smallest_sure()
            always = sure.all(axis=0, where=kept[:, None, None])
            if always.mean() <= 0.5:
                markers |= suspects & always
        return np.asarray(markers) if markers.any() else None

    def named(self, markers: NDArray[np.bool_]) -> str:
        """The numbers that are markers, in ascending order."""
        return ", ".join(f"{value:.10g}" for value in np.unique(self.patterns[markers]))

    def _smallest_sure(self) -> float:
        """The least marker that true light cannot be in many pixels or frames by chance."""
        whole = self.patterns.dtype.kind in "ui" and self.patterns.dtype.itemsize == 1
        return 125 if whole else 2**14 - 3


def marked_counts(patterns: NDArray[Any]) -> Marked | None:
    """Find the counts that equal a marker; None if none does."""
    largest = float(patterns.max(initial=0))
    if largest < MARKERS[0]:
        return None
    if patterns.dtype.kind != "f" and largest < LARGEST_EXACT:
        may_be = MARKERS[largest >= MARKERS].astype(patterns.dtype)
        found = may_be[[bool((patterns == number).any()) for number in may_be]]
    else:
        values = np.unique(patterns[patterns >= patterns.dtype.type(MARKERS[0])])
        numbers = values.astype(np.float64)
        near = np.abs(numbers[:, None] - MARKERS).min(axis=1)
        # Numbers in double precision may be copies of others in single precision.
        rounding = np.finfo(np.float32).eps * numbers if patterns.dtype.kind == "f" else 0.0
        found = values[near <= np.maximum(rounding, 0.25)]
    if len(found) == 0:
        return None
    suspects = np.isin(patterns, found, kind="sort")  # a loop over the few numbers
    others = np.where(suspects, patterns.dtype.type(0), patterns)
    return Marked(patterns, suspects, others, float(found[-1]))
