"""Whether intervals hold the true values, and whether a deviation lies where the errors are."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMOOTHING_PX = 5
"""Side of the square over which a deviation and errors are averaged before they are ranked."""


class Coverage(NamedTuple):
    """How intervals compare with the true values in the scanned area."""

    amplitude: float
    """Share of the pixels whose true amplitude is in its interval."""

    phase: float
    """Share of the pixels whose true phase is in its interval."""

    rank_correlation: float
    """Spearman's rank correlation of deviation and magnitude of the error, both smoothed."""

    unevenness: float
    """Standard deviation of the error's smoothed magnitude over its mean; .52 where the size of
    errors is even and chance alone lets them differ, from one patch that errs alike to the next."""


def coverage(
    aligned: NDArray[np.complexfloating],
    truth: NDArray[np.complexfloating],
    area: NDArray[np.bool_],
    amplitude: NDArray[np.floating],
    phase: NDArray[np.floating],
    standard_deviation: NDArray[np.floating],
) -> Coverage:
    """Compare intervals with the true values.

    Parameters
    ----------
    aligned, truth : ndarray
        (H, W) objects, the first aligned with the second.
    area : ndarray
        (H, W) True where they are compared.
    amplitude, phase : ndarray
        (H, W) half widths of the intervals, in units of the aligned object and in radians.
    standard_deviation : ndarray
        (H, W) deviation of the object.

    Examples
    --------
    >>> truth = np.exp(1j * np.linspace(0, 1, 100)).reshape(10, 10)
    >>> off = np.linspace(0, 0.2, 100).reshape(10, 10)
    >>> half, everywhere = np.full((10, 10), 0.1), np.ones((10, 10), dtype=bool)
    >>> found = coverage((1 + off) * truth, truth, everywhere, half, half, off)
    >>> found.amplitude, found.phase, round(found.rank_correlation, 3)
    (0.5, 1.0, 1.0)
    >>> round(found.unevenness, 2)
    0.5
    """
    from scipy.stats import spearmanr  # importing it takes a second

    off = np.abs(np.abs(aligned) - np.abs(truth))
    turned = np.abs(np.angle(aligned * truth.conj()))
    deviations = _smoothed(standard_deviation, area)
    errors = smoothed_errors(aligned, truth, area)
    return Coverage(
        float((off <= amplitude)[area].mean()),
        float((turned <= phase)[area].mean()),
        float(spearmanr(deviations, errors).statistic),
        float(errors.std() / errors.mean()),
    )


def smoothed_errors(
    aligned: NDArray[np.complexfloating],
    truth: NDArray[np.complexfloating],
    area: NDArray[np.bool_],
) -> NDArray[np.floating]:
    """(n_pixels,) magnitudes of the errors in the area, smoothed as they are ranked."""
    return _smoothed(np.abs(aligned - truth), area)


def _smoothed(values: NDArray[np.floating], area: NDArray[np.bool_]) -> NDArray[np.floating]:
    """(n_pixels,) means over the part of a square that is in the area, of its pixels."""
    total, weight = (
        ndimage.uniform_filter(np.where(area, v, 0.0), SMOOTHING_PX, mode="constant")
        for v in (values, 1.0)
    )
    return total[area] / weight[area]
