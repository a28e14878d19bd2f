"""Pictures of several engines on one scan: side by side, and over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.evaluation.alignment import align, phase_ramp
from ptychi_neural.evaluation.figures import COLOUR_PERCENTILES, save_figure
from ptychi_neural.evaluation.resolution import (
    HALF,
    RingCorrelation,
    fourier_ring_correlation,
    resolution_px,
)
from ptychi_neural.evaluation.scale_bars import add_scale_bar, length_unit
from ptychi_neural.scans.hdf5 import StrPath

if TYPE_CHECKING:  # importing matplotlib takes a second
    import pandas as pd
    from matplotlib.axes import Axes

ERROR_PERCENTILE = 99
"""Percentile of an object's difference from the reference that sets the range of colours."""

LOWEST_EXCESS = 1e-4
"""Smallest held-out likelihood above the lowest that is drawn, because its axis is logarithmic."""


def comparison_figure(
    path: StrPath,
    objects: Mapping[str, NDArray[np.complexfloating]],
    reference: NDArray[np.complexfloating],
    reference_name: str,
    mask: NDArray[np.bool_],
    *,
    captions: Mapping[str, str] | None = None,
    title: str = "",
    pixel_size_m: float | None = None,
    ramp: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw amplitude, phase, difference and Fourier ring correlation of objects, each in a row.

    All amplitudes and phases have the range of colours of the reference. All differences share a
    range, which ends at twice the smallest of the objects' 99th percentiles. The threshold in the
    last column is ``HALF``.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format.
    objects : mapping of str to ndarray
        (H, W) objects, aligned with the reference.
    reference : ndarray
        (H, W) object that they are compared with.
    reference_name : str
        Name of its row, the first.
    mask : ndarray
        (H, W) the scanned area, whose bounding box is drawn.
    captions : mapping of str to str, optional
        Words under an object's name.
    title : str
        Above the picture.
    pixel_size_m : float, optional
        Size of an object pixel; without it lengths are in pixels.
    ramp : bool
        Remove the linear phase ramp of the reference from all phases, which nobody knows where
        the probe was refined. It would take up the range of colours.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    from matplotlib.figure import Figure

    box = tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(mask))
    turn = _turn(reference, mask, ramp)
    colours = {name: f"C{k}" for k, name in enumerate(objects)}
    differences = {name: np.abs(object_ - reference) for name, object_ in objects.items()}
    curves = {
        name: fourier_ring_correlation(object_, reference, mask)
        for name, object_ in objects.items()
    }
    limits = [np.percentile(part(reference * turn)[mask], COLOUR_PERCENTILES) for part in _PARTS]
    spread = [
        np.percentile(difference[mask], ERROR_PERCENTILE) for difference in differences.values()
    ]
    limits.append(np.array([0.0, 2 * min((value for value in spread if value > 0), default=0.5)]))

    height, width = reference[box].shape
    figure = Figure(
        figsize=(12, 1.2 + 2.75 * height / width * (len(objects) + 1)), layout="constrained"
    )
    figure.suptitle(title)
    axes = figure.subplots(len(objects) + 1, 4, squeeze=False, width_ratios=(1, 1, 1, 1.2))
    rows = {reference_name: reference} | dict(objects)
    drawn = []
    for row, (name, object_) in zip(axes, rows.items()):
        images = [part(object_ * turn) for part in _PARTS]
        if name in objects:
            images.append(differences[name])
        drawn = [
            ax.imshow(image[box], cmap=palette, vmin=low, vmax=high, interpolation="nearest")
            for ax, image, palette, (low, high) in zip(row, images, _PALETTES, limits)
        ]
        for ax in row[:3]:
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel("\n".join(filter(None, [name, (captions or {}).get(name)])))
        if name in objects:
            _draw_rings(row[3], {name: curves[name]}, colours)
            _tell_period(row[3], curves[name], pixel_size_m)
    add_scale_bar(axes[0, 0], width, pixel_size_m)
    axes[0, 2].axis("off")
    _draw_rings(axes[0, 3], curves, colours)
    axes[0, 2].text(0.5, 0, f"difference from\n{reference_name}", ha="center", va="bottom")
    phase = "phase without its ramp (rad)" if ramp else "phase (rad)"
    for k, heading in {0: "amplitude", 1: phase, 3: "Fourier ring correlation"}.items():
        axes[0, k].set_title(heading)
    if objects:
        axes[0, 3].legend(fontsize="x-small", loc="lower left")
    for ax in axes[:-1, 3]:
        ax.tick_params(labelbottom=False)
    axes[-1, 3].set_xlabel("cycles per pixel")
    for k, image in enumerate(drawn):
        figure.colorbar(image, ax=axes[:, k], location="bottom", shrink=0.8, aspect=30, pad=0.01)
    save_figure(figure, path, overwrite)


