"""Pixels whose counts a detector cuts off."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.defects import some_rows
from ptychi_neural.scans.earlier_frames import N_LEVELS, NEAR_SATURATION, EarlierFrames, Levels

FEWEST_LEVELS = 2
"""Number of counts in the largest of all from which saturation is looked for: of ones and zeros
nothing tells it."""

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


def saturated(
    patterns: NDArray[Any],
    kept: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    unit: float = 1.0,
    earlier: EarlierFrames | None = None,
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
    earlier : EarlierFrames, optional
        What is known of the frames before these.

    Returns
    -------
    ndarray
        (h, w) True for pixels that saturate in a frame.
    """
    none = np.zeros(valid.shape, bool)
    before = EarlierFrames.none(valid) if earlier is None else earlier
    n_frames = int(kept.sum()) + before.n_frames
    some = patterns if kept.all() else patterns[kept]
    of_pixels = np.where(valid, np.maximum(before.pixels.largest, some.max(axis=0, initial=0)), 0)
    if of_pixels.max() == before.cut_off:
        return np.asarray(of_pixels == before.cut_off)
    if n_frames < 2 or of_pixels.max() < FEWEST_LEVELS * unit:
        return none
    levels = before.pixels.levels.among(valid).joined(Levels.of(some, valid))
    if len(levels.values) == 0 or levels.tallies[0].sum() < FEWEST_SATURATED:
        return none
    largest, n_top = levels.values[0], levels.tallies[0]
    below = _just_below(levels, unit)
    mean = some.sum(axis=0, dtype=np.float64) + before.counts
    mean = np.where(valid, mean, 0) / n_frames
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
    varies = valid & (mean > 0) & (2 * n_top < n_frames)
    if (varies & (mean >= unit)).any():
        varies &= mean >= unit
    some = (
        np.concatenate([before.pixels.sample, patterns[some_rows(kept)]], dtype=np.float64) / unit
    )
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


def _just_below(levels: Levels, unit: float) -> list[NDArray[np.floating]]:
    """(h, w) how often each pixel counts each of the different numbers next to the largest, and
    the mean over all that are near it."""
    n_near = NEAR_SATURATION * levels.values[0] / unit
    n_compared = int(np.clip(np.ceil(n_near), 1, N_LEVELS - 1))
    return [levels.near / max(n_near, 1.0), *levels.tallies[1 : n_compared + 1].astype(np.float64)]
