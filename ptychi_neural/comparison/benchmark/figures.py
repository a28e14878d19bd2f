"""Figures of a benchmark, drawn from tables with a row for each cell, epoch or ring.

Each figure has a panel for every combination of labels in its ``panels`` columns. An engine has
the same colour in all panels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ptychi_neural.evaluation.figures import save_figure
from ptychi_neural.evaluation.metric_table import METRICS
from ptychi_neural.scans.hdf5 import StrPath

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS_IN_ROW = 6
"""Largest number of panels side by side."""

LARGEST_RATIO = 2.0
"""Ratio, and its inverse, at which the colours of a map end."""


def ratio_map(
    path: StrPath, ratios: pd.DataFrame, x: str, y: str, panels: Sequence[str], title: str = ""
) -> None:
    """Draw ratios over two axes as colours and numbers.

    Ratios below 1 are blue, those above 1 red. A dash stands for a missing one.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format. An existing file is replaced.
    ratios : DataFrame
        Columns ``x``, ``y``, those of ``panels``, ``ratio``, and ``cells``, such as "8/9", which
        is shown where records are missing.
    x, y : str
        Columns of labels, the first of ``y`` at the bottom.
    panels : sequence of str
        Columns of labels.
    title : str
        Above the picture.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    columns, rows = ratios[x].unique(), ratios[y].unique()
    size = (max(4.2, 1.2 + 0.62 * len(columns)), 1.1 + 0.5 * len(rows))
    figure, parts = _figure(ratios, panels, size, title)
    norm = LogNorm(1 / LARGEST_RATIO, LARGEST_RATIO)
    for ax, part in parts:
        grid = part.pivot(index=y, columns=x, values=["ratio", "cells"]).reindex(rows)
        values = grid["ratio"][columns].to_numpy(dtype=float)
        counts = grid["cells"][columns].to_numpy(dtype=str)
        ax.imshow(values, cmap="RdBu_r", norm=norm, origin="lower", aspect="auto")
        ax.set_facecolor("0.9")
        for (row, column), ratio in np.ndenumerate(values):
            text = "-" if np.isnan(ratio) else f"{ratio:.2f}"
            n_recorded, n_all = counts[row, column].split("/")
            if n_recorded != n_all:
                text += f"\n{n_recorded}/{n_all}"
            colour = "white" if abs(np.log(ratio)) > 0.7 * np.log(LARGEST_RATIO) else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlabel=x, ylabel=y)
    bar = figure.colorbar(
        ScalarMappable(norm, "RdBu_r"), ax=figure.axes, extend="both", label="ratio of errors"
    )
    ticks = LARGEST_RATIO ** np.linspace(-1, 1, 5)
    bar.set_ticks(ticks.tolist(), labels=[f"{tick:.2g}" for tick in ticks], minor=False)
    bar.set_ticks([], minor=True)
    save_figure(figure, path, overwrite=True)


def metric_curves(
    path: StrPath, cells: pd.DataFrame, value: str, x: str, panels: Sequence[str], title: str = ""
) -> None:
    """Draw the median of a metric of every engine over an axis, and the span of all cells.

    Lines join the medians where the labels of the axis are numbers. The metric has a logarithmic
    axis where all of its values are positive.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format. An existing file is replaced.
    cells : DataFrame
        Columns ``x``, those of ``panels``, ``engine`` and that of ``value``.
    value : str
        Column of the metric, such as ``error``.
    x : str
        Column of labels.
    panels : sequence of str
        Columns of labels.
    title : str
        Above the picture.
    """
    labels = cells[x].unique()
    numbers = bool(pd.to_numeric(pd.Series(labels), errors="coerce").notna().all())
    size = (3.6 if numbers else max(3.6, 1.1 * len(labels)), 3.2)
    figure, parts = _figure(cells, panels, size, title, sharey=True)
    styles = list(_styles(cells))
    for ax, part in parts:
        for k, (engine, style) in enumerate(styles):
            values = part[part["engine"] == engine].groupby(x)[value]
            spans = values.agg(["min", "median", "max"]).reindex(labels)
            low, middle, high = spans.to_numpy(dtype=float).T
            position = np.arange(len(labels), dtype=float)
            if numbers:
                ax.plot(position, middle, label=engine, marker="o", markersize=3, **style)
                ax.fill_between(position, low, high, color=style["color"], alpha=0.12, lw=0)
            else:
                position += 0.6 * ((k + 0.5) / len(styles) - 0.5)
                length = np.stack([middle - low, high - middle])
                ax.errorbar(
                    position, middle, length, label=engine, fmt="o", capsize=2, ms=4, **style
                )
        ax.set_xticks(range(len(labels)), labels)
        ax.tick_params(axis="x", rotation=0 if numbers else 20)
        scale = "linear" if (cells[value] <= 0).any() else "log"
        ax.set(xlabel=x, ylabel=_label(value), yscale=scale)
    _finish(figure, path)


