"""Signs that patterns are not what the engine expects: counts with DC at the image centre."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.defects import unit_of_counts

MOST_LOOKED_AT = 20_000
"""Numbers that are looked at."""

FEWEST = 100
"""Numbers that have to be no whole ones before anything is said."""

LARGEST_COUNT = 1e3
"""Counts up to which single precision tells whole ones from others."""

WHOLE = 0.01
"""Distance from a whole number within which a count is one."""

NEARLY_ALL = 0.99

BRIGHTER = 5.0
"""Factor by which the light around the corners is more than that around the centre."""

SCALES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "square roots of counts": (np.square, "square them"),
    "log(1 + counts)": (np.expm1, "take exp(x) - 1"),
    "log2(1 + counts)": (lambda x: 2.0**x - 1, "take 2^x - 1"),
    "log10(1 + counts)": (lambda x: 10.0**x - 1, "take 10^x - 1"),
    "log10(counts)": (lambda x: 10.0**x, "take 10^x"),
}
"""What patterns may be by mistake, how they become counts, and the remedy."""


def hints(patterns: NDArray[Any], valid: NDArray[np.bool_]) -> list[str]:
    """Tell of amplitudes, logarithms, other units, and patterns whose DC lies in the corner.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) finite numbers.
    valid : ndarray
        (h, w) True where the detector works.

    Examples
    --------
    >>> counts = np.random.default_rng(0).poisson(20, (9, 16, 16))
    >>> hints(np.sqrt(counts), np.ones((16, 16), bool))
    ['patterns look like square roots of counts: square them']
    """
    told = [f"patterns look like {what}: {remedy}" for what, remedy in _scales(patterns)]
    largest = patterns.max(initial=0)
    if 0 < largest < 1 or (largest == 1 and bool((patterns != np.round(patterns)).any())):
        reaches = "reaches" if largest < 1 else "exceeds"
        told.append(
            f"patterns are no counts, since none {reaches} 1: divide them by the value of one, "
            f"{unit_of_counts(patterns):.2g} by their noise"
        )
    if 2 * valid.sum() < valid.size:
        told.append(
            f"the mask leaves {int(valid.sum())} of {valid.size} pixels: if it is inverted, 1 "
            "means valid in valid_pixel_mask, and bad in other masks"
        )
    if _is_shifted(patterns.mean(axis=0, dtype=np.float64) * valid):
        told.append(
            "the light lies around the corners: if it is the far field, put DC at the image "
            "centre (numpy.fft.fftshift)"
        )
    return told


def _scales(patterns: NDArray[Any]) -> list[tuple[str, str]]:
    if patterns.dtype.kind != "f" or patterns.size == 0:
        return []
    numbers = patterns.ravel()[:: max(patterns.size // MOST_LOOKED_AT, 1)].astype(np.float64)
    numbers = numbers[(numbers > 0) & (numbers < np.sqrt(LARGEST_COUNT))]
    numbers = numbers[np.abs(numbers - np.round(numbers)) > WHOLE]
    found = []
    for what, (counts_of, remedy) in SCALES.items():
        counts = counts_of(numbers)
        looked_at = counts[(counts > 0.5) & (counts < LARGEST_COUNT)]
        whole = np.abs(looked_at - np.round(looked_at)) < WHOLE
        if len(looked_at) >= max(FEWEST, 0.5 * len(numbers)) and whole.mean() > NEARLY_ALL:
            found.append((what, remedy))
    return found[:1]


def _is_shifted(mean: NDArray[np.float64]) -> bool:
    """Whether far more light is around the corners than around the centre."""
    rows, columns = (np.abs(np.arange(n) - n // 2) <= n // 8 for n in mean.shape)
    far_rows, far_columns = (np.abs(np.arange(n) - n // 2) >= n // 2 - n // 8 for n in mean.shape)
    centre = mean[np.ix_(rows, columns)].sum()
    corners = mean[np.ix_(far_rows, far_columns)].sum()
    return bool(corners > BRIGHTER * centre and corners > 0.3 * mean.sum())
