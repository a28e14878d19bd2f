"""Picture of what a trained generator predicts, and of where the prediction is uncertain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.evaluation.figures import draw_image, save_figure
from ptychi_neural.scans.hdf5 import StrPath


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
    product = object.prod(axis=0)
    turned = product * np.exp(-1j * np.angle(product[mask].sum()))
    figure = Figure(figsize=(11, 9), layout="constrained")
    if title is not None:
        figure.suptitle(title)
    axes = figure.subplots(2, 2).ravel()
    for ax, name, image, colours in zip(
        axes,
        ("amplitude", "phase (rad)", "standard deviation of the predictions"),
        (np.abs(turned), np.angle(turned), standard_deviation),
        ("gray", "inferno", "viridis"),
    ):
        draw_image(ax, image, name, colours, mask, pixel_size_m)
    axes[3].plot(*reprojection_errors.T, ".", markersize=4)
    axes[3].set(title="re-projection error of the amplitudes", xlabel="frame", ylim=(0, None))
    axes[3].grid(alpha=0.3)
    save_figure(figure, path, overwrite)
