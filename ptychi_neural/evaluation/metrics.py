"""Metrics of how far a reconstruction is from a reference, as functions of (H, W) complex arrays.

All of them remove the global complex scale, which no experiment can tell. Where the probe was
unknown, remove ramp and translation first with ``align``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import unwrap_phase

from ptychi_neural.evaluation.alignment import align, checked_mask

ComplexImage = NDArray[np.complexfloating]
Mask = NDArray[np.bool_]
SSIM_WINDOW = 7
"""Side of the windows of structural similarity in pixels."""

FLAT = 1e-6
"""Deviation, in radians or parts of the mean amplitude, below which it is rounding in float32."""


class AmplitudePhase(NamedTuple):
    """One number each for amplitude and phase."""

    amplitude: float
    """Value of the amplitude."""

    phase: float
    """Value of the phase."""


def complex_error(rec: ComplexImage, ref: ComplexImage, mask: Mask | None = None) -> float:
    """Relative complex error, min over complex s of ||s rec - ref|| / ||ref||.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    float
        0 (equal) to 1 (unrelated).

    Examples
    --------
    >>> ref = np.array([[1, 1j], [1, 1j]])
    >>> complex_error(3j * ref, ref)
    0.0
    >>> round(complex_error(np.ones((2, 2), complex), ref), 4)
    0.7071
    """
    mask = checked_mask(rec, ref, mask)
    difference = align(rec, ref, mask=mask).aligned[mask] - ref[mask]
    return float(np.linalg.norm(difference) / np.linalg.norm(ref[mask]))


def phase_correlation(
    rec: ComplexImage,
    ref: ComplexImage,
    mask: Mask | None = None,
    *,
    ramp: bool = True,
    shift: bool = True,
) -> float:
    """Pearson correlation of the phases, aligned and free of a constant and a plane.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.
    ramp, shift : bool
        Whether a phase ramp is removed from both, and a translation from the reconstruction.

    Returns
    -------
    float
        -1 to 1; 0 where one of the phases is flat.

    Examples
    --------
    >>> phase = np.random.default_rng(0).random((24, 24))
    >>> round(phase_correlation(np.exp(1j * phase), np.exp(1j * (phase - 2)), shift=False), 6)
    1.0
    """
    mask = checked_mask(rec, ref, mask)
    rec = align(rec, ref, ramp=ramp, shift=shift, mask=mask).aligned
    phases = [phase[mask] for phase in _phases(rec, ref, mask)]
    if ramp:
        plane = np.stack([np.ones(mask.sum()), *np.nonzero(mask)], axis=1)
        phases = [phase - plane @ np.linalg.lstsq(plane, phase, rcond=None)[0] for phase in phases]
    return _pearson(*phases)


def amplitude_correlation(rec: ComplexImage, ref: ComplexImage, mask: Mask | None = None) -> float:
    """Pearson correlation of the amplitudes.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    float
        -1 to 1; 0 where one of the amplitudes is flat.

    Examples
    --------
    >>> ref = np.arange(9.0).reshape(3, 3) + 0j
    >>> round(amplitude_correlation(2 * ref + 1, ref), 6)
    1.0
    """
    mask = checked_mask(rec, ref, mask)
    rec = align(rec, ref, mask=mask).aligned
    mean = np.abs(ref[mask]).mean()
    return _pearson(np.abs(rec[mask]) / mean, np.abs(ref[mask]) / mean)


def ssim_amplitude_phase(
    rec: ComplexImage, ref: ComplexImage, mask: Mask | None = None
) -> AmplitudePhase:
    """Structural similarity of amplitude and of phase.

    Wang et al., IEEE Transactions on Image Processing 13, 600 (2004): 7 x 7 px windows, only
    those that lie wholly inside the mask, with the reference's range as data range.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    AmplitudePhase
        Each at most 1.

    Raises
    ------
    ValueError
        If no window fits into the mask, or the reference is flat.

    Examples
    --------
    >>> ref = np.exp(1j * np.random.default_rng(0).random((16, 16))) * np.arange(1, 17)
    >>> tuple(round(value, 6) for value in ssim_amplitude_phase(1j * ref, ref))
    (1.0, 1.0)
    """
    from skimage.metrics import structural_similarity  # importing it takes a second

    mask = checked_mask(rec, ref, mask)
    inside = ndimage.binary_erosion(mask, np.ones((SSIM_WINDOW, SSIM_WINDOW)))
    if not inside.any():
        raise ValueError(f"mask must hold a window of {SSIM_WINDOW} x {SSIM_WINDOW} px.")
    values = []
    for image, reference in _amplitudes_and_phases(rec, ref, mask):
        _, similarity = structural_similarity(
            image,
            reference,
            win_size=SSIM_WINDOW,
            data_range=_data_range(reference[mask]),
            full=True,
        )
        values.append(float(similarity[inside].mean()))
    return AmplitudePhase(*values)


def psnr_amplitude_phase(
    rec: ComplexImage, ref: ComplexImage, mask: Mask | None = None
) -> AmplitudePhase:
    """Peak signal-to-noise ratio of amplitude and of phase, the peak being the reference's range.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    AmplitudePhase
        In decibels; infinite where there is no difference.

    Raises
    ------
    ValueError
        If the reference is flat.

    Examples
    --------
    >>> ref = np.array([[1, 2], [3, 4]]) * np.exp(1j * np.array([[0, 1], [0, 1]]))
    >>> psnr_amplitude_phase(ref, ref).amplitude > 200
    True
    """
    from skimage.metrics import peak_signal_noise_ratio  # importing it takes a second

    mask = checked_mask(rec, ref, mask)
    values = []
    for image, reference in _amplitudes_and_phases(rec, ref, mask):
        data_range = _data_range(reference[mask])
        with np.errstate(divide="ignore"):
            values.append(
                float(peak_signal_noise_ratio(reference[mask], image[mask], data_range=data_range))
            )
    return AmplitudePhase(*values)


def contrast(rec: ComplexImage, ref: ComplexImage, mask: Mask | None = None) -> AmplitudePhase:
    """Contrast of a reconstruction over that of the reference. A collapsed object has none.

    The contrast of the amplitude is its standard deviation over its mean. The contrast of the phase
    is its standard deviation.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    AmplitudePhase
        1 where the contrasts are equal, 0 where the reconstruction is flat.

    Raises
    ------
    ValueError
        If the reference is flat.

    Examples
    --------
    >>> phase = np.random.default_rng(0).random((16, 16))
    >>> ref = (1 + phase) * np.exp(1j * phase)
    >>> tuple(round(value, 4) for value in contrast((1 + phase) * np.exp(0.5j * phase), ref))
    (1.0, 0.5)
    """
    mask = checked_mask(rec, ref, mask)
    values = []
    pairs = _amplitudes_and_phases(rec, ref, mask)
    for relative, pair in zip((True, False), pairs):
        image, reference = (array[mask] / (array[mask].mean() if relative else 1) for array in pair)
        _data_range(reference)
        values.append(float(image.std() / reference.std()))
    return AmplitudePhase(*values)


def error_by_band(
    rec: ComplexImage, ref: ComplexImage, edges: Sequence[float], mask: Mask | None = None
) -> NDArray[np.float64]:
    """The relative complex error, divided among bands of spatial frequency.

    The squares of all bands from 0 to above sqrt(1/2) add up to that of ``complex_error``.

    Parameters
    ----------
    rec, ref : ndarray
        (H, W) reconstruction and reference.
    edges : sequence of float
        (n_bands + 1,) rising frequencies in cycles per pixel; n cycles in a field of view of N
        pixels are n / N.
    mask : ndarray, optional
        (H, W) where to compare. None: everywhere.

    Returns
    -------
    ndarray
        (n_bands,) error with a frequency in [edge, next edge).

    Examples
    --------
    >>> ref = np.ones((8, 8), complex)
    >>> ripple = 0.1 * np.cos(2 * np.pi * np.arange(8) / 4)
    >>> np.round(error_by_band(ref + ripple, ref, [0, 0.2, 0.3, 0.8]), 3)
    array([0.005, 0.07 , 0.   ])
    """
    mask = checked_mask(rec, ref, mask)
    difference = np.where(mask, align(rec, ref, mask=mask).aligned - ref, 0)
    power = np.abs(np.fft.fft2(difference, norm="ortho")) ** 2
    radius = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, ref.shape), indexing="ij"))
    bands, _ = np.histogram(radius, bins=[*edges, np.inf], weights=power)
    return np.sqrt(bands[:-1]) / np.linalg.norm(ref[mask])


def _pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson correlation, 0 where one of the arrays is flat."""
    if min(a.std(), b.std()) < FLAT:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _data_range(reference: NDArray[np.floating]) -> float:
    """Range of the reference, which has to have some contrast."""
    data_range = float(np.ptp(reference))
    if data_range < FLAT * max(1.0, float(np.abs(reference).max())):
        raise ValueError("the reference is flat inside the mask: there is no contrast to compare.")
    return data_range


