"""Frames that do not belong to a scan: the shutter was closed, or the beam far too bright.

A frame is compared with the other frames. A weak frame of a strongly absorbing place of the
sample is no odd frame: its light has the shape of the other patterns, and other frames are nearly
as weak.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychi_neural.scans.earlier_frames import EarlierFrames

FEWEST_FRAMES = 5
"""Frames below which none is called odd."""

DARK_FRACTION = 2e-3
"""A frame that stands alone is dark if it has less than this part of the median frame's light."""

FLAT_FRACTION = 0.3
"""Frames that stand alone are dark if each has less than this part of the median frame's light,
and together they spread over the detector as no pattern does."""

BRIGHT_FACTOR = 30.0
"""A frame that stands alone is too bright if it has this many times the median frame's light."""

MOST_DARK_COUNTS = 1.0
"""Dark counts of a pixel and frame up to which the shutter was closed where only a few frames of a
scan have light: of more, those few may well be too bright."""

GAP = 5.0
"""Frames stand alone if no other frame has a light within this factor of theirs."""

FEWEST_COUNTS = 8.0
"""Counts in all weak frames together from which their spread is judged."""

FEWEST_COUNTS_ALONE = 20.0
"""Counts in a frame from which its own spread is judged."""

PEAKED = 0.3
"""Least gain of log-likelihood per count of the mean pattern over an even one. The patterns of a
near field are more even, and a frame of even light is none of its own there."""

BACKGROUND = 0.05
"""Part of the pixels that show no more than the background of all frames."""

CHUNK = 64
"""Frames that are converted at a time."""

FLAT_GAP = 2.0
"""The same factor for frames whose light is flat."""

DEVIATIONS = 4.0
"""Standard deviations by which flat frames are less like the mean pattern than counts drawn from
it would be."""

EVEN_DEVIATIONS = 3.5
"""Standard deviations within which flat frames are as even as dark counts are."""

TILES = 4
"""Number of tiles along each side of the detector among which dark counts are even."""

UNEVEN = 0.1
"""Variance of dark counts over the detector, relative to their square, that is still even."""

BLUR = 0.125
"""Width, as a part of the detector, to which scattering may broaden the mean pattern."""

FLOOR = 1e-3
"""Part of the light of the mean pattern that is taken for spread over the whole detector."""


