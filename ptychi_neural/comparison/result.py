"""What a comparison has come to, as tables and as a report."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ptychi_neural.comparison.engines import SHARED
from ptychi_neural.comparison.markdown import markdown
from ptychi_neural.comparison.snapshots import EngineRun, Snapshot
from ptychi_neural.comparison.target import Target
from ptychi_neural.evaluation.metric_table import METRICS, Metric
from ptychi_neural.scans import Scan

MOMENTS = ("best", "equal_time", "end")
"""Epochs at which every engine is shown: that of the best held-out likelihood, the last one within
the equal wall time, and the last one."""

OF_SNAPSHOTS = {
    "epoch": ("epoch", "d"),
    "seconds": ("seconds", ".1f"),
    "held_out_nll": ("held-out NLL", ".4f"),
    "error": ("error", ".4f"),
}
"""What every snapshot holds, with its heading and format in the report."""


@dataclass
class Comparison:
    """What engines have come to on one scan."""

    folder: Path
    """The results folder."""

    runs: list[EngineRun]
    """Runs of the engines, in order."""

    refused: dict[str, str]
    """Engines that could not be run with this scan, and why."""

    seconds: float
    """The wall time at which engines are compared."""

    scan: Scan
    """The scan, with the counts at held-out pixels."""

    held_out: NDArray[np.bool_]
    """(h, w) True at the pixels that no engine saw."""

    target: Target | None
    """What objects are compared with, if there is a ground truth or reference."""

    refined: bool
    """Whether probe or positions were refined."""

    broken: list[str] = field(default_factory=list)
    """Engines of ``refused`` that did not refuse the scan but failed."""

    unsaved: list[str] = field(default_factory=list)
    """What could not be written."""

    @property
    def failed(self) -> list[str]:
        """Engines that failed or diverged."""
        early = (None, "interrupted", "out of time")
        return [*self.broken, *(run.engine for run in self.runs if run.stopped not in early)]

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(run.stopped == "interrupted" for run in self.runs)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each engine.

        The columns are ``OF_SNAPSHOTS`` and the metrics, each with the prefixes ``best_``,
        ``equal_time_`` and ``end_``, and ``stopped`` and ``settings``.
        """
        rows = []
        for run in self.runs:
            row: dict[str, Any] = {"engine": run.engine}
            for moment, snapshot in zip(MOMENTS, (run.best, run.at(self.seconds), run.last)):
                row |= {f"{moment}_{k}": value for k, value in self._quantities(snapshot).items()}
            rows.append(row | {"stopped": run.stopped or "", "settings": _settings(run)})
        return pd.DataFrame(rows)

    @property
    def trace(self) -> pd.DataFrame:
        """One row for each snapshot, with the columns ``engine`` and ``OF_SNAPSHOTS``."""
        rows = [
            (run.engine, snapshot.epoch, snapshot.seconds, snapshot.held_out, snapshot.error)
            for run in self.runs
            for snapshot in run.snapshots
        ]
        return pd.DataFrame(rows, columns=["engine", *OF_SNAPSHOTS]).astype({"error": float})

    @property
    def report(self) -> str:
        """The tables, in Markdown, and what a reader has to know about them."""
        n, h, w = self.scan.patterns.shape
        counts = self.scan.patterns.sum(dtype=np.float64) / n
        lines = [
            f"# {self.scan.name or 'Scan'}: engines compared",
            "",
            f"{n} frames of {h} x {w}, {counts:.3g} counts per frame. Same data, same start, same "
            "device.",
            "",
            "- held-out NLL: mean negative log likelihood (Poisson) of the counts at "
            f"{self.held_out.sum()} random detector pixels, the same in all frames, which no "
            "engine sees.",
            "- epoch: epochs done; each projection of the neural engine counts as one.",
            "- seconds: wall time of the engine alone.",
        ]
        if self.target is not None:
            free = self.target.is_free(self.refined)
            lines.append(
                f"- error: relative complex error against the {self.target_name} inside the "
                "scanned area, free of one complex scale"
                + (", a phase ramp and a translation." if free else ".")
            )
        if self.refined:
            lines.append(
                "- Probe or positions are refined: held-out NLL may turn long before the error "
                "does. Look at the curves and at the end, too."
            )
        headings = (
            "Each at its best epoch by held-out NLL",
            f"At equal wall time: {self.seconds:.3g} s",
            "At the end",
        )
        for moment, heading in zip(MOMENTS, headings):
            lines += ["", f"## {heading}", "", self._table_at(moment)]
        lines += ["", "## Settings that are not the engine's default", ""]
        lines += [f"- {run.engine}: `{_settings(run)}`" for run in self.runs]
        remarks = [f"- {run.engine}: {run.remark}" for run in self.runs if run.remark]
        remarks += [f"- {run.engine}: stopped: {run.stopped}" for run in self.runs if run.stopped]
        remarks += [f"- {name}: could not be run: {why}" for name, why in self.refused.items()]
        if remarks:
            lines += ["", "## Remarks", "", *remarks]
        return "\n".join(lines) + "\n"

    @property
    def target_name(self) -> str:
        """What engines are compared with: ground truth, reference, or the first of them."""
        return self.runs[0].engine if self.target is None else self.target.name

    def _quantities(self, snapshot: Snapshot) -> dict[str, Any]:
        """The values of a snapshot, by the names of their columns."""
        values: dict[str, Any] = {
            "epoch": snapshot.epoch,
            "seconds": round(snapshot.seconds, 3),
            "held_out_nll": snapshot.held_out,
        }
        if self.target is None:
            return values
        values["error"] = snapshot.error
        compared = self.target.aligned(snapshot.object, self.scan, self.refined)
        for metric in _reported_metrics():
            value = metric.measure(*compared)
            values[metric.column] = np.nan if value is None else value
        return values

    def _table_at(self, moment: str) -> str:
        """The report's table of one moment."""
        metrics = {m.column: (m.heading, m.format or "") for m in _reported_metrics()}
        columns = {f"{moment}_{k}": shown for k, shown in (OF_SNAPSHOTS | metrics).items()}
        headings = {k: heading for k, (heading, _) in columns.items() if k in self.table}
        table = self.table[["engine", *headings]].rename(columns=headings)
        return markdown(table, dict(columns.values()))


def _reported_metrics() -> list[Metric]:
    return [m for m in METRICS.values() if m.in_comparisons and m.format is not None]


def _settings(run: EngineRun) -> str:
    """What is particular to an engine, in short: ``batch_size=50 object.step_size=0.01``."""
    common = {f"{group}.{name}" for group, names in SHARED.items() for name in names or ()}
    return " ".join(
        f"{name.removeprefix('reconstructor_options.').replace('_options.', '.')}={value}"
        for name, value in run.settings.items()
        if name not in common
    )