def error_over_time_figure(
    path: StrPath,
    trace: pd.DataFrame,
    seconds: float | None = None,
    *,
    title: str = "",
    overwrite: bool = False,
) -> None:
    """Draw error and held-out likelihood of engines over their wall time.

    A dot marks each engine's best held-out likelihood.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format.
    trace : DataFrame
        Columns ``engine``, ``seconds``, ``held_out_nll`` and ``error``; errors that are all NaN
        are not drawn. Values that are not finite are left out.
    seconds : float, optional
        Wall time to mark.
    title : str
        Above the picture.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    from matplotlib.figure import Figure

    # The start is drawn at half of the first time: a logarithmic axis has no zero.
    earliest = trace.seconds[trace.seconds > 0].min() / 2
    trace = trace.assign(
        seconds=trace.seconds.clip(lower=earliest),
        excess=(trace.held_out_nll - trace.held_out_nll.min()).clip(lower=LOWEST_EXCESS),
    )
    columns = {"error": "relative complex error"} if trace.error.notna().any() else {}
    columns["excess"] = "held-out negative log likelihood\nabove the lowest"
    figure = Figure(figsize=(6.5 * len(columns), 4.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for (column, label), ax in zip(columns.items(), axes):
        for engine, course in trace.groupby("engine", sort=False):
            (line,) = ax.plot(course.seconds, course[column], label=engine, lw=1.4)
            best = course.loc[course.held_out_nll.idxmin()]
            ax.plot(best.seconds, best[column], "o", color=line.get_color(), ms=6)
        if seconds is not None:
            ax.axvline(seconds, color="0.5", ls="--", lw=1, label="equal wall time")
        ax.set(xscale="log", yscale="log", xlabel="wall time (s)", ylabel=label)
        ax.set_ylim(top=1.5 * trace[column].iloc[0])  # a diverging engine leaves the picture
        ax.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize="small")
    save_figure(figure, path, overwrite)


def _turn(
    reference: NDArray[np.complexfloating], mask: NDArray[np.bool_], ramp: bool
) -> NDArray[np.complexfloating]:
    """(H, W) factors of magnitude 1 that bring the mean phase, and a ramp if asked, to 0."""
    turn = np.ones_like(reference)
    if ramp:
        slope = align(reference, turn, scale=False, ramp=True, mask=mask).ramp
        turn = phase_ramp(reference.shape, -np.asarray(slope)).astype(reference.dtype)
    return np.asarray(turn * np.exp(-1j * np.angle((reference * turn)[mask].sum())))


_PARTS = (np.abs, np.angle)
_PALETTES = ("gray", "inferno", "viridis")


def _draw_rings(
    ax: Axes, curves: Mapping[str, RingCorrelation], colours: Mapping[str, str]
) -> None:
    for name, rings in curves.items():
        ax.plot(rings.frequencies, rings.correlation, color=colours[name], label=name, lw=1.4)
    ax.axhline(HALF, color="0.5", ls="--", lw=1)
    ax.set(xlim=(0, 0.5), ylim=(-0.1, 1.05))
    ax.grid(alpha=0.3)


def _tell_period(ax: Axes, rings: RingCorrelation, pixel_size_m: float | None) -> None:
    period_px = resolution_px(rings, HALF)
    told = f"period resolved: {period_px:.2f} px"
    if pixel_size_m is not None:
        scale, unit = length_unit(period_px * pixel_size_m)
        told += f" ({period_px * pixel_size_m * scale:.3g} {unit})"
    ax.text(0.02, 0.03, told, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0})