def convergence(
    path: StrPath, traces: pd.DataFrame, value: str, panels: Sequence[str], title: str = ""
) -> None:
    """Draw the course of every engine on every scan over its wall time.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format. An existing file is replaced.
    traces : DataFrame
        Columns ``run`` (one number for each), ``seconds``, that of ``value``, ``engine`` and those
        of ``panels``.
    value : str
        Column that is drawn, such as ``error``.
    panels : sequence of str
        Columns of labels.
    title : str
        Above the picture.
    """
    figure, parts = _figure(traces, panels, (3.6, 3.0), title)
    for ax, part in parts:
        for engine, style in _styles(traces):
            runs = part[part["engine"] == engine].groupby("run")
            for k, (_, run) in enumerate(runs):
                label = engine if k == 0 else None
                ax.plot(run["seconds"], run[value], label=label, alpha=0.8, **style)
        ax.set(xlabel="wall time (s)", ylabel=_label(value), yscale="log")
    _finish(figure, path)


def ring_correlations(
    path: StrPath, rings: pd.DataFrame, panels: Sequence[str], title: str = ""
) -> None:
    """Draw the Fourier ring correlation of half scans, and its half-bit threshold.

    Parameters
    ----------
    path : path
        The picture; its suffix is the format. An existing file is replaced.
    rings : DataFrame
        Columns ``run`` (one number for each), ``frequency`` (cycles per pixel), ``correlation``,
        ``half_bit``, ``engine`` and those of ``panels``.
    panels : sequence of str
        Columns of labels.
    title : str
        Above the picture.
    """
    figure, parts = _figure(rings, panels, (4.2, 3.2), title)
    for ax, part in parts:
        for engine, style in _styles(rings):
            for k, (_, run) in enumerate(part[part["engine"] == engine].groupby("run")):
                label = engine if k == 0 else None
                ax.plot(run["frequency"], run["correlation"], label=label, **style)
        _, first = next(iter(part.groupby("run")))
        ax.plot(first["frequency"], first["half_bit"], "--", color="0.4", label="half bit")
        ax.set(xlabel="spatial frequency (cycles / px)", ylabel="correlation", ylim=(-0.25, 1.05))
    _finish(figure, path)


def _label(value: str) -> str:
    """Label of an axis."""
    names = {"error": "relative complex error", "held_out": "held-out -log likelihood (nats)"}
    return METRICS[value].heading if value in METRICS else names.get(value, value)


def _figure(
    table: pd.DataFrame,
    panels: Sequence[str],
    size: tuple[float, float],
    title: str,
    sharey: bool = False,
) -> tuple[Figure, Iterator[tuple[Axes, pd.DataFrame]]]:
    """Make a figure whose panels have a size in inches, and an iterator over the panels and the
    rows of the table that belong to each."""
    from matplotlib.figure import Figure

    groups = list(table.groupby(list(panels), sort=False)) if panels else [((), table)]
    last = table[panels[-1]].nunique() if panels else 1
    n_columns = last if 1 < last <= MAX_PANELS_IN_ROW else min(len(groups), MAX_PANELS_IN_ROW)
    n_rows = -(-len(groups) // n_columns)
    figure = Figure(
        figsize=(max(size[0] * n_columns + 1, 6), size[1] * n_rows + 0.9), layout="constrained"
    )
    figure.suptitle(title)
    axes = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False, sharey=sharey))
    for ax in axes[len(groups) :]:
        ax.remove()

    def filled() -> Iterator[tuple[Axes, pd.DataFrame]]:
        for ax, (labels, part) in zip(axes, groups):
            named = (f"{name} {label}" for name, label in zip(panels, labels))
            ax.set_title(", ".join(named), fontsize="medium")
            yield ax, part

    return figure, filled()


def _styles(table: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """Engines in the order of the table with the styles of their lines; the first stands out."""
    for k, engine in enumerate(table["engine"].unique()):
        colour = "black" if k == 0 else f"C{(k - 1) % 10}"
        yield engine, {"color": colour, "linewidth": 2.0 if k == 0 else 1.2}


def _finish(figure: Figure, path: StrPath) -> None:
    """Add grids, plain numbers on logarithmic axes and one legend for all panels, and save."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    entries: dict[str, Artist] = {}
    for ax in figure.axes:
        ax.grid(alpha=0.3, which="both")
        if ax.get_yscale() == "log":
            low, high = ax.get_ylim()
            decades = LogLocator(subs=(1, 2, 5))
            ax.yaxis.set_major_locator(decades if high > 10 * low else MaxNLocator(6))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
        entries |= {label: line for line, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(list(entries.values()), list(entries), loc="outside right upper")
    save_figure(figure, path, overwrite=True)
