"""Detector pixels that do not count light: dead, hot, saturated, and blocks without counts.

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

FEWEST_LEVELS = 2
"""Number of counts in the largest of all from which saturation is looked for: of ones and zeros
nothing tells it."""

NEAR_SATURATION = 0.05
"""Part of the largest count within which other counts are compared with it."""

MOST_COMPARED = 3
"""Number of different counts below the largest, as far as they are near it, that are compared."""

SATURATED_EXCESS = 1.5
"""Counts that equal the largest are saturated if there are this many times more than of any other
number near it. Of photon noise as many would be larger by one, with any intensities."""

FEWEST_SATURATED = 10
"""Number of equal largest counts from which they are taken for saturation."""

BRIGHT_PARTS = (0.0, 0.25, 0.5)
"""Parts of the largest count that the mean of pixels exceeds among which counts are compared: where
most pixels are dim, only the bright ones tell that a low number cuts off counts."""

STANDARD_DEVIATIONS = 3.0
"""Standard deviations by which their number exceeds that of the others."""

LEAST_NOISE = 0.3
"""Noise relative to that of photons below which counts are rounded intensities."""

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
) -> NDArray[np.bool_]:
    """(h, w) True for pixels that outshine everything around in some frames: a cosmic ray hit
    them, or they flicker."""
    found = np.zeros(valid.shape, bool)
    if kept.sum() < FEWEST_FOR_FLASH:
        return found
    some = patterns if kept.all() else patterns[kept]
    largest = np.where(valid, some.max(axis=0), 0).astype(np.float64)
    for y, x in np.argwhere(_outshining(largest, FLASH_FACTOR, unit)):
        usual = float(np.median(patterns[kept, y, x]))
        found[y, x] = largest[y, x] > FLASH_FACTOR * max(usual, unit)
    return found


def stuck(
    patterns: NDArray[Any],
    kept: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    unit: float = 1.0,
) -> NDArray[np.bool_]:
    """(h, w) True for pixels that count the same in every frame, while those around them count."""
    found = np.zeros(valid.shape, bool)
    if kept.sum() < FEWEST_FOR_STUCK:
        return found
    first = patterns[np.argmax(kept)]
    same = valid & (first > 0)
    for frame in patterns[kept]:
        if not same.any():
            break
        same &= frame == first
    if not same.any():
        return found
    some = patterns[_some(kept)].astype(np.float64)
    mean = some.mean(axis=0)
    noise = np.divide(some.var(axis=0), mean * unit, where=mean > 0, out=np.zeros_like(mean))
    others = valid & (mean > 0) & ~same
    for group, box in groups(same):
        beside, _ = around(group, box, noise, others)
        beside = beside if len(beside) else noise[others]
        found[box] |= group & (len(beside) > 0 and np.median(beside) > COUNTING)
    return found


def saturated(
    patterns: NDArray[Any],
    kept: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    unit: float = 1.0,
) -> NDArray[np.bool_]:
    """Find pixels whose counts reach the level at which the detector cuts them off.

    Let n(k) be how many counts equal k. Of photon noise with any intensities, n(k + 1) is expected
    to be at least n(k)^2 k / (n(k - 1) (k + 1)), since the mean intensity where k was counted,
    (k + 1) n(k + 1) / n(k), grows with k. So the largest of all counts is rarely found more often
    than the number below it. Where counts are cut off, all that would be larger pile up there.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) counts.
    kept : ndarray
        (n,) False for frames that are not looked at.
    valid : ndarray
        (h, w) True for pixels that are no known defect.
    unit : float
        Value of one count.

    Returns
    -------
    ndarray
        (h, w) True for pixels that saturate in a frame.
    """
    none = np.zeros(valid.shape, bool)
    if kept.sum() < 2:
        return none
    some = patterns if kept.all() else patterns[kept]
    of_pixels = some.max(axis=0)
    largest = of_pixels.max(initial=0, where=valid)
    if largest < FEWEST_LEVELS * unit:
        return none
    reach = valid & (of_pixels == largest)
    n_top = np.zeros(valid.shape, np.int64)
    n_top[reach] = (some[:, reach] == largest).sum(axis=0)
    if n_top.sum() < FEWEST_SATURATED:
        return none
    looked_at = kept[:, None, None] & valid
    below = _just_below(patterns, looked_at, largest, unit)
    mean = patterns.sum(axis=0, dtype=np.float64, where=looked_at) / kept.sum()
    for part in BRIGHT_PARTS:
        bright = mean >= part * float(largest)
        n_bright = n_top[bright].sum()
        n_compared = max(n[bright].sum() for n in below)
        excess = n_bright - n_compared
        if (
            n_bright >= FEWEST_SATURATED
            and n_bright > SATURATED_EXCESS * n_compared
            and excess > STANDARD_DEVIATIONS * np.sqrt(n_bright + n_compared)
        ):
            break
    else:
        return none
    varies = valid & (mean > 0) & (2 * n_top < kept.sum())
    if (varies & (mean >= unit)).any():
        varies &= mean >= unit
    some = patterns[_some(kept)].astype(np.float64) / unit
    is_noisy = _noise_in_time(some[:, varies]) > LEAST_NOISE
    is_noisy &= _noise_in_space(some, float(largest) / unit, valid) > LEAST_NOISE
    return np.asarray(n_top > 0) if is_noisy else none


def _noise_in_time(counts: NDArray[np.float64]) -> float:
    """Median of the variance of the counts of pixels over their mean: 1 of photon noise, or 0.45 of
    two frames, and more where the sample changes the patterns."""
    mean = counts.mean(axis=0)
    variance = counts.var(axis=0, ddof=1)[mean > 0]
    return float(np.median(variance / mean[mean > 0])) if variance.size else 0.0


def _noise_in_space(counts: NDArray[np.float64], largest: float, valid: NDArray[np.bool_]) -> float:
    """Mean of (a - b)^2 / (a + b), at most 1, of neighbouring pixels that count less than the
    largest: about 0.5 or more of photon noise, and little where even light was rounded."""
    a, b = counts[:, :, 1:], counts[:, :, :-1]
    compared = valid[:, 1:] & valid[:, :-1] & (a + b > 0) & (np.maximum(a, b) < largest)
    a, b = a[compared], b[compared]
    return float(np.minimum((a - b) ** 2 / (a + b), 1).mean()) if a.size else 0.0


def _just_below(
    patterns: NDArray[Any], looked_at: NDArray[np.bool_], largest: np.generic, unit: float
) -> list[NDArray[np.floating]]:
    """(h, w) how often each pixel counts each of the different numbers next to the largest, and
    the mean over all that are near it."""
    near = looked_at & (patterns > (1 - NEAR_SATURATION) * float(largest)) & (patterns < largest)
    n_near = NEAR_SATURATION * float(largest) / unit
    found = [near.sum(axis=0) / max(n_near, 1.0)]
    number = largest
    for _ in range(int(np.clip(np.ceil(n_near), 1, MOST_COMPARED))):
        number = patterns.max(initial=0, where=looked_at & (patterns < number))
        found.append((looked_at & (patterns == number)).sum(axis=0).astype(np.float64))
    return found


def _some(kept: NDArray[np.bool_]) -> NDArray[np.integer]:
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
