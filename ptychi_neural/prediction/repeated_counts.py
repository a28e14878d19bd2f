"""Counts of a repeated measurement, which depend on the expected ones as continuously as they can.

Each pixel of each frame has a uniform number u of its own, and its counts are the quantile

    k = min {k : P(X <= k) >= u},     X of a Poisson distribution of mean m.

A mean that is larger by dm changes them with a probability of about dm, whatever else is drawn and
whoever draws it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEAST_SHARE = 2.0**-40
"""Distance of the uniform numbers from 0 and 1, where quantiles are lost in rounding."""

MANY = 1e6
"""Mean from which on a quantile may err by one of its counts."""


def counts_of_frame(means: NDArray[np.floating], seed: int, frame: int) -> NDArray[np.floating]:
    """Draw the counts of one frame.

    Parameters
    ----------
    means : ndarray
        (h, w) expected counts.
    seed : int
        Seed of the whole repetition.
    frame : int
        Number of the frame in the scan.
    """
    shares = np.random.default_rng((seed, frame)).random(means.shape)
    return poisson_quantiles(shares.clip(LEAST_SHARE, 1 - LEAST_SHARE), means)


def poisson_quantiles(
    shares: NDArray[np.floating], means: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Give the smallest counts that a share of all draws does not exceed.

    They are those of ``scipy.stats.poisson.ppf`` in a fraction of its time: from the quantile of a
    normal distribution with the skewness of this one (Cornish and Fisher, Rev. Inst. Int. Stat. 5,
    307 (1938)) it is a step or none, which is not looked for of ``MANY`` counts.

    Parameters
    ----------
    shares : ndarray
        Shares, at least ``LEAST_SHARE`` away from 0 and 1.
    means : ndarray
        Means of the same shape, at least 0.
    """
    means = means.astype(np.float64)
    normal = special.ndtri(shares)
    counts = np.floor(means + np.sqrt(means) * normal + (normal**2 - 1) / 6)
    counts = np.where(means > 0, np.maximum(counts, 0.0), 0.0)
    for step, is_off in ((1, _is_below), (-1, _is_above)):
        off = (means < MANY) & is_off(counts, means, shares)
        while off.any():
            counts[off] += step
            off[off] = is_off(counts[off], means[off], shares[off])
    return counts


def _is_below(
    counts: NDArray[np.floating], means: NDArray[np.floating], shares: NDArray[np.floating]
) -> NDArray[np.bool_]:
    return special.pdtr(counts, means) < shares


def _is_above(
    counts: NDArray[np.floating], means: NDArray[np.floating], shares: NDArray[np.floating]
) -> NDArray[np.bool_]:
    return (counts > 0) & (special.pdtr(np.maximum(counts - 1, 0.0), means) >= shares)
