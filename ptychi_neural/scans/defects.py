"""Detector pixels that do not count light: dead, hot, flashing and stuck ones.

Where neighbouring pixels count much in a scan, a pixel that counts nothing is dead, because the
speckle of a probe smaller than the field of view is wider than a pixel. A dark region of the
pattern fades out over several pixels; a missing module or a beam stop that was stored as zeros
begins beside pixels in full light.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from ptychi_neural.scans.earlier_frames import PixelHistory

DEAD_PIXEL_COUNTS = 50.0
"""Pixels are dead if they count nothing in a scan where nearly all neighbours count more."""

NEARLY_ALL = 0.8
"""Part of the neighbours of a dead pixel or block that must be bright."""

DARK_LINE = 0.22
"""Part of the mean of all neighbours of a pixel below which two neighbours on opposite sides of it
both are where the light has a dark line, as between the rings of an aperture's pattern."""

LARGEST_DEAD_GROUP = 4
"""Number of pixels up to which dead neighbours are dead pixels and not a block."""

SMALLEST_UNIT = 1e-9
"""Least value of one count as a part of the largest: smaller numbers are rounding errors."""

HOT_PIXEL_FACTOR = 50.0
"""A pixel is hot if it counts this many times more in a scan than the brightest neighbour."""

FLASH_FACTOR = 8.0
"""A pixel flashes if it counts this many times more in a frame than in most others, and than its
neighbours in any frame."""

LARGEST_HOT_GROUP = 4
"""Number of pixels up to which neighbours that outshine all around them together are hot."""

FEWEST_FOR_FLASH = 5
"""Frames from which flashes are looked for."""

FEWEST_FOR_STUCK = 16
"""Frames from which a pixel that always counts the same is stuck and no chance."""

COUNTING = 0.5
"""Variance relative to that of photon noise from which the neighbours of a stuck pixel count."""

LARGEST_COUNT = 2.0**32
"""Numbers above it are taken for multiples of a unit, whole or not."""

ORDINARY_UNITS = (0.1, 10.0)
"""Values of one count between which numbers that are not whole are taken for counts as they are: a
gain or a correction by a flat field changes them by less."""

FRAMES_FOR_VARIANCE = 32
"""Frames from which the variance of counts is taken, where there are so many."""

FEWEST_FOR_VARIANCE = 4

SQUARE = np.ones((3, 3), dtype=bool)


