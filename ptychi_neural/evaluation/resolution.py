"""Fourier ring correlation, which tells up to which spatial frequency two images agree."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.evaluation.alignment import align, checked_mask

ONE_SEVENTH = 1 / 7
"""Threshold between reconstructions from half of the data each. Rosenthal and Henderson, Journal
of Molecular Biology 333, 721 (2003)."""

HALF = 0.5
"""Threshold between a reconstruction and the truth, which corresponds to ``ONE_SEVENTH`` between
reconstructions from half of the data each (same reference)."""


class RingCorrelation(NamedTuple):
    """Correlation of two spectra, ring by ring."""

    frequencies: NDArray[np.float64]
    """(n_rings,) mean frequency of each ring in cycles per pixel, up to 0.5."""

    correlation: NDArray[np.float64]
    """(n_rings,) correlations, -1 to 1."""

    n_pixels: NDArray[np.int64]
    """(n_rings,) number of Fourier pixels in each ring."""


def fourier_ring_correlation(
    a: NDArray[np.complexfloating],
    b: NDArray[np.complexfloating],
    mask: NDArray[np.bool_] | None = None,
) -> RingCorrelation:
    """Fourier ring correlation of two aligned objects.

    Re sum A conj(B) / sqrt(sum |A|^2 sum |B|^2) over each ring of the spectra of the two images,
    cropped to the bounding box of the mask and tapered by a Hann window. Saxton and Baumeister,
    Journal of Microscopy 127, 127 (1982).

    Parameters
    ----------
    a, b : ndarray
        (H, W) objects. Their global scale is removed; remove ramp and translation with ``align``.
    mask : ndarray, optional
        (H, W) whose bounding box is compared. None: everything.

    Returns
    -------
    RingCorrelation
        Frequencies, correlations and numbers of pixels.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((32, 32)) + 0j
    >>> fourier_ring_correlation(image, image).correlation.min().round(6).item()
    1.0
    """
    mask = checked_mask(a, b, mask)
    a = align(a, b, mask=mask).aligned
    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(mask))
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in a[box].shape))
    spectrum_a, spectrum_b = np.fft.fft2(window * a[box]), np.fft.fft2(window * b[box])
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, window.shape), indexing="ij"))
    n_rings = min(window.shape) // 2
    ring = np.round(radius * min(window.shape)).astype(int)
    kept = ring <= n_rings

    def ring_sum(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.bincount(ring[kept], values[kept], n_rings + 1).astype(np.float64)

    n_pixels = np.bincount(ring[kept], minlength=n_rings + 1)
    norm = np.sqrt(ring_sum(np.abs(spectrum_a) ** 2) * ring_sum(np.abs(spectrum_b) ** 2))
    overlap = ring_sum((spectrum_a * spectrum_b.conj()).real)
    correlation = np.divide(overlap, norm, out=np.zeros_like(norm), where=norm > 0)
    return RingCorrelation(ring_sum(radius) / n_pixels, correlation, n_pixels)


def half_bit_threshold(n_pixels: ArrayLike) -> NDArray[np.float64]:
    """Correlation at which a ring carries half a bit per pixel.

    van Heel and Schatz, Journal of Structural Biology 151, 250 (2005), Eq. 17; for two images
    that were each reconstructed from half of the data.

    Parameters
    ----------
    n_pixels : array_like
        (n_rings,) Fourier pixels in each ring.

    Returns
    -------
    ndarray
        (n_rings,) thresholds.

    Examples
    --------
    >>> np.round(half_bit_threshold([100, 10**12]), 4)
    array([0.3067, 0.1716])
    """
    root = np.sqrt(np.asarray(n_pixels, dtype=np.float64))
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def resolution_px(frc: RingCorrelation, threshold: ArrayLike = ONE_SEVENTH) -> float:
    """Period at the first frequency where the correlation falls below a threshold.

    Parameters
    ----------
    frc : RingCorrelation
        Result of ``fourier_ring_correlation``.
    threshold : float or array_like
        ``ONE_SEVENTH``, or (n_rings,) such as ``half_bit_threshold(frc.n_pixels)``.

    Returns
    -------
    float
        1 / frequency in pixels. It is 2 where the curve never crosses the threshold, because the
        pixel size is then the limit, and infinite where not even the lowest frequency is resolved.

    Examples
    --------
    >>> curve = RingCorrelation(np.array([0, 0.1, 0.2]), np.array([1, 1, 0]), np.array([1, 9, 9]))
    >>> round(resolution_px(curve, 0.5), 3)
    6.667
    """
    margin = frc.correlation - np.broadcast_to(threshold, frc.correlation.shape)
    below = 1 + np.flatnonzero(margin[1:] < 0)  # ring 0 is the mean: one pixel tells nothing
    if len(below) == 0:
        return 2.0
    k = int(below[0])
    if k == 1:
        return float("inf")
    part = margin[k - 1] / (margin[k - 1] - margin[k])
    crossing = frc.frequencies[k - 1] + part * (frc.frequencies[k] - frc.frequencies[k - 1])
    return float(1 / crossing)
