"""Tables and figures of a benchmark, made from its records."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.comparison.benchmark.figures import (
    convergence,
    metric_curves,
    ratio_map,
    ring_correlations,
)
from ptychi_neural.comparison.benchmark.record import Record, Score, score_columns
from ptychi_neural.comparison.benchmark.suite import Suite
from ptychi_neural.comparison.benchmark.tables import (
    medians,
    of_best_baseline,
    side_by_side,
    with_extremes,
    with_ratios,
)
from ptychi_neural.comparison.markdown import markdown
from ptychi_neural.scans.hdf5 import replacing

OF_BASELINE = {"seconds": "baseline's seconds", "position_rms_px": "baseline's position rms (px)"}
"""Columns that tables of errors tell of the best baseline, and their headings there."""

OF_THE_RECORD = ("engine_seconds", "peak_memory_mib", "n_parameters", "flops")
"""Columns that are the same whenever an engine is judged."""


def write_report(
    suite: Suite, cells: Sequence[Cell], records: Mapping[str, Record], folder: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write ``cells.csv``, ``table.csv``, ``table.md`` and figures.

    Parameters
    ----------
    suite : Suite
        The suite.
    cells : sequence of Cell
        The cells to report on. Those without a record are shown as missing.
    records : mapping
        Records by the cell's key.
    folder : Path
        Folder to write to; earlier reports are replaced.

    Returns
    -------
    DataFrame
        A row for each cell.
    DataFrame
        Medians over objects and seeds, a row for each point of the axes and engine, with the
        smallest and the largest error and ratio.
    """
    axes, where = list(suite.axes), list(cells[0].coordinates)
    rows = pd.DataFrame([_row(suite, cell, records.get(cell.key)) for cell in cells])
    rows = with_ratios(rows, where, suite.baselines)
    for name in OF_BASELINE:
        rows[f"baseline_{name}"] = of_best_baseline(rows, where, suite.baselines, name)
    values = [name for name in rows if name not in (*where, "engine", "recorded", "stopped")]
    table = medians(rows, [*axes, "engine"], values)
    table = with_extremes(table, rows, [*axes, "engine"], ["error", "ratio"])
    table = table.dropna(axis="columns", how="all")
    _write(folder / "cells.csv", rows.to_csv(index=False))
    _write(folder / "table.csv", table.to_csv(index=False))
    head_starts = pd.DataFrame(_head_starts(suite, cells, records))
    _write(folder / "table.md", _text(suite, table, head_starts, records))
    if records:
        _draw(suite, cells, records, rows, folder)
    return rows, table


def _row(suite: Suite, cell: Cell, record: Record | None) -> dict[str, Any]:
    row = {**cell.coordinates, "engine": cell.engine, "recorded": record is not None}
    names = ["half_scan_resolution_px", "error_equal_time", "held_out_equal_time"]
    row |= dict.fromkeys([*score_columns(), *names, *OF_THE_RECORD], np.nan)
    row["stopped"] = None if record is None else record.stopped
    if record is None:
        return row
    score = getattr(record, suite.judged(cell.engine))
    found = {name: getattr(score, name, None) for name in score_columns()}
    if score.half_scans is not None:
        found["half_scan_resolution_px"] = score.half_scans.resolution_px
    if record.equal_time is not None:
        found["error_equal_time"] = record.equal_time.error
        found["held_out_equal_time"] = record.equal_time.held_out
    found |= {name: getattr(record, name) for name in OF_THE_RECORD}
    return row | {name: value for name, value in found.items() if value is not None}


