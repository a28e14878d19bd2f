"""A benchmark: every cell of a suite run once and recorded, tables and figures from the records."""

import dataclasses
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tqdm
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural import evaluation
from ptychi_neural.comparison.benchmark.record import (
    FullScore,
    Record,
    RingCurve,
    Score,
    peak_memory_mib,
    read_record,
    reset_peak_memory,
)
from ptychi_neural.comparison.benchmark.report import write_report
from ptychi_neural.comparison.benchmark.suite import Cell, Suite, read_suite, run_file
from ptychi_neural.comparison.engines import (
    EngineRun,
    Snapshot,
    aligned,
    engine_options,
    hold_out,
    run_engine,
)
from ptychi_neural.evaluation.comparison_figures import HALF
from ptychi_neural.runs.configuration import flattened, merged
from ptychi_neural.runs.provenance import device_name, versions
from ptychi_neural.runs.reconstruct import is_refined, load
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan, select_frames
from ptychi_neural.simulation import SimulationOptions, simulate

BAND_EDGES = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
"""Cycles per pixel between which errors are told apart."""

Reference = Scan | NDArray[np.complexfloating]


@dataclass
class BenchmarkResult:
    """What a benchmark has come to."""

    folder: Path
    """The results folder."""

    cells: pd.DataFrame
    """A row for each cell, see ``cells.csv``."""

    table: pd.DataFrame
    """Medians over objects and seeds, see ``table.csv``."""

    n_run: int
    """Cells that were run now; the other records were there."""


def benchmark(
    suite_file: str | Path,
    output_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    *,
    whole: bool = False,
    overwrite: bool = False,
    figures_only: bool = False,
    show_progress: bool = True,
) -> BenchmarkResult:
    """Run the cells of a suite that have no record yet, then make tables and figures.

    The results folder holds ``records/`` (a JSON file for each cell), ``cells.csv`` (a row for
    each cell), ``table.csv`` and ``table.md`` (medians over objects and seeds) and figures. An
    interrupted benchmark goes on where it was stopped.

    Parameters
    ----------
    suite_file : str or Path
        The suite's file, or the name of one in the package.
    output_folder : str or Path, optional
        None: ``results/benchmarks/<name of the suite>``.
    data_folder : str or Path, optional
        Folder of measured scans, see ``read_run_file``.
    whole : bool
        Run the whole suite instead of its reduced form.
    overwrite : bool
        Run cells again whose records have other settings, or cannot be read.
    figures_only : bool
        Run nothing, and take the records as they are.
    show_progress : bool
        Show a bar with the number of cells and the time left.

    Raises
    ------
    FileExistsError
        If the folder holds something else.
    FileNotFoundError, ValueError
        If the suite is not valid, data are missing, or a record does not belong to the suite.
    KeyboardInterrupt
        At Ctrl-C; the cell that was running is lost, finished ones keep their records.
    """
    suite, path = read_suite(suite_file)
    folder = Path(output_folder or Path("results/benchmarks") / suite.name)
    records = folder / "records"
    if folder.exists() and any(folder.iterdir()) and not records.is_dir():
        raise FileExistsError(
            f"{folder} exists and holds no benchmark: --output FOLDER writes elsewhere."
        )
    cells = suite.cells(whole)
    plans = [] if figures_only else list(_plans(suite, path, cells, data_folder))
    pending = [plan for plan in plans if not plan.is_recorded(records, overwrite)]
    bar = tqdm.tqdm(
        total=len(cells),
        initial=len(cells) - len(pending),
        disable=not show_progress or figures_only,
        bar_format="cell {n_fmt}/{total_fmt} |{bar:20}| {elapsed} gone, {remaining} left{postfix}",
    )
    with bar, _said_once():
        try:
            for plan, scan, reference in _with_scans(pending):
                bar.set_postfix_str(plan.cell.key)
                _run(plan, scan, reference).write(_path(plan.cell, records), overwrite)
                bar.update()
        except BaseException as error:
            n_done = sum(_path(cell, records).exists() for cell in cells)
            error.add_note(f"{n_done} of {len(cells)} cells have their records in {records}.")
            raise
    found = {cell.key: record for cell in cells if (record := _recorded(cell, records))}
    return BenchmarkResult(folder, *write_report(suite, cells, found, folder), len(pending))


