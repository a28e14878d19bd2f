"""Guesses for a scan whose file has no object or no probe."""

import numpy as np
from numpy.typing import NDArray


def empty_object(
    positions_px: NDArray[np.float64], probe_shape: tuple[int, ...], margin: int = 10
) -> NDArray[np.complex64]:
    """An object of 1 + 0i that holds every patch with pty-chi's default position origin.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels. Position 0, 0 is at the centre of the object, so
        positions far from it make the object large: subtract their middle first.
    probe_shape : tuple
        Shape of the probe, of which the last two are (h, w).
    margin : int
        Pixels to spare on each side, for positions that are going to be corrected.

    Returns
    -------
    ndarray
        (1, H, W) object.

    Examples
    --------
    >>> empty_object(np.array([[-20.0, -5.0], [20.0, 5.0]]), (64, 64), margin=2).shape
    (1, 108, 78)
    """
    return np.ones((1, *empty_object_size(positions_px, probe_shape, margin)), dtype=np.complex64)


def empty_object_size(
    positions_px: NDArray[np.float64], probe_shape: tuple[int, ...], margin: int = 10
) -> tuple[int, int]:
    """(H, W) of ``empty_object``, without making it."""
    extent = np.ceil(2 * np.abs(positions_px).max(axis=0))  # both ways from the centre
    size = extent.astype(int) + probe_shape[-2:] + 2 * margin
    height, width = (int(n + n % 2) for n in size)  # an odd size has no pixel edge in its middle
    return height, width


def mean_pattern_probe(
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None = None,
    near_field: bool = False,
) -> NDArray[np.complex64]:
    """A probe whose diffraction pattern is the mean of the measured ones.

    In the far field P = IFT(sqrt(mean pattern)), a beam in focus; in the near field
    P = sqrt(mean pattern).

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) counts, DC at the image centre.
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works; the probe gets no light from other pixels.
    near_field : bool
        Whether the patterns were measured in the near field.

    Returns
    -------
    ndarray
        (1, 1, h, w) probe; with pty-chi's Fourier transform its intensities are counts.
    """
    mean = patterns.mean(axis=0, dtype=np.float64)
    if valid_pixel_mask is not None:
        mean = np.where(valid_pixel_mask, mean, 0)
    probe = np.sqrt(mean.clip(min=0)).astype(np.complex128)
    if not near_field:
        probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(probe)))
    return probe.astype(np.complex64)[None, None]