def _amplitudes_and_phases(
    rec: ComplexImage, ref: ComplexImage, mask: Mask
) -> list[tuple[NDArray[np.floating], NDArray[np.floating]]]:
    """Amplitudes of reconstruction and reference after one complex scale, and their phases."""
    rec = align(rec, ref, mask=mask).aligned
    return [(np.abs(rec), np.abs(ref)), _phases(rec, ref, mask)]


def _phases(
    rec: ComplexImage, ref: ComplexImage, mask: Mask
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Phases of two aligned objects without wraps.

    Where the reference's phase spans less than 2 pi, it is enough to turn its middle to 0.
    Otherwise each phase is unwrapped by itself (Herraez et al., Applied Optics 41, 7437 (2002)).
    """
    mean = np.exp(-1j * np.angle(ref[mask].sum()))
    unwrapped = _unwrapped(ref * mean, mask)
    low, high = float(unwrapped[mask].min()), float(unwrapped[mask].max())
    if high - low < 2 * np.pi:
        middle = mean * np.exp(-0.5j * (low + high))
        return np.angle(rec * middle), np.angle(ref * middle)
    return _unwrapped(rec * mean, mask), unwrapped


def _unwrapped(array: ComplexImage, mask: Mask) -> NDArray[np.floating]:
    phase = np.ma.masked_array(np.angle(array), mask=~mask)
    return np.ma.filled(unwrap_phase(phase, rng=0), 0.0)