def too_bright(light: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find frames with far too much light.

    Parameters
    ----------
    light : ndarray
        (n,) counts of each frame.
    kept : ndarray
        (n,) False for frames that are not looked at.

    Returns
    -------
    ndarray
        (n,) True for frames that do not belong.
    """
    seen = light[kept]
    # Of many frames, the median takes a while.
    if len(seen) < FEWEST_FRAMES or seen.max() <= BRIGHT_FACTOR * seen.min():
        return np.zeros(len(light), bool)
    middle = np.median(seen)
    return _alone(light, kept & (middle > 0) & (light > BRIGHT_FACTOR * middle), kept)


def too_dark(
    patterns: NDArray[np.generic],
    light: NDArray[np.float64],
    kept: NDArray[np.bool_],
    pixels: NDArray[np.bool_],
    unit: float,
    earlier: EarlierFrames | None = None,
) -> NDArray[np.bool_]:
    """Find frames with next to no light: some dark counts, but no pattern.

    Frames with no count at all are left to the caller.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) counts.
    light : ndarray
        (n,) counts of each frame in ``pixels``.
    kept : ndarray
        (n,) False for frames that are not looked at.
    pixels : ndarray
        (h, w) True where a pixel can be trusted.
    unit : float
        Value of one count.
    earlier : EarlierFrames, optional
        What is known of the frames before these.

    Returns
    -------
    ndarray
        (n_earlier + n,) True for frames, the earlier ones first, that do not belong.
    """
    earlier = earlier or EarlierFrames.none(pixels)
    n_earlier = earlier.n_frames
    every = np.concatenate([earlier.light, light])
    looked_at = np.concatenate([np.ones(n_earlier, bool), kept])
    seen, none = every[looked_at], np.zeros(len(every), bool)
    if len(seen) < FEWEST_FRAMES or seen.min() >= FLAT_FRACTION * seen.max():
        return none
    middle = np.median(seen)
    dark = far_darker(every, looked_at)
    faint = looked_at & (every > 0) & ~dark
    oddness = 1 / np.where(every > 0, every, 1)
    weak = _alone(oddness, faint & (every < FLAT_FRACTION * middle), faint, FLAT_GAP)
    if not (dark | weak).any():
        return none
    others = kept & (light >= FLAT_FRACTION * middle)
    mean = sum_of_frames(patterns, others, pixels) + np.where(pixels, earlier.counts, 0)
    groups = [some for some in earlier.faint if (dark | weak)[some.rows].all()]
    for some in groups:
        mean -= some.image(pixels)
    if not (mean > 0).any():
        return dark
    dark[n_earlier:] &= ~_have_pattern(
        patterns, light, dark[n_earlier:], mean[pixels], pixels, unit
    )
    for some in groups:
        if dark[some.rows].all():
            image, of_all = some.image(pixels)[None], np.ones(1, bool)
            has_one = _have_pattern(image, image.sum((1, 2)), of_all, mean[pixels], pixels, unit)
            dark[some.rows] &= ~has_one
    # Nothing but their light is known of other earlier ones.
    stored = [some for some in groups if weak[some.rows].all()]
    known = np.isin(np.arange(n_earlier), np.concatenate([[], *(some.rows for some in stored)]))
    weak[:n_earlier] &= known
    counts = sum_of_frames(patterns, weak[n_earlier:], pixels)
    for some in stored:
        counts += some.image(pixels)
    if counts.sum() / unit < FEWEST_COUNTS:
        return dark
    flat = _is_flat(counts[None, pixels] / unit, mean / unit, pixels)[0]
    return dark | weak if flat else dark


def are_dark(
    counts: NDArray[np.float64], n_frames: int, mean: NDArray[np.float64], pixels: NDArray[np.bool_]
) -> bool | None:
    """Whether the counts of some frames together are dark counts beside the mean pattern of others;
    None if too few tell.

    Parameters
    ----------
    counts : ndarray
        (h, w) sum of their counts.
    n_frames : int
        How many there are.
    mean : ndarray
        (h, w) sum of the counts of the others.
    pixels : ndarray
        (h, w) True where a pixel can be trusted.
    """
    if counts[pixels].sum() < FEWEST_COUNTS:
        return None
    pattern = _Likely.of(mean[pixels])
    if counts[pixels].mean() > MOST_DARK_COUNTS * n_frames:
        return False
    if pattern.gain @ mean[pixels] < PEAKED * mean[pixels].sum():
        return False
    return bool(_is_flat(counts[None, pixels], mean, pixels)[0])


def _have_pattern(
    patterns: NDArray[np.generic],
    light: NDArray[np.float64],
    suspects: NDArray[np.bool_],
    mean: NDArray[np.float64],
    pixels: NDArray[np.bool_],
    unit: float,
) -> NDArray[np.bool_]:
    """Which of some frames hold enough counts to tell that they are those of the (k,) mean
    pattern, as behind a strong absorber, and no dark counts."""
    found = suspects & (light >= FEWEST_COUNTS_ALONE * unit)
    pattern = _Likely.of(mean)
    if pattern.gain @ mean < PEAKED * mean.sum():
        return np.zeros(len(light), bool)
    gains = patterns[found][:, pixels].astype(np.float64) @ pattern.gain
    found[found] = gains >= 0.5 * pattern.expected * light[found]
    return found


def far_darker(light: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) True for frames whose light is not zero, but next to nothing beside that of others."""
    seen = light[kept]
    if len(seen) < FEWEST_FRAMES or seen.min() >= DARK_FRACTION * seen.max():
        return np.zeros(len(light), bool)
    middle = np.median(seen)
    kept = kept & (light > 0)
    return _alone(1 / np.where(kept, light, 1), kept & (light < DARK_FRACTION * middle), kept)


def evenly_lit(
    patterns: NDArray[np.generic],
    light: NDArray[np.float64],
    kept: NDArray[np.bool_],
    pixels: NDArray[np.bool_],
    unit: float,
    earlier: EarlierFrames | None = None,
) -> NDArray[np.bool_]:
    """Find frames whose light is spread evenly over the detector where the others have a pattern.

    Dark counts of a long exposure, noise, and constant frames are such. The patterns of a strong
    scatterer are not: they are no broader than a blurred mean pattern.

    Parameters
    ----------
    patterns, light, kept, pixels, unit
        As ``too_dark`` takes them.
    earlier : EarlierFrames, optional
        What is known of the frames before these.

    Returns
    -------
    ndarray
        (n,) True for frames that do not belong; none where they would be half of the scan.
    """
    flat = np.zeros(len(light), bool)
    rows = np.flatnonzero(kept & (light >= FEWEST_COUNTS_ALONE * unit))
    earlier = earlier or EarlierFrames.none(pixels)
    n_frames = earlier.n_frames + int(kept.sum())
    if n_frames < FEWEST_FRAMES or not pixels.any():
        return flat
    mean = sum_of_frames(patterns, kept, pixels)
    mean = (mean + np.where(pixels, earlier.counts, 0)) / unit
    background = np.quantile(mean[pixels], BACKGROUND)  # every frame has it
    mean = (mean - background).clip(min=0)
    if not mean.any():
        return flat
    pattern = _Likely.of(mean[pixels])
    if pattern.gain @ mean[pixels] < PEAKED * mean[pixels].sum():
        return flat
    background /= n_frames
    total = light / unit - background * pixels.sum()
    rows = rows[total[rows] > DEVIATIONS * np.sqrt(light[rows] / unit)]
    of_pixels, chosen = patterns.reshape(len(patterns), pixels.size), np.flatnonzero(pixels)
    gain = np.zeros(pixels.shape)
    gain[pixels] = pattern.gain / unit
    for some in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        found = of_pixels[some] @ gain.ravel() - background * pattern.gain.sum()
        some = some[~pattern.is_in(found, total[some], DEVIATIONS)]
        counts = of_pixels[some[:, None], chosen].astype(np.float64) / unit - background
        flat[some] = _is_flat(counts, mean, pixels)
    return flat if 2 * flat.sum() < n_frames else np.zeros(len(light), bool)


