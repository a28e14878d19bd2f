"""A benchmark, which runs and records every cell of a suite once, and reports on the records."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

import pandas as pd

from ptychi_neural.comparison.benchmark.plan import Plan, make_plans
from ptychi_neural.comparison.benchmark.record import find_record, record_path
from ptychi_neural.comparison.benchmark.report import write_report
from ptychi_neural.comparison.benchmark.run_cell import run_cell
from ptychi_neural.comparison.benchmark.selection import selected_cells
from ptychi_neural.comparison.benchmark.suite_files import read_suite
from ptychi_neural.comparison.target import Target, load_with_target
from ptychi_neural.counted import counted
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.growing_folder import growing_folder
from ptychi_neural.runs.messages import told_once
from ptychi_neural.runs.one_writer import alone_at, place_of
from ptychi_neural.runs.progress import TIMES, Bar, say, tell
from ptychi_neural.scans import Scan


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
    """Number of cells that were run now. The other records were there."""

    failed: list[str] = field(default_factory=list)
    """Names of the cells that failed or diverged now. Those that failed have no record."""

    @property
    def report(self) -> str:
        """One line that says how much of the benchmark is there."""
        return (
            f"{self.folder}: {counted(self.n_run, 'cells')} run, {self.cells['recorded'].sum()} of "
            f"{len(self.cells)} recorded; see table.md"
        )


def benchmark(
    suite_file: str | Path,
    output_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    *,
    whole: bool = False,
    only: Sequence[str] = (),
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
    only : sequence of str
        Labels that are run in the place of those of the form, as ``"engine=lsqml,neural"`` or
        ``"seed=1"``; see ``selected_cells``.
    overwrite : bool
        Run cells again whose records have other settings, or cannot be read.
    figures_only : bool
        Run nothing, and take the records as they are.
    show_progress : bool
        Show a bar with the number of cells and the time left.

    Raises
    ------
    FileExistsError
        If the folder holds something else, or another benchmark writes to it.
    FileNotFoundError, ValueError
        If the suite is not valid, data or all records are missing, a record does not belong to the
        suite, or there is no cell with the labels of ``only``.
    KeyboardInterrupt
        At Ctrl-C; the engine that was running is lost, finished cells keep their records.
    """
    suite, path = read_suite(suite_file)
    folder = Path(output_folder or Path("results/benchmarks") / suite.name)
    records = folder / "records"
    if folder.exists() and any(folder.iterdir()) and not records.is_dir():
        raise FileExistsError(
            f"{folder} exists and holds no benchmark: --output FOLDER writes elsewhere."
        )
    if figures_only and not records.is_dir():
        raise FileNotFoundError(
            f"{records}: there are no records to draw; leave out --figures-only to make them."
        )
    with nullcontext() if figures_only else alone_at(folder, place_of(folder)):
        cells = selected_cells(suite, whole, only, records)
        plans = [] if figures_only else list(make_plans(suite, path, cells, data_folder))
        pending = [plan for plan in plans if not plan.is_recorded(records, overwrite)]
        if pending:
            growing_folder(records)
        bar = Bar(
            total=len(cells),
            initial=len(cells) - len(pending),
            disable=not show_progress or figures_only,
            bar_format="cell {n_fmt}/{total_fmt} |{bar:30}| " + TIMES,
        )
        tell("started", pid=os.getpid(), num_cells=len(cells), num_pending=len(pending))
        failed: list[str] = []
        n_run = 0
        with bar, told_once():
            try:
                for plan, load in _with_scans(pending):
                    key = plan.cell.key
                    bar.set_postfix_str(key)
                    try:
                        with interruptible("the batch") as interrupted:
                            record = run_cell(plan, *load())
                            record.write(record_path(plan.cell, records), overwrite)
                    except Exception as error:
                        failed.append(key)
                        say(f"{key} failed: {type(error).__name__}: {error}")
                    else:
                        n_run += 1
                        if record.stopped not in (None, "out of time"):
                            failed.append(key)
                        tell("cell", cell=key, stopped=record.stopped)
                    bar.update()
                    if interrupted():
                        raise KeyboardInterrupt
            except BaseException as error:
                n_done = sum(record_path(cell, records).exists() for cell in cells)
                error.add_note(f"{n_done} of {counted(len(cells), 'cells')} recorded in {records}.")
                raise
        found = {cell.key: kept for cell in cells if (kept := find_record(cell, records))}
        result = BenchmarkResult(folder, *write_report(suite, cells, found, folder), n_run, failed)
        tell("finished", cancelled=False, path=str(folder), failed=failed)
        return result


def _with_scans(
    plans: Sequence[Plan],
) -> Iterator[tuple[Plan, Callable[[], tuple[Scan, Target | None]]]]:
    """Each plan with what loads its scan, once for all engines, and the target."""
    for _, group in groupby(plans, key=lambda plan: plan.cell.coordinates):
        present = list(group)

        @cache
        def load(first: Plan = present[0]) -> tuple[Scan, Target | None]:
            scan, target = load_with_target(first.run)
            for frames in first.cell.frames:
                scan = frames.of(scan)
            return scan, target

        for plan in present:
            yield plan, load
