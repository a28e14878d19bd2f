"""Alignment, which removes what a diffraction experiment cannot tell before objects are compared.

A reconstruction equals the object up to a complex scale and, where the probe was unknown too, a
linear phase ramp and a translation::

    reconstruction(r) = scale^-1 * reference(r + shift) * exp(i ramp . r)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from skimage.registration import phase_cross_correlation

from ptychi_neural.scans.scan import position_origin

MAX_ITERATIONS = 10
"""Largest number of times that ramp and translation are refined in turn."""

SHIFT_PRECISION = 100
"""Translations are found to one part in this many of a pixel."""

FLAT = 1e-3
"""Relative deviation below which an object has no features that a translation could be told by."""


class Alignment(NamedTuple):
    """A reconstruction brought into register with a reference, and what that took."""

    aligned: NDArray[np.complexfloating]
    """(H, W) ``scale * reconstruction``, free of ramp and shift."""

    scale: complex
    """The factor that was applied."""

    ramp: tuple[float, float]
    """(y, x) slope of the phase that was removed, in radians per pixel."""

    shift: tuple[float, float]
    """(y, x) translation that was applied, in pixels."""


def align(
    reconstruction: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    *,
    scale: bool = True,
    ramp: bool = False,
    shift: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Alignment:
    """Bring a reconstruction into register with a reference.

    The ramp is first found from the magnitudes of the two spectra, which a translation leaves
    alone, the translation by cross-correlation of what is left (Guizar-Sicairos et al., Optics
    Letters 33, 156 (2008)); both are then refined in turn.

    Parameters
    ----------
    reconstruction, reference : ndarray
        (H, W) complex objects.
    scale : bool
        Remove the global complex scale, by least squares over the mask.
    ramp : bool
        Remove a linear phase ramp.
    shift : bool
        Remove a translation, to 0.01 px. A flat reconstruction is left where it is.
    mask : ndarray, optional
        (H, W) True where objects are compared, such as ``scanned_area``. None: everywhere.

    Returns
    -------
    Alignment
        The aligned object and what was removed.

    Raises
    ------
    ValueError
        If shapes differ or the mask is empty.

    Examples
    --------
    >>> reference = np.exp(1j * np.random.default_rng(0).random((32, 32)))
    >>> result = align(2j * reference, reference)
    >>> np.allclose(result.aligned, reference), np.round(result.scale, 6).item()
    (True, -0.5j)
    """
    mask = checked_mask(reconstruction, reference, mask)
    taper = _taper(mask)
    slope, translation = np.zeros(2), np.zeros(2)
    aligned = reconstruction
    shift = shift and not _is_flat(reconstruction, mask, taper)
    if ramp and shift:
        slope = _ramp_between_spectra(reconstruction, reference, taper)
        aligned = _transformed(reconstruction, slope, translation)
    for _ in range(MAX_ITERATIONS if ramp or shift else 0):
        change = 0.0
        if shift:
            step = _shift_between(aligned, reference, taper)
            translation = translation + step
            aligned = _transformed(reconstruction, slope, translation)
            change = float(np.abs(step).max())
        if ramp:
            step = _ramp_between(aligned, reference, mask, taper)
            slope = slope + step
            aligned = _transformed(reconstruction, slope, translation)
            change = max(change, float(np.abs(step).max()))
        if change < 1 / SHIFT_PRECISION:
            break
    factor = _least_squares_scale(aligned[mask], reference[mask]) if scale else 1.0 + 0.0j
    return Alignment(
        factor * aligned,
        factor,
        (float(slope[0]), float(slope[1])),
        (float(translation[0]), float(translation[1])),
    )


def scanned_area(
    positions_px: NDArray[np.float64], object_shape: tuple[int, ...], margin_px: float = 0.0
) -> NDArray[np.bool_]:
    """The part of the object that the scan covers, which is the convex hull of its positions.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in object pixels, with pty-chi's default origin.
    object_shape : tuple
        Shape of the object, of which the last two are (H, W).
    margin_px : float
        Pixels by which each side of the hull is moved out (up to half a probe is still
        illuminated) or, if negative, in.

    Returns
    -------
    ndarray
        (H, W) True inside.

    Raises
    ------
    ValueError
        If positions span no area or no pixel is inside.

    Examples
    --------
    >>> corners = np.array([[-4.0, -4.0], [-4.0, 4.0], [4.0, 4.0], [4.0, -4.0]])
    >>> scanned_area(corners, (1, 20, 20)).sum().item()
    64
    """
    shape = tuple(object_shape[-2:])
    try:
        sides = ConvexHull(positions_px + position_origin(shape)).equations
    except QhullError as error:
        raise ValueError(
            f"{len(positions_px)} positions span no area; the scanned area needs at least three "
            "that are not in one line."
        ) from error
    y, x = (np.arange(n, dtype=np.float64) for n in shape)
    mask = np.ones(shape, dtype=bool)
    for normal_y, normal_x, offset in sides:
        mask &= normal_y * y[:, None] + normal_x * x[None, :] + offset <= margin_px + 1e-9
    if not mask.any():
        raise ValueError(
            f"no pixel of an object of shape {shape} is inside the scanned area with "
            f"margin_px={margin_px}; widen the margin and check the positions."
        )
    return mask


def checked_mask(
    reconstruction: NDArray[np.generic],
    reference: NDArray[np.generic],
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.bool_]:
    """Check two objects and the mask in which they are compared, and return the mask.

    Raises
    ------
    ValueError
        If shapes differ, are not 2D, the mask is empty, there are NaN or Inf inside it, or the
        reference is 0 there.
    """
    if reconstruction.ndim != 2 or reconstruction.shape != reference.shape:
        raise ValueError(
            f"cannot compare objects of shapes {reconstruction.shape} and {reference.shape}; pass "
            "one slice of each, such as object[0], cropped to the same (H, W)."
        )
    mask = np.ones(reference.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    if mask.shape != reference.shape or not mask.any():
        raise ValueError(
            f"mask must have shape {reference.shape} and a True pixel; it has shape {mask.shape} "
            f"and {mask.sum()} of them."
        )
    for name, array in (("reconstruction", reconstruction), ("reference", reference)):
        if not np.isfinite(array[mask]).all():
            raise ValueError(f"{name} holds NaN or Inf inside the mask; the run has diverged.")
    if not reference[mask].any():
        raise ValueError("reference is 0 inside the mask; compare with an object that is not.")
    return mask


def _least_squares_scale(
    reconstruction: NDArray[np.complexfloating], reference: NDArray[np.complexfloating]
) -> complex:
    """The factor s that minimises |s * reconstruction - reference|^2."""
    power = np.vdot(reconstruction, reconstruction).real
    return complex(np.vdot(reconstruction, reference) / power) if power > 0 else 0.0 + 0.0j


def _taper(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A weight that rises smoothly from 0 outside the mask to 1 halfway to its middle."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    return np.sin(np.pi / 2 * np.minimum(2 * depth / depth.max(), 1)) ** 2


def phase_ramp(shape: tuple[int, ...], slope: NDArray[np.float64]) -> NDArray[np.complexfloating]:
    """The phase ramp exp(i slope . r), where r is counted from the centre."""
    y, x = (np.arange(n) - n / 2 for n in shape)
    return np.exp(1j * (slope[0] * y[:, None] + slope[1] * x[None, :]))


def _transformed(
    array: NDArray[np.complexfloating],
    slope: NDArray[np.float64],
    translation: NDArray[np.float64],
) -> NDArray[np.complexfloating]:
    """Remove a ramp, then translate. The border is mirrored, not wrapped round."""
    flat = array * phase_ramp(array.shape, -slope)
    if not translation.any():
        return flat
    margin = int(np.ceil(np.abs(translation).max())) + 16
    padded = np.pad(flat, margin, mode="symmetric")
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(padded), translation))
    return moved[margin:-margin, margin:-margin]


def _ramp_between_spectra(
    reconstruction: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    taper: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The slope is the translation between the magnitudes of the two spectra."""
    spectra = [np.abs(np.fft.fft2(taper * array)) for array in (reconstruction, reference)]
    bins, _, _ = phase_cross_correlation(*spectra, normalization=None)
    return 2 * np.pi * bins / np.asarray(reference.shape)


