"""Pictures of a reconstruction and of its losses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.evaluation.scale_bars import length_unit
from ptychi_neural.scans.hdf5 import StrPath, replacing

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_PERCENTILES = (0.5, 99.5)
"""Percentiles of an image at which its colours begin and end."""

MAX_PROBE_MODES = 3
"""Largest number of probe modes that are drawn."""


def reconstruction_figure(
    path: StrPath,
    object: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    losses: Sequence[tuple[int, float]] | None = None,
    *,
    title: str | None = None,
    pixel_size_m: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    standard_deviation: NDArray[np.floating] | None = None,
    intervals: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None,
    crop: bool = True,
    overwrite: bool = False,
) -> None:
    """Draw amplitude and phase of every slice, the strongest probe modes and the loss.

    The mean phase inside the mask is turned to 0; a ramp is left as it is. Colours span the 0.5
    to 99.5 percentiles inside the mask. Probe modes show phase as hue, amplitude as brightness.

    Parameters
    ----------
    path : path
        The picture; its suffix (``.png``, ``.pdf``, ``.svg``) is the format.
    object : ndarray
        (n_slices, H, W) object.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe; the first OPR mode is drawn.
    losses : sequence of (int, float), optional
        Epochs and their losses.
    title : str, optional
        Above the picture.
    pixel_size_m : float, optional
        Scales the axes in micrometres or nanometres; None: in pixels.
    mask : ndarray, optional
        (H, W) the scanned area. None: everywhere.
    standard_deviation : ndarray, optional
        (H, W) disagreement of the predictions that make up the object; NaN where it is unknown.
    intervals : tuple of ndarray, optional
        (H, W) half widths of the 90 % intervals of amplitude and phase, of the product of all
        slices.
    crop : bool
        Whether only the bounding box of the mask is drawn.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        If an array has the wrong rank.
    """
    if object.ndim != 3 or probe.ndim != 4:
        raise ValueError(
            "object must have shape (n_slices, H, W) and probe (n_opr_modes, n_modes, h, w), got "
            f"{object.shape} and {probe.shape}."
        )
    from matplotlib.figure import Figure

    mask = np.ones(object.shape[-2:], bool) if mask is None else mask
    beside = []
    if standard_deviation is not None:
        beside.append(("disagreement of predictions", standard_deviation, "viridis"))
    if intervals is not None:
        names = ("amplitude, 90 % within ±", "phase, 90 % within ± (rad)")
        beside += [(name, half, "viridis") for name, half in zip(names, intervals)]
    n_columns = 2 + len(beside)
    figure = Figure(figsize=(3 + 5 * n_columns, 4.6 * len(object)), layout="constrained")
    if title is not None:
        figure.suptitle(title)
    ratios = (5 * n_columns, 3.4)
    pictures, aside = np.ravel(figure.subfigures(1, 2, squeeze=False, width_ratios=ratios))
    axes = pictures.subplots(len(object), n_columns, squeeze=False)
    for row, (slice_, pair) in enumerate(zip(object, axes)):
        turned = slice_ * np.exp(-1j * np.angle(slice_[mask].sum()))
        number = f" {row + 1}" if len(object) > 1 else ""
        images = [
            (f"amplitude{number}", np.abs(turned), "gray"),
            (f"phase{number} (rad)", np.angle(turned), "inferno"),
        ]
        images += beside if row == 0 else []
        for ax in pair[len(images) :]:
            ax.set_axis_off()
        for (name, image, colours), ax in zip(images, pair):
            draw_image(ax, image, name, colours, mask, pixel_size_m, crop)
    n_modes = min(probe.shape[1], MAX_PROBE_MODES)
    above, *below = np.ravel(aside.subfigures(2 if losses else 1, 1, squeeze=False))
    power = (np.abs(probe[0]) ** 2).sum(axis=(-2, -1))
    for k, ax in enumerate(np.atleast_1d(above.subplots(1, n_modes))):
        ax.imshow(hue_and_brightness(probe[0, k]))
        share = f"mode {k + 1}\n{power[k] / power.sum():.1%}"
        ax.set_title(share if n_modes > 1 else "probe", fontsize="medium")
        ax.set(xticks=[], yticks=[])
    if losses:
        epochs, values = zip(*losses)
        _draw_losses([below[0].subplots()], {"epoch": epochs, "loss": values})
    save_figure(figure, path, overwrite)


def loss_figure(path: StrPath, table: Mapping[str, ArrayLike], overwrite: bool = False) -> None:
    """Draw losses over epochs.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format.
    table : mapping or DataFrame
        A column ``epoch`` and one for each curve, such as pty-chi's ``loss_tracker.table``.
        Values that are not finite are left out.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        If the table has no column ``epoch`` or no other.
    """
    if "epoch" not in table or len(list(table)) < 2:
        raise ValueError(f"table needs a column 'epoch' and a loss; it has {list(table)}.")
    from matplotlib.figure import Figure

    n_curves = len(list(table)) - 1
    figure = Figure(figsize=(6, 1 + 3 * n_curves), layout="constrained")
    _draw_losses(figure.subplots(n_curves, 1, sharex=True, squeeze=False)[:, 0].tolist(), table)
    save_figure(figure, path, overwrite)


def _draw_losses(axes: Sequence[Axes], table: Mapping[str, ArrayLike]) -> None:
    """Draw each curve in axes of its own, because losses of different kinds differ in scale."""
    epochs = np.asarray(table["epoch"], dtype=np.float64)
    for ax, name in zip(axes, [name for name in table if name != "epoch"], strict=True):
        values = np.asarray(table[name], dtype=np.float64)
        finite = np.isfinite(values)
        marker = "." if finite.sum() < 30 else None
        ax.plot(epochs[finite], values[finite], marker=marker)
        shown = values[finite]
        # Labels of a logarithmic axis that spans less than a decade run into each other.
        if finite.any() and 0 < 10 * shown.min() < shown.max():
            ax.set_yscale("log")
        ax.set(ylabel=str(name))
        ax.grid(alpha=0.3, which="both")
    axes[-1].set(xlabel="epoch")


def draw_image(
    ax: Axes,
    image: NDArray[np.floating],
    title: str,
    palette: str,
    mask: NDArray[np.bool_],
    pixel_size_m: float | None,
    crop: bool = True,
) -> None:
    """Draw an image with its scale.

    Colours span the ``COLOUR_PERCENTILES`` of the finite values inside the (H, W) mask. Only the
    mask's bounding box is shown where ``crop`` is set.
    """
    extent, unit = _extent(image.shape, pixel_size_m)
    shown = image[mask & np.isfinite(image)]
    low, high = np.percentile(shown, COLOUR_PERCENTILES) if shown.size else (0.0, 1.0)
    drawn = ax.imshow(
        image, cmap=palette, vmin=low, vmax=high, extent=extent, interpolation="nearest"
    )
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    ax.set(title=title, xlabel=f"x ({unit})", ylabel=f"y ({unit})")
    if crop and mask.any():
        _crop(ax, mask, extent)


def _extent(
    shape: tuple[int, ...], pixel_size_m: float | None
) -> tuple[tuple[float, float, float, float], str]:
    """Left, right, bottom and top edges of an image, and their unit.

    Lengths are counted from the middle of the image, pixels from its corner.
    """
    height, width = shape
    if pixel_size_m is None:
        return (-0.5, width - 0.5, height - 0.5, -0.5), "px"
    scale, unit = length_unit(max(shape) * pixel_size_m)
    y, x = (n / 2 * pixel_size_m * scale for n in shape)
    return (-x, x, y, -y), unit


def _crop(ax: Axes, mask: NDArray[np.bool_], extent: tuple[float, ...]) -> None:
    """Show the bounding box of the mask only."""
    left, right, bottom, top = extent
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    dy, dx = (bottom - top) / mask.shape[0], (right - left) / mask.shape[1]
    ax.set_xlim(left + dx * columns[0], left + dx * (columns[-1] + 1))
    ax.set_ylim(top + dy * (rows[-1] + 1), top + dy * rows[0])


def hue_and_brightness(mode: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """(h, w, 3) colours that show the phase as hue and the amplitude as brightness."""
    from matplotlib.colors import hsv_to_rgb

    amplitude = np.abs(mode)
    hue = np.angle(mode) / (2 * np.pi) % 1
    value = np.minimum(amplitude / max(float(np.percentile(amplitude, 99.8)), 1e-300), 1)
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), value], axis=-1))


def coloured(image: NDArray[np.floating], palette: str, low: float, high: float) -> bytes:
    """Make a PNG of an (h, w) image, a pixel of it for each of its own, clear where it is NaN."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    shown = np.ma.masked_invalid(image)
    imsave(buffer, shown, vmin=low, vmax=high, cmap=palette, format="png")
    return buffer.getvalue()


def save_figure(figure: Figure, path: StrPath, overwrite: bool) -> None:
    """Write a figure whole or not at all."""
    with replacing(path, overwrite) as temporary:
        figure.savefig(temporary, dpi=150)