@dataclass
class _Plan:
    """A cell, ready to be run."""

    suite: Suite
    cell: Cell
    run: RunFile
    engine: str
    options: PtychographyTaskOptions
    before: "_Plan | None" = None

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, by dotted name."""
        contents = RunFile(
            self.engine, self.options, self.run.data, self.run.simulation
        ).filled_in()
        del contents["output"]
        contents.get("data", {}).pop("folder", None)  # the same data may lie elsewhere
        contents |= {
            "frames": [frames.model_dump(exclude_defaults=True) for frames in self.cell.frames],
            "held_out_fraction": self.suite.held_out(self.cell.engine),
            "half_scans": self.suite.half_scans,
            "max_seconds": self.cell.max_seconds,
            "equal_seconds": self.suite.equal_seconds,
            "n_snapshots": self.suite.n_snapshots,
        }
        generator = getattr(self.options.reconstructor_options, "generator", None)
        if generator is not None and generator.checkpoint is not None:  # may be trained anew
            saved = Path(generator.checkpoint).read_bytes()
            contents["generator_sha256"] = hashlib.sha256(saved).hexdigest()
        if self.before is not None:
            contents["after"] = self.before.settings
        return flattened(json.loads(json.dumps(contents)))

    @property
    def stated(self) -> dict[str, Any]:
        """Settings that are not a default."""
        options = type(self.options)()
        defaults = RunFile("", options, simulation=SimulationOptions()).filled_in()
        known = flattened(json.loads(json.dumps(defaults)))
        return {k: v for k, v in self.settings.items() if k not in known or known[k] != v}

    @property
    def settings_hash(self) -> str:
        text = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def is_recorded(self, records: Path, overwrite: bool) -> bool:
        """Whether the cell has been run.

        Raises
        ------
        ValueError
            If it has a record of another cell or other settings, or one that cannot be read,
            unless ``overwrite`` is set.
        """
        try:
            record = _recorded(self.cell, records)
            if record is None:
                return False
            theirs, ours = record.settings, self.stated
            if (theirs, record.settings_hash) != (ours, self.settings_hash):
                names = sorted(n for n in theirs | ours if theirs.get(n) != ours.get(n))
                raise ValueError(
                    f"{_path(self.cell, records)} was made with other settings "
                    f"({', '.join(names) or 'a default has changed'}): --overwrite runs such cells "
                    "again, --output FOLDER writes elsewhere."
                )
        except ValueError:
            if not overwrite:
                raise
            return False
        return True


def _plans(
    suite: Suite, path: Path, cells: Sequence[Cell], data_folder: str | Path | None
) -> Iterator[_Plan]:
    for _, group in groupby(cells, key=lambda cell: cell.coordinates):
        run = None
        for cell in group:
            run = run or run_file(cell, path, data_folder)
            plan = _plan(suite, cell, run)
            if (before := suite.engines[cell.engine].after) is not None:
                plan.before = _plan(suite, dataclasses.replace(cell, engine=before), run)
            yield plan


def _plan(suite: Suite, cell: Cell, run: RunFile) -> _Plan:
    variant = suite.engines[cell.engine]
    engine = variant.engine or cell.engine
    options = engine_options(engine, run, merged({}, variant.changes))
    return _Plan(suite, cell, run, engine, options)


def _with_scans(plans: Sequence[_Plan]) -> Iterator[tuple[_Plan, Scan, Reference | None]]:
    """Each plan with its scan, and the ground truth or the reference."""
    for _, group in groupby(plans, key=lambda plan: plan.cell.coordinates):
        loaded: tuple[Scan, Reference | None] | None = None
        for plan in group:
            if loaded is None:
                loaded = _load_scan(plan)
            yield plan, *loaded


def _load_scan(plan: _Plan) -> tuple[Scan, Reference | None]:
    reference: Reference | None
    if plan.run.simulation is not None:
        simulated = simulate(plan.run.simulation)
        scan, reference = simulated.scan, simulated.truth
    else:
        scan, reference = load(plan.run)
    for frames in plan.cell.frames:
        scan = frames.of(scan)
    return scan, reference


def _run(plan: _Plan, scan: Scan, reference: Reference | None) -> Record:
    reset_peak_memory()
    started, clock = datetime.now(UTC), time.perf_counter()
    suite, cell = plan.suite, plan.cell
    sees_less = suite.held_out(cell.engine) > 0
    run = _run_engine(plan, scan, reference)
    halves = [
        _run_engine(plan, select_frames(scan, slice(first, None, 2)), None)
        for first in (0, 1)
        if suite.half_scans
    ]
    score = partial(_full_score, plan, scan, reference)
    limit, begun = suite.equal_seconds, run.snapshots[0].seconds
    return Record(
        suite=suite.name,
        cell=cell.coordinates,
        engine=cell.engine,
        seed=cell.seed,
        settings=plan.stated,
        settings_hash=plan.settings_hash,
        versions=versions(),
        device=device_name(torch.get_default_device()),
        threads=torch.get_num_threads(),
        started=started.isoformat(timespec="seconds"),
        engine_seconds=run.last.seconds,
        peak_memory_mib=peak_memory_mib(),
        stopped=run.stopped,
        band_edges=list(BAND_EDGES),
        trace=[Score(**_figures_of(plan, snapshot)) for snapshot in run.snapshots],
        end=score(run.last, [half.last for half in halves]),
        best_held_out=score(run.best, [half.best for half in halves]) if sees_less else None,
        best_truth=None if run.best_by_error is None else score(run.best_by_error),
        equal_time=None if limit is None or limit < begun else score(run.at(limit)),
        wall_time_s=time.perf_counter() - clock,
    )


def _run_engine(plan: _Plan, scan: Scan, reference: Reference | None) -> EngineRun:
    suite, cell, seconds = plan.suite, plan.cell, 0.0
    if plan.before is not None:
        before = _run_engine(plan.before, scan, None)
        if before.stopped not in (None, "out of time"):
            return before
        reached, seconds = before.last, before.last.seconds
        scan = dataclasses.replace(
            scan,
            object=reached.object,
            probe=reached.probe,
            positions_px=reached.positions_px.astype(np.float64),
        )
    fraction = suite.held_out(cell.engine)
    held_out = np.zeros(scan.patterns.shape[-2:], dtype=bool)
    if fraction > 0:
        held_out = hold_out(scan, fraction, cell.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # no pixels held out
        run = run_engine(
            plan.engine,
            plan.options,
            scan,
            held_out,
            reference if isinstance(reference, Scan) else None,
            keep=plan.run.chosen,
            max_seconds=cell.max_seconds,
            n_snapshots=suite.n_snapshots,
            show_progress=False,
        )
    if run.stopped == "interrupted":
        raise KeyboardInterrupt(f"{cell.key} was interrupted.")
    for snapshot in run.snapshots:
        snapshot.seconds += seconds
    return run


def _figures_of(plan: _Plan, snapshot: Snapshot) -> dict[str, Any]:
    """What a snapshot knows of itself."""
    held_out = snapshot.held_out if plan.suite.held_out(plan.cell.engine) > 0 else None
    return {
        "epoch": snapshot.epoch,
        "seconds": snapshot.seconds,
        "held_out": held_out,
        "error": snapshot.error,
    }


def _full_score(
    plan: _Plan,
    scan: Scan,
    reference: Reference | None,
    snapshot: Snapshot,
    halves: Sequence[Snapshot] = (),
) -> FullScore:
    score = FullScore(**_figures_of(plan, snapshot))
    if reference is not None:
        ours, theirs, area = aligned(snapshot.object, scan, reference, is_refined(plan.options))
        if isinstance(reference, Scan):
            ssim = evaluation.ssim_amplitude_phase(ours, theirs, area)
            score.ssim_amplitude, score.ssim_phase = ssim
            rings = evaluation.fourier_ring_correlation(ours, theirs, area)
            score.frc_resolution_px = evaluation.resolution_px(rings, HALF)
            bands = evaluation.error_by_band(ours, theirs, BAND_EDGES, area)
            score.error_by_band = bands.tolist()
        else:
            score.phase_correlation = evaluation.phase_correlation(ours, theirs, area)
    if halves:
        score.half_scans = _half_scans(scan, *halves)
    return score


def _half_scans(scan: Scan, first: Snapshot, second: Snapshot) -> RingCurve:
    a, b = (snapshot.object.prod(axis=0) for snapshot in (first, second))
    area = evaluation.scanned_area(scan.positions_px, a.shape)
    b = evaluation.align(b, a, ramp=True, shift=True, mask=area).aligned
    rings = evaluation.fourier_ring_correlation(a, b, area)
    half_bit = evaluation.half_bit_threshold(rings.n_pixels)
    return RingCurve(
        frequencies=rings.frequencies.tolist(),
        correlation=rings.correlation.tolist(),
        half_bit=half_bit.tolist(),
        resolution_px=evaluation.resolution_px(rings, half_bit),
    )


@contextmanager
def _said_once() -> Iterator[None]:
    """What pty-chi says of a task, such as that there is no GPU, is the same for all of them."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        n_said = len(said)
        said.add(record.getMessage())
        return len(said) > n_said

    logger = logging.getLogger("ptychi.api.task")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def _path(cell: Cell, records: Path) -> Path:
    return records / f"{cell.key}.json"


def _recorded(cell: Cell, records: Path) -> Record | None:
    """The record of a cell, if there is one.

    Raises
    ------
    ValueError
        If it cannot be read, or is that of another cell.
    """
    path = _path(cell, records)
    if not path.exists():
        return None
    record = read_record(path)
    if (record.cell, record.engine) != (cell.coordinates, cell.engine):
        raise ValueError(
            f"{path} is the record of another cell, {record.cell}, {record.engine}: --overwrite "
            "runs this one."
        )
    return record