def _head_starts(
    suite: Suite, cells: Sequence[Cell], records: Mapping[str, Record]
) -> Iterator[dict[str, Any]]:
    """When an engine that starts after another is as good as it is after some epochs alone.

    There is a row for each such cell and each of the suite's ``head_start_epochs``.
    """
    for cell in cells:
        alone = suite.without_start(cell.engine)
        if alone is None or cell.key not in records:
            continue
        from_empty = records.get(dataclasses.replace(cell, engine=alone).key)
        if from_empty is None:
            continue
        trace = records[cell.key].trace
        ends = [
            [score for score in from_empty.trace if score.epoch <= n_epochs][-1]
            for n_epochs in suite.head_start_epochs
        ]
        for there in {end.epoch: end for end in ends}.values():
            as_good = [s for s in trace if _error(s) <= _error(there)]
            yield {
                **{name: cell.coordinates[name] for name in suite.axes},
                "engine": cell.engine,
                "epochs from empty": there.epoch,
                "as good in epochs": as_good[0].epoch if as_good else np.inf,
                "seconds from empty": there.seconds,
                "as good in seconds": as_good[0].seconds if as_good else np.inf,
                "recorded": True,
            }


def _error(score: Score) -> float:
    """The error, or the held-out likelihood where there is no ground truth."""
    value = score.held_out if score.error is None else score.error
    return np.nan if value is None else value


def _text(
    suite: Suite, table: pd.DataFrame, head_starts: pd.DataFrame, records: Mapping[str, Record]
) -> str:
    axes = list(suite.axes)
    machines = sorted({f"{r.device}, {r.threads} CPU threads" for r in records.values()})
    judged = [f"{name}: {suite.judged(name)}" for name in table["engine"].unique()]
    parts = [
        f"# {suite.name}",
        suite.description,
        f"Run on {'; '.join(machines) or 'nothing yet'}. Numbers are medians over objects and "
        "seeds, with the extremes of error and ratio; a dash stands for missing records, or for "
        f"what they do not tell. Engines are judged at: {', '.join(judged)}.",
    ]
    if "ratio" in table:
        baselines = [name for name in table["engine"].unique() if name in suite.baselines]
        parts[-1] += (
            f" The best baseline is the best of {', '.join(baselines)} in each cell; its seconds "
            "are those to the epoch at which it is judged."
        )
    if "error" in table:
        parts += ["## Error by engine", markdown(_errors(suite, table))]
    if not head_starts.empty:
        by = [*suite.axes, "engine", "epochs from empty"]
        values = [name for name in head_starts if name not in (*by, "recorded")]
        parts += ["## Head starts", markdown(medians(head_starts, by, values))]
    own = table.drop(columns=[f"baseline_{name}" for name in OF_BASELINE], errors="ignore")
    parts += [f"## All engines at every {' x '.join(axes)}", markdown(own)]
    stopped = Counter((r.engine, r.stopped) for r in records.values() if r.stopped is not None)
    if stopped:
        ends = [(engine, reason, n) for (engine, reason), n in sorted(stopped.items())]
        parts += [
            "## Stopped before the last epoch",
            markdown(pd.DataFrame(ends, columns=["engine", "by", "cells"])),
        ]
    return "\n\n".join(parts) + "\n"


def _errors(suite: Suite, table: pd.DataFrame) -> pd.DataFrame:
    """A table of bar, ratio to the best baseline, time and errors at each point of the axes."""
    axes = list(suite.axes)
    errors = side_by_side(table, axes, "error")
    asked = [_asked(suite, labels) for labels in errors[axes].itertuples(index=False)]
    engines, bars = zip(*asked)
    ours = table.set_index([*axes, "engine"]).reindex(
        [(*labels, engine) for labels, engine in zip(errors[axes].itertuples(index=False), engines)]
    )
    columns: dict[str, Any] = {}
    if "ratio" in table:
        columns = {"engine": engines, "error / best baseline": ours["ratio"].to_numpy()}
        if not np.isnan(bars).all():
            met = np.where(ours["ratio"] <= bars, "yes", "no")
            unknown = np.isnan(bars) | ours["ratio"].isna()
            columns |= {"bar": bars, "met": np.where(unknown, "-", met)}
    columns["seconds"] = ours["engine_seconds"].to_numpy()
    if "position_rms_px" in table:
        columns["position rms (px)"] = ours["position_rms_px"].to_numpy()
    for name, heading in OF_BASELINE.items():
        if f"baseline_{name}" in table:
            columns[heading] = ours[f"baseline_{name}"].to_numpy()
    for position, (name, values) in enumerate(columns.items(), len(axes)):
        errors.insert(position, name, values)
    recorded = table["cells"].str.split("/", expand=True).astype(int)
    sums = recorded.groupby([table[name] for name in axes], sort=False).sum().astype(str)
    errors["cells"] = (sums[0] + "/" + sums[1]).to_numpy()
    return errors