def _ramp_between(
    aligned: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    mask: NDArray[np.bool_],
    taper: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The slope of the phase difference is the peak of its spectrum, refined by a linear fit."""
    product = aligned * np.conj(reference)
    spectrum = np.abs(np.fft.fft2(taper * product))
    peak = np.unravel_index(np.argmax(spectrum), spectrum.shape)
    slope = np.array([2 * np.pi * np.fft.fftfreq(n)[k] for n, k in zip(spectrum.shape, peak)])
    rest = product * phase_ramp(product.shape, -slope)
    rest = rest * np.exp(-1j * np.angle((taper * rest).sum()))
    weight = np.sqrt(taper * np.abs(rest))[mask]
    y, x = np.nonzero(mask)
    design = np.stack([np.ones_like(weight), y, x], axis=1)
    fit, *_ = np.linalg.lstsq(weight[:, None] * design, weight * np.angle(rest[mask]), rcond=None)
    return slope + fit[1:]


def _is_flat(
    array: NDArray[np.complexfloating], mask: NDArray[np.bool_], taper: NDArray[np.float64]
) -> bool:
    """Whether nothing but a ramp is left of an object inside the mask."""
    slope = _ramp_between(array, np.ones_like(array), mask, taper)
    inside = (array * phase_ramp(array.shape, -slope))[mask]
    return bool(inside.std() <= FLAT * np.abs(inside).mean())


def _shift_between(
    aligned: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    taper: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Translation of ``aligned`` that brings it nearest to ``reference``."""
    images = [taper * (a - (taper * a).sum() / taper.sum()) for a in (reference, aligned)]
    step, _, _ = phase_cross_correlation(
        *images, upsample_factor=SHIFT_PRECISION, normalization=None
    )
    return np.asarray(step, dtype=np.float64)
