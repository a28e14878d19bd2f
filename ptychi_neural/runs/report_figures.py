"""Figures of a report that concern the data and the way of a run: frames, positions, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.scans import Scan

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.figure import Figure


def frames_figure(scan: Scan) -> Figure:
    """Mean pattern in a logarithmic scale with masked pixels in red, and counts of each frame by
    its number in the file."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    mean = scan.patterns.sum(axis=0, dtype=np.float64) / len(scan.patterns)
    valid = scan.valid_pixel_mask
    valid = np.ones(mean.shape, dtype=bool) if valid is None else valid
    lit = mean[valid & (mean > 0)]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = (lit.min(), lit.max()) if lit.size else (0.1, 1.0)
    palette = "viridis"
    shown = np.where(valid, np.maximum(mean, low), np.nan)
    drawn = left.imshow(shown, cmap=palette, norm=LogNorm(low, max(high, low * 1.001)))
    left.imshow(np.ma.masked_array(np.ones(mean.shape), valid), cmap="autumn", vmin=1, vmax=2)
    left.set(title="mean pattern (counts)", xticks=[], yticks=[])
    figure.colorbar(drawn, ax=left, shrink=0.85)
    numbers = np.arange(len(scan.patterns)) if scan.frame_indexes is None else scan.frame_indexes
    order = np.argsort(numbers)
    right.plot(numbers[order], counts_of(scan)[order], lw=0.8)
    right.set(title="counts of each frame", xlabel="number of the frame", ylim=(0, None))
    right.grid(alpha=0.3)
    return figure


def counts_of(scan: Scan) -> NDArray[np.float64]:
    """(n,) counts of each frame at valid pixels."""
    valid = scan.valid_pixel_mask
    if valid is None:
        return scan.patterns.sum(axis=(1, 2), dtype=np.float64)
    return scan.patterns[:, valid].sum(axis=1, dtype=np.float64)


def positions_figure(before: NDArray[np.float64], after: NDArray[np.float64]) -> Figure:
    """Positions before and after, and by how much each has moved.

    Parameters
    ----------
    before, after : ndarray
        (n, 2) positions (y, x) in object pixels.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*before.T[::-1], "o", ms=4, mfc="none", mec="0.5", mew=0.7, label="before")
    left.plot(*after.T[::-1], ".", ms=3, color="C3", label="after")
    left.set(title="positions (px)", xlabel="x", ylabel="y", aspect="equal")
    left.invert_yaxis()
    left.legend(loc="upper right", fontsize="small")
    moves = after - before
    right.quiver(*before.T[::-1], *moves.T[::-1], angles="xy", color="C3", width=0.004)
    longest = np.hypot(*moves.T).max()
    right.set(title=f"moves (longest {longest:.3g} px)", xlabel="x", aspect="equal")
    right.invert_yaxis()
    return figure


def curves_figure(curves: Sequence[Mapping[str, ArrayLike]]) -> Figure:
    """Curves beside each other.

    Parameters
    ----------
    curves : sequence of mapping
        Each with ``x``, ``y``, ``title`` and ``xlabel``, and perhaps ``best``, an x to mark.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.5 * len(curves), 3.2), layout="constrained")
    for ax, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves):
        x, y = (np.asarray(curve[axis], dtype=np.float64) for axis in "xy")
        finite = np.isfinite(y)
        ax.plot(x[finite], y[finite], marker="." if finite.sum() < 30 else None)
        if finite.any() and y[finite].min() > 0 and y[finite].max() > 3 * y[finite].min():
            ax.set_yscale("log")
        if "best" in curve:
            best = float(np.asarray(curve["best"]))
            ax.axvline(best, color="C2", ls="--", lw=1, label="lowest")
            ax.legend(loc="upper right", fontsize="small")
        ax.set(title=str(curve["title"]), xlabel=str(curve["xlabel"]))
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.grid(alpha=0.3, which="both")
    return figure


def deviation_figure(deviation: NDArray[np.floating], area: NDArray[np.bool_]) -> Figure:
    """Disagreement of the predictions that make up the object, in the scanned area."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    ax = figure.subplots()
    shown = np.where(area, deviation, np.nan)
    high = np.nanpercentile(shown, 99) if np.isfinite(shown).any() else 1.0
    rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    figure.colorbar(ax.imshow(shown[box], cmap="viridis", vmin=0, vmax=high), ax=ax, shrink=0.85)
    ax.set_axis_off()
    return figure
