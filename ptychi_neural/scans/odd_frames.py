"""Frames that do not belong to a scan: the shutter was closed, or the beam far too bright.

A frame is compared with the other frames. A weak frame of a strongly absorbing place of the
sample is no odd frame: its light has the shape of the other patterns, and other frames are nearly
as weak.
"""

import numpy as np
from numpy.typing import NDArray

FEWEST_FRAMES = 5
"""Frames below which none is called odd."""

DARK_FRACTION = 2e-3
"""A frame that stands alone is dark if it has less than this part of the median frame's light."""

FLAT_FRACTION = 0.3
"""A frame is dark if it has less than this part of the median frame's light, and that is spread
over the detector as no pattern is."""

BRIGHT_FACTOR = 30.0
"""A frame that stands alone is too bright if it has this many times the median frame's light."""

GAP = 5.0
"""Frames stand alone if no other frame has a light within this factor of theirs."""

FLAT_DEVIATIONS = 4.0
"""Standard deviations by which a flat frame is less like the mean pattern than counts drawn from
it would be."""

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
    if kept.sum() < FEWEST_FRAMES:
        return np.zeros(len(light), bool)
    middle = np.median(light[kept])
    return _alone(light, kept & (middle > 0) & (light > BRIGHT_FACTOR * middle), kept)


def too_dark(
    patterns: NDArray[np.generic],
    light: NDArray[np.float64],
    kept: NDArray[np.bool_],
    pixels: NDArray[np.bool_],
    unit: float,
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

    Returns
    -------
    ndarray
        (n,) True for frames that do not belong.
    """
    dark = np.zeros(len(light), bool)
    middle = np.median(light[kept]) if kept.sum() >= FEWEST_FRAMES else 0.0
    if middle <= 0:
        return dark
    kept = kept & (light > 0)
    dark |= _alone(1 / np.where(kept, light, 1), kept & (light < DARK_FRACTION * middle), kept)
    weak = np.flatnonzero(kept & ~dark & (light < FLAT_FRACTION * middle))
    if len(weak) == 0:
        return dark
    others = kept & (light >= FLAT_FRACTION * middle)
    mean = patterns.sum(axis=0, dtype=np.float64, where=others[:, None, None])[pixels]
    likely = (1 - FLOOR) * mean / mean.sum() + FLOOR / len(mean)
    gain = np.log(likely * len(likely))  # per count: log of its likelihood over that if flat
    expected = (likely * gain).sum()
    variance = (likely * gain**2).sum() - expected**2
    for frame in weak:
        counts = patterns[frame][pixels] / unit
        total, found = counts.sum(), (counts * gain).sum()
        deviation = np.sqrt(total * variance)
        dark[frame] = found < min(0.0, total * expected - FLAT_DEVIATIONS * deviation)
    return dark


def _alone(
    oddness: NDArray[np.float64], suspects: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Those of the suspects whose oddness is above a gap of the factor ``GAP``."""
    alone = np.zeros(len(oddness), bool)
    rows = np.flatnonzero(suspects)
    if len(rows) == 0:
        return alone
    rows = rows[np.argsort(oddness[rows])]
    below = np.append(oddness[kept & ~suspects].max(), oddness[rows[:-1]])
    gaps = np.flatnonzero(oddness[rows] > GAP * below)
    if len(gaps):
        alone[rows[gaps[0] :]] = True
    return alone
