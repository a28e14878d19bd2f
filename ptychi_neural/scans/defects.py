"""Defects of measured counts: what no loss may see is masked or dropped, and counted.

- Counts that are NaN, infinite, negative, or the largest number of an unsigned type of two bytes
  or more (detectors mark gaps and overflow with it): a pixel is masked in all frames, unless most
  of a frame is broken; then the frame is dropped.
- Dead and hot pixels, looked for where nobody gave a mask. A dead pixel never counts where its
  neighbours do, a hot pixel outshines all of its neighbours: neither can be light, because
  speckle of a probe smaller than the field of view is wider than a pixel.
- Frames without a single count: dropped.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BROKEN_FRACTION = 0.5
"""Part of its pixels from which a frame counts as broken, part of the frames from which a pixel
does, and part of the detector that may be masked."""

DEAD_PIXEL_COUNTS = 50.0
"""A pixel is dead if it counts nothing in a scan where its neighbours' median is above this."""

HOT_PIXEL_FACTOR = 50.0
"""A pixel is hot if it counts this many times more in a scan than the brightest neighbour."""

NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)


class Repaired(NamedTuple):
    """Patterns free of defects."""

    patterns: NDArray[np.generic]
    """(n_kept, h, w) counts in the type they came in; broken ones are 0 and masked."""

    valid_pixel_mask: NDArray[np.bool_] | None
    """(h, w), True where the detector works; None if all of it does."""

    kept: NDArray[np.bool_]
    """(n,), False where a frame was dropped."""

    report: list[str]
    """What was masked and dropped, counted; empty if nothing was."""


def repair(
    patterns: NDArray[np.generic], valid_pixel_mask: NDArray[np.bool_] | None = None
) -> Repaired:
    """Mask and drop what is broken.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) counts.
    valid_pixel_mask : ndarray, optional
        (h, w), True where the detector works. Without it dead and hot pixels are looked for.

    Returns
    -------
    Repaired
        Patterns, mask, and what was done.

    Raises
    ------
    ValueError
        If most of the detector is broken or no frame is left.
    """
    n_pixels = patterns[0].size
    valid = np.ones(patterns.shape[1:], bool) if valid_pixel_mask is None else valid_pixel_mask
    broken = _broken(patterns)
    kept = np.ones(len(patterns), bool)
    found = {}
    if broken.any():
        patterns = np.where(broken, patterns.dtype.type(0), patterns)
        broken &= valid
        sporadic = broken & ~(broken.mean(axis=0) > BROKEN_FRACTION)
        kept = sporadic.mean(axis=(1, 2)) <= BROKEN_FRACTION
        broken_pixels = broken[kept].any(axis=0)
        found["pixels with NaN, Inf, negative or overflown counts"] = broken_pixels
        valid = valid & ~broken_pixels
    if valid_pixel_mask is None:
        scan_counts = patterns[kept].sum(axis=0, dtype=np.float64)
        found["dead pixels"] = _dead(scan_counts) & valid
        found["hot pixels"] = _hot(scan_counts) & valid
        valid = valid & ~found["dead pixels"] & ~found["hot pixels"]
    n_masked = sum(int(pixels.sum()) for pixels in found.values())
    if n_masked > BROKEN_FRACTION * n_pixels or not valid.any():
        raise ValueError(
            f"{n_masked} of {n_pixels} detector pixels hold NaN, Inf, negative or overflown "
            f"counts, or are dead or hot, and {int(valid.sum())} valid ones are left; correct the "
            "patterns or pass valid_pixel_mask."
        )
    empty = kept & (np.where(valid, patterns, 0).max(axis=(1, 2)) == 0)
    report = [f"masked {pixels.sum()} {what}" for what, pixels in found.items() if pixels.any()]
    if not kept.all():
        report.append(f"dropped {(~kept).sum()} broken frames")
    if empty.any():
        report.append(f"dropped {empty.sum()} empty frames")
    kept = kept & ~empty
    if not kept.any():
        raise ValueError("no frame holds a count in a valid pixel; check patterns and mask.")
    return Repaired(
        patterns if kept.all() else patterns[kept], None if valid.all() else valid, kept, report
    )


def _broken(patterns: NDArray[Any]) -> NDArray[np.bool_]:
    if patterns.dtype.kind == "f":
        return ~(np.isfinite(patterns) & (patterns >= 0))
    if patterns.dtype.kind == "u" and patterns.dtype.itemsize > 1:
        return np.asarray(patterns == np.iinfo(patterns.dtype).max)
    return np.asarray(patterns < 0)


def _dead(scan_counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    around = ndimage.median_filter(scan_counts, footprint=NEIGHBOURS, mode="nearest")
    return (scan_counts == 0) & (around > DEAD_PIXEL_COUNTS)


def _hot(scan_counts: NDArray[np.float64]) -> NDArray[np.bool_]:
    around = ndimage.maximum_filter(scan_counts, footprint=NEIGHBOURS, mode="constant")
    return scan_counts > HOT_PIXEL_FACTOR * np.maximum(around, 1)
