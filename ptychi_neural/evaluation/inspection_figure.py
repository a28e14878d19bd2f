"""Picture of a scan before it is reconstructed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.evaluation.figures import save_figure
from ptychi_neural.evaluation.scale_bars import length_unit
from ptychi_neural.scans.hdf5 import StrPath

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.axes import Axes

MOST_MARKED = 400
"""Masked pixels that are marked one by one."""

FOOTPRINT = 0.1
"""Share of the probe's largest intensity at which its outline is drawn."""

MOST_JOINED = 5000
"""Positions that are joined by a line in their order; a line through more fills the picture."""


def inspection_figure(
    path: StrPath,
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None,
    frame_numbers: NDArray[np.integer],
    dropped: NDArray[np.bool_],
    *,
    positions_px: NDArray[np.floating] | None = None,
    probe: NDArray[np.complexfloating] | None = None,
    is_probe_known: bool = True,
    pixel_size_m: float | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> None:
    """Draw the mean pattern, counts of frames, positions over the probe, and their overlap.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format.
    patterns : ndarray
        (n, h, w) counts.
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works.
    frame_numbers : ndarray
        (n,) numbers of the frames in their file.
    dropped : ndarray
        (n,) True for frames that do not belong to the scan.
    positions_px : ndarray, optional
        (m, 2) positions (y, x) in object pixels; without them patterns alone are drawn.
    probe : ndarray, optional
        (n_opr_modes, n_modes, h, w) probe, which belongs to the positions.
    is_probe_known : bool
        Whether it is not a guess in focus, whose beam is narrower than any other.
    pixel_size_m : float, optional
        Size of an object pixel, with which axes are in units of length.
    title : str, optional
        Above the picture.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    from matplotlib.figure import Figure

    located = positions_px is not None and probe is not None
    figure = Figure(figsize=(15, 9 if located else 4.6), layout="constrained")
    axes = figure.subplots(2 if located else 1, 3, squeeze=False)
    if title is not None:
        figure.suptitle(title)
    valid = np.ones(patterns.shape[1:], bool) if valid_pixel_mask is None else valid_pixel_mask
    _draw_mean(axes[0, 0], patterns, valid)
    _draw_variation(axes[0, 1], patterns, valid)
    _draw_counts(axes[0, 2], patterns, valid, frame_numbers, dropped)
    if positions_px is not None and probe is not None:
        scale, unit = 1.0, "px"
        if pixel_size_m is not None:
            per_m, unit = length_unit(float(np.ptp(positions_px, axis=0).max()) * pixel_size_m)
            scale = per_m * pixel_size_m
        intensity = (np.abs(probe[0]) ** 2).sum(axis=0)
        _draw_positions(axes[1, 0], positions_px * scale, intensity, scale, unit)
        _draw_overlap(axes[1, 1], positions_px, intensity, scale, unit)
        if not is_probe_known:
            axes[1, 0].set_title("positions, and a beam in focus at the first")
            axes[1, 1].set_title("illumination by a beam in focus, as no file tells the probe")
        _draw_steps(axes[1, 2], positions_px, pixel_size_m)
    save_figure(figure, path, overwrite)


def _draw_mean(ax: Axes, patterns: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
    mean = np.where(valid, patterns.mean(axis=0, dtype=np.float64), np.nan)
    drawn = ax.imshow(np.log10(np.clip(mean, 0, None) + 1e-2), cmap="viridis")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    rows, columns = np.nonzero(~valid)
    if 0 < len(rows) <= MOST_MARKED:
        ax.plot(columns, rows, "rs", markersize=4, markerfacecolor="none")
    height, width = mean.shape
    ax.plot(width // 2, height // 2, "w+", markersize=10)
    ax.set(title=f"log10 of the mean pattern, {counted(len(rows), 'pixels')} masked, + centre")


def _draw_variation(ax: Axes, patterns: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
    """Draw variance over mean, 1 for light that does not change: odd pixels stand out."""
    mean = patterns.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for frame in patterns:  # one by one, as all of them would take eight bytes a pixel
        squares += np.square(frame, dtype=np.float64)
    variance = squares / len(patterns) - mean**2
    shown = np.where(valid & (mean > 0), variance / np.where(mean > 0, mean, 1), np.nan)
    drawn = ax.imshow(np.log10(np.clip(shown, 1e-2, None)), cmap="magma")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    ax.set(title="log10 of variance / mean of every pixel")


def _draw_counts(
    ax: Axes,
    patterns: NDArray[np.generic],
    valid: NDArray[np.bool_],
    numbers: NDArray[np.integer],
    dropped: NDArray[np.bool_],
) -> None:
    counts = patterns.sum(axis=(1, 2), dtype=np.float64, where=valid)
    ax.plot(numbers, counts, ".", markersize=3)
    if dropped.any():
        ax.plot(numbers[dropped], counts[dropped], "rx", label="left out")
        ax.legend()
    ax.set(title="counts of each frame", xlabel="frame")
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)


def _draw_positions(
    ax: Axes,
    positions: NDArray[np.floating],
    intensity: NDArray[np.floating],
    scale: float,
    unit: str,
) -> None:
    if len(positions) <= MOST_JOINED:
        ax.plot(positions[:, 1], positions[:, 0], "-", color="0.8", linewidth=0.5)
    ax.plot(positions[:, 1], positions[:, 0], ".", markersize=3)
    first = positions[0]
    height, width = intensity.shape
    extent_y = (np.arange(height) - height // 2) * scale + first[0]
    extent_x = (np.arange(width) - width // 2) * scale + first[1]
    ax.contour(extent_x, extent_y, intensity, [FOOTPRINT * intensity.max()], colors="r")
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.set(
        title="positions, and the probe at the first", xlabel=f"x ({unit})", ylabel=f"y ({unit})"
    )


def _draw_overlap(
    ax: Axes,
    positions_px: NDArray[np.floating],
    intensity: NDArray[np.floating],
    scale: float,
    unit: str,
) -> None:
    """Draw how many positions light a place, counted with the probe's share of its maximum."""
    from scipy import fft

    coarse = max(1, int(np.ceil(np.ptp(positions_px, axis=0).max() / 512)))
    height, width = (max(1, n // coarse) for n in intensity.shape)
    probe = intensity[: height * coarse, : width * coarse]
    probe = probe.reshape(height, coarse, width, coarse).mean(axis=(1, 3))
    probe = probe / probe.max()
    corners = np.round((positions_px - positions_px.min(axis=0)) / coarse).astype(int)
    visits = np.zeros(corners.max(axis=0) + 1)
    np.add.at(visits, tuple(corners.T), 1)
    shape = [n + m - 1 for n, m in zip(visits.shape, probe.shape)]
    light = fft.irfft2(fft.rfft2(visits, shape) * fft.rfft2(probe, shape), shape)
    low = positions_px.min(axis=0) - np.array(intensity.shape) / 2
    edges = [scale * (low[i] + coarse * n) for i in (0, 1) for n in (0, light.shape[i])]
    drawn = ax.imshow(light, extent=(edges[2], edges[3], edges[1], edges[0]), cmap="cividis")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8)
    ax.set(
        title="illumination, in frames at the probe's maximum",
        xlabel=f"x ({unit})",
        ylabel=f"y ({unit})",
    )


def _draw_steps(ax: Axes, positions_px: NDArray[np.floating], pixel_size_m: float | None) -> None:
    from scipy.spatial import cKDTree

    unit = "px"
    if len(positions_px) > 1:
        distances, _ = cKDTree(positions_px).query(positions_px, k=2)
        if pixel_size_m is not None:
            per_m, unit = length_unit(float(distances[:, 1].max()) * pixel_size_m)
            distances = distances * pixel_size_m * per_m
        # A raster's distances are all the same, up to rounding: bins begin at 0.
        ax.hist(distances[:, 1], bins=40, range=(0, 1.1 * distances[:, 1].max() or 1))
    ax.set(title="distance to the nearest neighbour", xlabel=unit, ylabel="positions")
