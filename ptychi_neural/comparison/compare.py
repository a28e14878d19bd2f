"""Engines side by side on one scan: table, curves and pictures in one folder."""

import copy
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
import tqdm
from numpy.typing import NDArray

from ptychi_neural import evaluation
from ptychi_neural.comparison.engines import (
    SHARED,
    EngineRun,
    Snapshot,
    aligned,
    check_engine_names,
    engine_options,
    hold_out,
    run_engine,
)
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.reconstruct import check_output_folder, is_refined, load, new_folder
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan

Target = Scan | NDArray[np.complexfloating] | None

MOMENTS = ("best", "equal_time", "end")
QUANTITIES = {
    "epoch": ("epoch", "d"),
    "seconds": ("seconds", ".1f"),
    "held_out_nll": ("held-out NLL", ".4f"),
    "error": ("error", ".4f"),
    "phase_ssim": ("phase SSIM", ".3f"),
}
"""What is told of each moment, and its heading and format in the report."""


@dataclass
class Comparison:
    """What engines have come to on one scan."""

    folder: Path
    """The results folder."""

    runs: list[EngineRun]
    """Engines that ran, in order."""

    refused: dict[str, str]
    """Engines that could not be run with this scan, and why."""

    seconds: float
    """The wall time at which engines are compared."""

    scan: Scan
    """The scan, with the counts at held-out pixels."""

    held_out: NDArray[np.bool_]
    """(h, w) True at the pixels that no engine saw."""

    target: Target
    """Ground truth, (n_slices, H, W) reference, or None."""

    refined: bool
    """Whether probe or positions were refined: ramp and translation are free then."""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended it."""
        return any(run.stopped == "interrupted" for run in self.runs)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row an engine: ``QUANTITIES`` with the prefixes ``best_``, ``equal_time_`` and
        ``end_``, ``stopped`` and ``settings``."""
        rows = []
        for run in self.runs:
            row: dict[str, Any] = {"engine": run.engine}
            for moment, snapshot in zip(MOMENTS, (run.best, run.at(self.seconds), run.last)):
                row |= {f"{moment}_{k}": value for k, value in self._quantities(snapshot).items()}
            rows.append(row | {"stopped": run.stopped or "", "settings": _settings(run)})
        return pd.DataFrame(rows)

    @property
    def trace(self) -> pd.DataFrame:
        """One row a snapshot: ``engine``, ``epoch``, ``seconds``, ``held_out_nll``, ``error``."""
        rows = [
            (run.engine, snapshot.epoch, snapshot.seconds, snapshot.held_out, snapshot.error)
            for run in self.runs
            for snapshot in run.snapshots
        ]
        columns = ["engine", "epoch", "seconds", "held_out_nll", "error"]
        return pd.DataFrame(rows, columns=columns).astype({"error": float})

    @property
    def report(self) -> str:
        """The tables and what is to be known about them, in Markdown."""
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
            "- seconds: wall time of the engine alone.",
        ]
        if self.target is not None:
            free = self.refined or not isinstance(self.target, Scan)
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
            lines += ["", f"## {heading}", "", *_markdown(self.table, moment)]
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
        """What engines are compared with: truth, reference, or the first of them."""
        if self.target is None:
            return self.runs[0].engine
        return "ground truth" if isinstance(self.target, Scan) else "reference"

    def _quantities(self, snapshot: Snapshot) -> dict[str, float | None]:
        values: dict[str, float | None] = {
            "epoch": snapshot.epoch,
            "seconds": round(snapshot.seconds, 3),
            "held_out_nll": snapshot.held_out,
        }
        if self.target is None:
            return values
        compared = aligned(snapshot.object, self.scan, self.target, self.refined)
        try:
            similarity = evaluation.ssim_amplitude_phase(*compared).phase
        except ValueError:  # a phase without contrast, or an area smaller than a window
            similarity = np.nan
        return values | {"error": snapshot.error, "phase_ssim": similarity}