def unit_of_counts(patterns: NDArray[Any]) -> float:
    """The value of one count: counts may be in any unit.

    The variance of a pixel's counts over their mean tells it, because that is the unit in Poisson
    noise and more where the sample changes the pattern. Of whole numbers it is not above the least
    positive one, nor below 1; of a few frames it is the least positive number.

    Examples
    --------
    >>> unit_of_counts(np.array([[[0, 300], [100, 700]]]))
    100.0
    """
    if patterns.dtype.kind != "f" and (patterns == 1).any():
        return 1.0
    largest = patterns.max(initial=0)
    least = float(patterns.min(initial=largest, where=patterns > 0))
    if least <= 0:
        return 1.0
    some = patterns[:: max(len(patterns) // FRAMES_FOR_VARIANCE, 1)]
    lit = (some != some[0]).any(axis=0)  # A pixel that is stuck, as gaps are, counts nothing.
    some = some[:, lit] if lit.any() and not lit.all() else some.reshape(len(some), -1)
    whole = patterns.dtype.kind != "f" or bool((some == np.round(some)).all())
    if whole and least <= 1:
        return 1.0
    some = some.astype(np.float64)
    mean = some.mean(axis=0)
    if len(some) >= FEWEST_FOR_VARIANCE and lit.any():
        ratio = float(np.quantile(some.var(axis=0, ddof=1) / mean, 0.1))
        least = min(least, ratio) if whole else ratio
    return max(least, 1.0 if whole else SMALLEST_UNIT * float(largest))


def arbitrary_unit(patterns: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> float:
    """The value of one count where patterns are multiples of another unit by far; else 1.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) finite numbers.
    valid : ndarray, optional
        (h, w) True where the detector works.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(20.0, (64, 8, 8))
    >>> arbitrary_unit(counts), arbitrary_unit(counts * 0.5)
    (1.0, 1.0)
    >>> 0.5e-16 < arbitrary_unit(counts * 1e-16) < 2e-16
    True
    """
    if patterns.dtype.kind != "f" and patterns.dtype.itemsize <= 4:
        return 1.0
    some = patterns[:: max(len(patterns) // FRAMES_FOR_VARIANCE, 1)]
    some = some if valid is None else some[:, valid]
    is_count = some.max(initial=0) <= LARGEST_COUNT
    if is_count and (patterns.dtype.kind != "f" or bool((some == np.round(some)).all())):
        return 1.0
    unit = unit_of_counts(some)
    return 1.0 if is_count and ORDINARY_UNITS[0] <= unit <= ORDINARY_UNITS[1] else unit


def dead(
    scan_counts: NDArray[np.float64], valid: NDArray[np.bool_], unit: float = 1.0
) -> NDArray[np.bool_]:
    """(h, w) True for a few pixels that count nothing where nearly all their neighbours do."""
    found, counts = np.zeros(scan_counts.shape, bool), scan_counts / unit
    beside_bright = widened(valid & (counts > DEAD_PIXEL_COUNTS))
    padded = np.pad(np.where(valid, counts, np.nan), 1, constant_values=np.nan)
    for group, box in groups(valid & (scan_counts == 0), beside_bright):
        if group.sum() <= LARGEST_DEAD_GROUP:
            beside, _ = around(group, box, counts, valid)
            is_dead = nearly_all_bright(beside)
            if group.sum() == 1:
                y, x = box[0].start, box[1].start
                pairs = _opposite(padded[y : y + 3, x : x + 3])
                expected = np.sqrt(pairs.prod(axis=1)).min(initial=np.inf)
                is_dead |= len(pairs) > 0 and expected > DEAD_PIXEL_COUNTS
                is_dead &= pairs.max(axis=1).min(initial=np.inf) >= DARK_LINE * beside.mean()
            found[box] |= group & is_dead
    return found


def _opposite(near: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) counts on opposite sides of the middle of (3, 3) pixels, along a row, column or
    diagonal, where both are valid and not nan.

    Light that falls off around a peak is at least the geometric mean of the two between them.
    """
    pairs = np.stack([near.ravel()[:4], near.ravel()[:4:-1]], axis=1)
    return np.asarray(pairs[np.isfinite(pairs).all(axis=1)])


def hot(scan_counts: NDArray[np.float64], unit: float = 1.0) -> NDArray[np.bool_]:
    """(h, w) True for pixels, alone or a few together, that outshine all of their neighbours."""
    return _outshining(scan_counts, HOT_PIXEL_FACTOR, unit)


def _outshining(light: NDArray[np.float64], factor: float, unit: float) -> NDArray[np.bool_]:
    """(h, w) True in thin lines and groups of a few pixels that are this many times as bright as
    all beside them."""
    found, everywhere = np.zeros(light.shape, bool), np.ones(light.shape, bool)
    suspects = light > factor * np.maximum(_least_around(light), unit)
    y, x = np.nonzero(suspects)
    if len(y) == 0:
        return found
    # Of the nine pixels around one of such a group, at least five are none of it.
    squares = sliding_window_view(np.pad(light, 1), (3, 3))[y, x].reshape(-1, 9)
    beside = np.partition(squares, 4, axis=1)[:, 4]
    suspects[y, x] = light[y, x] > factor * np.maximum(beside, unit)
    for group, box in groups(suspects):
        ring, _ = around(group, box, light, everywhere)
        if light[box][group].min() > factor * max(ring.max(initial=0.0), unit):
            found[box] |= group
            continue
        for row, column in np.argwhere(group):
            y, x = box[0].start + row, box[1].start + column
            found[y, x] = _is_of_bright_group(light, y, x, factor, unit)
    return found


def _least_around(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h, w) least of a pixel and its eight neighbours, 0 beside the edge of the detector: as
    ``ndimage.minimum_filter`` gives it in several times the time."""
    least = np.zeros(light.shape)
    columns = np.minimum(np.minimum(light[:-2], light[1:-1]), light[2:])
    square = np.minimum(np.minimum(columns[:, :-2], columns[:, 1:-1]), columns[:, 2:])
    least[1:-1, 1:-1] = square
    return least


def _is_of_bright_group(
    light: NDArray[np.float64], y: int, x: int, factor: float, unit: float
) -> bool:
    """Whether a pixel, alone or with the brightest beside it, outshines all around."""
    n = LARGEST_HOT_GROUP
    near = light[max(y - n, 0) : y + n + 1, max(x - n, 0) : x + n + 1]
    group = np.zeros(near.shape, bool)
    group[min(y, n), min(x, n)] = True
    for _ in range(n):
        others = np.where(widened(group) & ~group, near, -1.0)
        brightest = np.unravel_index(others.argmax(), near.shape)
        if near[group].min() > factor * max(float(others[brightest]), unit):
            return True
        group[brightest] = True
    return False


def flashing(
    patterns: NDArray[Any],
    kept: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    unit: float = 1.0,
    before: PixelHistory | None = None,
) -> NDArray[np.bool_]:
    """(h, w) True for pixels that outshine everything around in some frames, these or some
    ``before``: a cosmic ray hit them, or they flicker."""
    found = np.zeros(valid.shape, bool)
    before = before or PixelHistory.empty(valid.shape)
    if kept.sum() + before.n_frames < FEWEST_FOR_FLASH:
        return found
    some = patterns if kept.all() else patterns[kept]
    largest = np.maximum(before.largest, some.max(axis=0, initial=0))
    largest = np.where(valid, largest, 0)
    for y, x in np.argwhere(_outshining(largest, FLASH_FACTOR, unit)):
        usual = float(np.median(np.append(before.sample[:, y, x], some[:, y, x])))
        found[y, x] = largest[y, x] > FLASH_FACTOR * max(usual, unit)
    return found


def stuck(
    patterns: NDArray[Any],
    kept: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    unit: float = 1.0,
    before: PixelHistory | None = None,
) -> NDArray[np.bool_]:
    """(h, w) True for pixels that count the same in every frame, these and those ``before``, while
    those around them count."""
    found = np.zeros(valid.shape, bool)
    before = before or PixelHistory.empty(valid.shape)
    if kept.sum() + before.n_frames < FEWEST_FOR_STUCK:
        return found
    first = before.first if before.n_frames else patterns[np.argmax(kept)]
    same = valid & (first > 0) & before.same
    for frame in patterns[kept]:
        if not same.any():
            break
        same &= frame == first
    if not same.any():
        return found
    some = np.concatenate([before.sample, patterns[some_rows(kept)]], dtype=np.float64)
    mean = some.mean(axis=0)
    noise = np.divide(some.var(axis=0), mean * unit, where=mean > 0, out=np.zeros_like(mean))
    others = valid & (mean > 0) & ~same
    for group, box in groups(same):
        beside, _ = around(group, box, noise, others)
        beside = beside if len(beside) else noise[others]
        found[box] |= group & (len(beside) > 0 and np.median(beside) > COUNTING)
    return found


def some_rows(kept: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Numbers of frames from which the variance of counts is taken."""
    rows = np.flatnonzero(kept)
    return rows[:: max(len(rows) // FRAMES_FOR_VARIANCE, 1)]


def groups(
    pixels: NDArray[np.bool_], among: NDArray[np.bool_] | None = None
) -> list[tuple[NDArray[np.bool_], tuple[slice, slice]]]:
    """Connected groups of pixels, each in its bounding box; those with a pixel ``among`` others."""
    labels, n_groups = ndimage.label(pixels, structure=SQUARE)
    numbers = range(1, n_groups + 1) if among is None else np.unique(labels[pixels & among])
    boxes = ndimage.find_objects(labels)
    return [(labels[boxes[i - 1]] == i, boxes[i - 1]) for i in numbers]


def widened(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w) pixels and their eight neighbours: ``ndimage.binary_dilation`` with a square in a
    tenth of its time, of which most is spent before it begins."""
    columns = pixels.copy()
    columns[1:] |= pixels[:-1]
    columns[:-1] |= pixels[1:]
    square = columns.copy()
    square[:, 1:] |= columns[:, :-1]
    square[:, :-1] |= columns[:, 1:]
    return square


def around(
    group: NDArray[np.bool_],
    box: tuple[slice, slice],
    counts: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts of the valid pixels beside a group, and of those one pixel further."""
    wide = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in box)
    inside = np.zeros(counts[wide].shape, bool)
    inside[tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide))] = group
    near = widened(inside)
    far = widened(near) & ~near
    return counts[wide][near & ~inside & valid[wide]], counts[wide][far & valid[wide]]


def nearly_all_bright(counts: NDArray[np.float64], least: float = DEAD_PIXEL_COUNTS) -> bool:
    """Whether nearly all of some pixels count more than the least of bright ones."""
    n_dim = int((counts <= least).sum())
    n_may_be = (1 - NEARLY_ALL) * (len(counts) - 1)
    if len(counts) == 0 or n_dim > n_may_be + 1:
        return False
    # In between the quantile is that of a dim and a bright pixel.
    return n_dim == 0 or bool(np.quantile(counts, 1 - NEARLY_ALL) > least)
