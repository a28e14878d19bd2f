"""Picture of what a trained generator predicts, and of where the prediction is uncertain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.evaluation.figures import draw_image, save_figure
from ptychi_neural.scans.hdf5 import StrPath

PALETTES = {"amplitude": "gray", "phase": "inferno", "deviation": "viridis"}
"""Colours of what is shown."""


def amplitude_and_phase(
    object: NDArray[np.complexfloating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Amplitude and phase in radians of the product of all slices.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) object.
    mask : ndarray
        (H, W) area in which the mean phase is turned to 0.

    Examples
    --------
    >>> amplitude, phase = amplitude_and_phase(np.full((2, 4, 4), 2j), np.ones((4, 4), bool))
    >>> float(amplitude[0, 0]), round(float(phase[0, 0]), 6)
    (4.0, 0.0)
    """
    product = object.prod(axis=0)
    turned = product * np.exp(-1j * np.angle(product[mask].sum()))
    return np.abs(turned), np.angle(turned)


def prediction_figure(
    path: StrPath,
    object: NDArray[np.complexfloating],
    standard_deviation: NDArray[np.floating],
    reprojection_errors: NDArray[np.floating],
    *,
    title: str | None = None,
    pixel_size_m: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    overwrite: bool = False,
) -> None:
    """Draw a predicted object with its standard deviation and the re-projection errors.

    The object is shown as amplitude and phase of the product of all slices.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format.
    object : ndarray
        (n_slices, H, W) object.
    standard_deviation : ndarray
        (H, W) disagreement of the predictions; NaN where it is unknown.
    reprojection_errors : ndarray
        (k, 2) numbers of frames and re-projection errors.
    title : str, optional
        Above the picture.
    pixel_size_m : float, optional
        Scales the axes; None: in pixels.
    mask : ndarray, optional
        (H, W) area that is shown. None: everything.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    from matplotlib.figure import Figure

    mask = np.ones(object.shape[-2:], bool) if mask is None else mask
    amplitude, phase = amplitude_and_phase(object, mask)
    figure = Figure(figsize=(11, 9), layout="constrained")
    if title is not None:
        figure.suptitle(title)
    axes = figure.subplots(2, 2).ravel()
    for ax, name, image, colours in zip(
        axes,
        ("amplitude", "phase (rad)", "standard deviation of the predictions"),
        (amplitude, phase, standard_deviation),
        PALETTES.values(),
    ):
        draw_image(ax, image, name, colours, mask, pixel_size_m)
    axes[3].plot(*reprojection_errors.T, ".", markersize=4)
    axes[3].set(title="re-projection error of the amplitudes", xlabel="frame", ylim=(0, None))
    axes[3].grid(alpha=0.3)
    save_figure(figure, path, overwrite)