def compare(
    run: RunFile,
    engines: Sequence[str],
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    seconds: float | None = None,
    held_out: float = 0.03,
    changes: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> Comparison:
    """Run engines on the same data, from the same start, on the same device; write a folder.

    Each engine is shown at its own best epoch by the likelihood of held-out detector pixels, at
    equal wall time, and at its end. The folder holds ``comparison.md``, ``comparison.csv``,
    ``trace.csv`` (all snapshots), ``error_over_time.png``, ``comparison.png`` and ``objects.h5``
    (each at its best epoch), ``run.toml`` and ``provenance.json``. It appears when it is complete.

    Parameters
    ----------
    run : RunFile
        Scan, options of the neural engine, and what all engines share. Without a ``random_seed``
        one is drawn, and recorded.
    engines : sequence of str
        Names from ``ENGINES``, in the order in which they run. Where there is neither ground truth
        nor reference, pictures are compared with the first.
    output_folder : str or Path, optional
        None: ``<run.output_folder>-comparison``.
    overwrite : bool
        Replace an earlier result.
    seconds : float, optional
        Wall time at which engines are compared. None: that of the whole run of the first.
    held_out : float
        Share of the detector's pixels that are held out.
    changes : dict, optional
        Engine names and option groups that take the place of the engine's.
    show_progress : bool
        Tell which engine runs, and show a bar with epoch, loss and time left.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If the scan cannot be read, or engines or options are not known.
    """
    run, changes = copy.deepcopy(run), changes or {}
    folder = Path(output_folder or f"{run.output_folder}-comparison")
    check_output_folder(folder, overwrite)
    check_engine_names(engines)
    if idle := [name for name in changes if name not in engines]:
        raise ValueError(f"--set {idle[0]}: that engine is not compared; add it to --engines.")
    if seconds is not None and seconds <= 0:
        raise ValueError(f"seconds = {seconds} must be above 0.")
    shared = run.options.reconstructor_options
    if shared.random_seed is None:
        shared.random_seed = int(np.random.default_rng().integers(2**31))
    options = {name: engine_options(name, run, changes.get(name)) for name in engines}

    scan, target = _load(run)
    pixels = hold_out(scan, held_out, shared.random_seed)
    clock = time.perf_counter()
    runs: list[EngineRun] = []
    refused: dict[str, str] = {}
    for number, (name, chosen) in enumerate(options.items(), start=1):
        if show_progress:
            tqdm.tqdm.write(f"{name} ({number} of {len(options)})", file=sys.stderr)
        try:
            runs.append(
                run_engine(
                    name, chosen, scan, pixels, target, keep=run.chosen, show_progress=show_progress
                )
            )
        except (NotImplementedError, ValueError) as error:
            refused[name] = str(error)
            continue
        if runs[-1].stopped == "interrupted":
            break
    if not runs:
        raise ValueError("\n".join(f"{name}: {reason}" for name, reason in refused.items()))

    comparison = Comparison(
        folder=folder,
        runs=runs,
        refused=refused,
        seconds=runs[0].last.seconds if seconds is None else seconds,
        scan=scan,
        held_out=pixels,
        target=target,
        refined=any(is_refined(chosen) for chosen in options.values()),
    )
    device = torch.get_default_device()
    content = provenance(
        time.perf_counter() - clock,
        device,
        seed=run.options.reconstructor_options.random_seed,
        engines={run.engine: run.settings for run in runs},
        stopped={run.engine: run.stopped for run in runs if run.stopped} | refused,
    )
    with new_folder(folder, overwrite) as temporary:
        run.write(temporary / "run.toml")
        write_json(temporary / "provenance.json", content)
        _save(comparison, temporary)
        _draw(comparison, temporary)
    return comparison


def _load(run: RunFile) -> tuple[Scan, Target]:
    """The scan and what to compare with: a truth on the scan's grid, a reference, or nothing."""
    scan, other = load(run)
    if other is not None and run.simulation is not None:
        return scan, dataclasses.replace(scan, object=other)
    return scan, other


def _settings(run: EngineRun) -> str:
    """What is particular to an engine, in short: ``batch_size=50 object.step_size=0.01``."""
    common = {f"{group}.{name}" for group, names in SHARED.items() for name in names or ()}
    return " ".join(
        f"{name.removeprefix('reconstructor_options.').replace('_options.', '.')}={value}"
        for name, value in run.settings.items()
        if name not in common
    )


def _markdown(table: pd.DataFrame, moment: str) -> Iterator[str]:
    """Lines of one of the three tables, aligned so that they read well as plain text too."""
    columns = [["engine", "-", *table.engine]]
    for name, (heading, form) in QUANTITIES.items():
        if f"{moment}_{name}" in table:
            cells = [format(value, form) for value in table[f"{moment}_{name}"]]
            columns.append([heading, "-:", *cells])
    widths = [max(map(len, column)) for column in columns]
    for first, *others in zip(*columns):
        fill = "-" if first == "-" else " "
        row = [first.ljust(widths[0], fill)]
        row += [cell.rjust(width, fill) for cell, width in zip(others, widths[1:])]
        yield f"| {' | '.join(row)} |"


def _save(comparison: Comparison, folder: Path) -> None:
    pictures = "".join(f"\n![]({name}.png)\n" for name in ("error_over_time", "comparison"))
    (folder / "comparison.md").write_text(comparison.report + pictures, encoding="utf-8")
    comparison.table.to_csv(folder / "comparison.csv", index=False)
    comparison.trace.to_csv(folder / "trace.csv", index=False)
    with h5py.File(folder / "objects.h5", "w") as file:
        file["held_out_pixels"] = comparison.held_out
        target = comparison.target
        if target is not None:
            name = comparison.target_name.replace(" ", "_")
            file[name] = target.object if isinstance(target, Scan) else target
        for run in comparison.runs:
            group = file.create_group(run.engine)
            for name in ("object", "probe", "positions_px"):
                group[name] = getattr(run.best, name)
            group.attrs.update(epoch=run.best.epoch, seconds=run.best.seconds)


def _draw(comparison: Comparison, folder: Path) -> None:
    scan, target, refined = comparison.scan, comparison.target, comparison.refined
    evaluation.error_over_time_figure(
        folder / "error_over_time.png",
        comparison.trace,
        comparison.seconds,
        title=f"{scan.name}: a dot marks the best held-out likelihood",
    )
    best = {run.engine: run.best for run in comparison.runs}
    if target is None:
        first = best.pop(comparison.runs[0].engine)
        target, refined = dataclasses.replace(scan, object=first.object), True
    compared = {
        engine: aligned(snapshot.object, scan, target, refined) for engine, snapshot in best.items()
    }
    _, reference, area = aligned(scan.object, scan, target, refined=False)
    evaluation.comparison_figure(
        folder / "comparison.png",
        {engine: object_ for engine, (object_, _, _) in compared.items()},
        reference,
        comparison.target_name,
        area,
        captions={
            engine: f"epoch {snapshot.epoch}, {snapshot.seconds:.1f} s"
            + ("" if snapshot.error is None else f"\nerror {snapshot.error:.4f}")
            for engine, snapshot in best.items()
        },
        title=f"{scan.name}: each engine at its best held-out likelihood",
    )
