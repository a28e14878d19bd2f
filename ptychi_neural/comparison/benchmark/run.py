"""A benchmark, which runs and records every cell of a suite once, and reports on the records."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd
import tqdm

from ptychi_neural.comparison.benchmark.plan import Plan, make_plans
from ptychi_neural.comparison.benchmark.record import find_record, record_path
from ptychi_neural.comparison.benchmark.report import write_report
from ptychi_neural.comparison.benchmark.run_cell import run_cell
from ptychi_neural.comparison.benchmark.suite_files import read_suite
from ptychi_neural.comparison.target import Target, load_with_target
from ptychi_neural.runs.messages import told_once
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
    plans = [] if figures_only else list(make_plans(suite, path, cells, data_folder))
    pending = [plan for plan in plans if not plan.is_recorded(records, overwrite)]
    bar = tqdm.tqdm(
        total=len(cells),
        initial=len(cells) - len(pending),
        disable=not show_progress or figures_only,
        bar_format="cell {n_fmt}/{total_fmt} |{bar:20}| {elapsed} gone, {remaining} left{postfix}",
    )
    with bar, told_once():
        try:
            for plan, scan, target in _with_scans(pending):
                bar.set_postfix_str(plan.cell.key)
                run_cell(plan, scan, target).write(record_path(plan.cell, records), overwrite)
                bar.update()
        except BaseException as error:
            n_done = sum(record_path(cell, records).exists() for cell in cells)
            error.add_note(f"{n_done} of {len(cells)} cells have their records in {records}.")
            raise
    found = {cell.key: record for cell in cells if (record := find_record(cell, records))}
    return BenchmarkResult(folder, *write_report(suite, cells, found, folder), len(pending))


def _with_scans(plans: Sequence[Plan]) -> Iterator[tuple[Plan, Scan, Target | None]]:
    """Each plan with its scan, which is loaded once for all engines, and the target."""
    for _, group in groupby(plans, key=lambda plan: plan.cell.coordinates):
        loaded: tuple[Scan, Target | None] | None = None
        for plan in group:
            if loaded is None:
                scan, target = load_with_target(plan.run)
                for frames in plan.cell.frames:
                    scan = frames.of(scan)
                loaded = scan, target
            yield plan, *loaded