def sum_of_frames(
    patterns: NDArray[np.generic], kept: NDArray[np.bool_], pixels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(h, w) sum of the counts of some frames, 0 beside some pixels."""
    some = patterns if kept.all() else patterns[kept]
    return np.where(pixels, some.sum(axis=0, dtype=np.float64), 0)


def light_of_frames(
    patterns: NDArray[np.generic], pixels: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n,) counts of each frame in some pixels."""
    if pixels.all():
        return np.asarray(patterns.sum(axis=(1, 2), dtype=np.float64))
    return np.asarray(patterns.sum(axis=(1, 2), dtype=np.float64, where=pixels))


def _is_flat(
    counts: NDArray[np.float64], mean: NDArray[np.float64], pixels: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether (m, k) counts are even, and like neither a mean pattern nor a blurred one."""
    if len(counts) == 0:
        return np.zeros(0, bool)
    pattern, total = _Likely.of(mean[pixels]), counts.sum(axis=1)
    flat = ~pattern.is_in(counts @ pattern.gain, total, DEVIATIONS)
    if flat.any():
        blurred = _Likely.of(ndimage.gaussian_filter(mean, np.asarray(mean.shape) * BLUR)[pixels])
        flat[flat] = ~blurred.is_in(counts[flat] @ blurred.gain, total[flat])
        flat[flat] = _is_even(counts[flat], pixels)
    return flat


class _Likely(NamedTuple):
    """Where one count of a pattern is likely to be."""

    gain: NDArray[np.float64]
    """(k,) log of the likelihood of a count in a pixel over that of even light."""

    expected: float
    """Mean gain of a count of the pattern."""

    deviation: float
    """Standard deviation of its gain."""

    @classmethod
    def of(cls, pattern: NDArray[np.float64]) -> "_Likely":
        """What a (k,) pattern makes likely."""
        likely = (1 - FLOOR) * pattern / pattern.sum() + FLOOR / len(pattern)
        gain = np.log(likely * len(likely))
        expected = float(likely @ gain)
        return cls(gain, expected, max(float(likely @ gain**2) - expected**2, 0.0) ** 0.5)

    def is_in(
        self, found: NDArray[np.float64], total: NDArray[np.float64], deviations: float = 0.0
    ) -> NDArray[np.bool_]:
        """Whether counts are rather drawn from the pattern than flat, or could be drawn from it.

        Parameters
        ----------
        found, total : ndarray
            (m,) sums of the gains of some counts, and their number.
        deviations : float
            Standard deviations within which they could be drawn from the pattern; 0: they are not
            compared with it.
        """
        least = total * self.expected - deviations * np.sqrt(total) * self.deviation
        return np.asarray((found >= 0) | ((deviations > 0) & (found >= least)))


def _is_even(counts: NDArray[np.float64], pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether (m, k) counts of pixels are even over the detector, by the chi-squared of tiles."""
    y, x = np.nonzero(pixels)
    height, width = pixels.shape
    tile = (y * TILES // height) * TILES + x * TILES // width
    used, tile = np.unique(tile, return_inverse=True)
    n_pixels = np.bincount(tile)
    in_tiles = np.zeros((len(used), len(counts)))
    np.add.at(in_tiles, tile, counts.T)
    expected = counts.sum(axis=1) * (n_pixels / n_pixels.sum())[:, None]
    squares = ((in_tiles - expected) ** 2 / expected).sum(axis=0)
    freedom = len(used) - 1
    chance = freedom + EVEN_DEVIATIONS * np.sqrt(2 * freedom)
    return np.asarray(squares < chance + UNEVEN * counts.sum(axis=1))


def _alone(
    oddness: NDArray[np.float64],
    suspects: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    gap: float = GAP,
) -> NDArray[np.bool_]:
    """Those of the suspects whose oddness is above a gap of this factor."""
    alone = np.zeros(len(oddness), bool)
    rows = np.flatnonzero(suspects)
    if len(rows) == 0:
        return alone
    rows = rows[np.argsort(oddness[rows])]
    below = np.append(oddness[kept & ~suspects].max(), oddness[rows[:-1]])
    gaps = np.flatnonzero(oddness[rows] > gap * below)
    if len(gaps):
        alone[rows[gaps[0] :]] = True
    return alone