def _asked(suite: Suite, labels: Sequence[str]) -> tuple[str, float]:
    """The engine that is compared at a point of all axes, and its bar, or NaN without one."""
    points = [
        point
        for (points, label) in zip(suite.axes.values(), labels)
        for point in points
        if point.label == label
    ]
    engines = [point.engine for point in points if point.engine is not None]
    bars = [point.bar for point in points if point.bar is not None]
    here = set(zip(suite.axes, labels))
    bars += [bar.ratio for bar in suite.bars if set(bar.at.items()) <= here]
    return next(iter([*engines, *suite.engines])), min(bars, default=np.nan)


def _draw(
    suite: Suite,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    rows: pd.DataFrame,
    folder: Path,
) -> None:
    axes, where = list(suite.axes), list(cells[0].coordinates)
    runs = [(cell, records[cell.key]) for cell in cells if cell.key in records]
    traces = pd.DataFrame(
        {**cell.coordinates, "engine": cell.engine, "run": k, **score.model_dump()}
        for k, (cell, record) in enumerate(runs)
        for score in record.trace
    )
    value = "error" if traces["error"].notna().any() else "held_out"
    convergence(folder / "convergence.png", traces, value, axes, suite.name)
    if suite.figures.curves is not None:
        x = suite.figures.curves
        others = [name for name in axes if name != x]
        for metric in rows.columns[rows.notna().any()].intersection(suite.figures.metrics):
            name = "curves" if metric == "error" else f"curves_{metric}"
            metric_curves(folder / f"{name}.png", rows, metric, x, others, suite.name)
    if suite.figures.map is not None:
        x, y = suite.figures.map
        others = [name for name in axes if name not in (x, y)]
        ratios = _comparisons(suite, rows, where)
        ratio_map(folder / "map.png", ratios, x, y, ["error of", *others], suite.name)
    if suite.half_scans:
        rings = pd.DataFrame(_rings(suite, runs))
        ring_correlations(folder / "half_scans.png", rings, axes, suite.name)


def _comparisons(suite: Suite, rows: pd.DataFrame, where: list[str]) -> pd.DataFrame:
    """Medians of the ratios of the first engine's error to that of the best baseline, and of every
    other engine that is no baseline."""
    first, *others = rows["engine"].unique()
    measures = {"best baseline": suite.baselines}
    measures |= {name: [name] for name in others if name not in suite.baselines}
    tables = []
    for name, engines in measures.items():
        ratios = with_ratios(rows, where, engines)
        ratios = ratios[ratios["engine"] == first]
        ratios = ratios.assign(recorded=ratios["ratio"].notna())
        table = medians(ratios, list(suite.axes), ["ratio"])
        tables.append(table.assign(**{"error of": f"{first} / {name}"}))
    return pd.concat(tables)


def _rings(suite: Suite, runs: Sequence[tuple[Cell, Record]]) -> list[dict[str, Any]]:
    """A row for each ring of the half scans of each record."""
    return [
        {**cell.coordinates, "engine": cell.engine, "run": k, "frequency": frequency}
        | {"correlation": correlation, "half_bit": half_bit}
        for k, (cell, record) in enumerate(runs)
        if (curve := getattr(record, suite.judged(cell.engine)).half_scans) is not None
        for frequency, correlation, half_bit in zip(
            curve.frequencies, curve.correlation, curve.half_bit
        )
    ]


def _write(path: Path, text: str) -> None:
    with replacing(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
