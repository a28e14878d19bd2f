"""Cells that are ready to be run: with their run file and the options of their engine."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.comparison.benchmark.record import find_record, record_path
from ptychi_neural.comparison.benchmark.suite import Suite
from ptychi_neural.comparison.benchmark.suite_files import run_file
from ptychi_neural.comparison.engines import engine_options
from ptychi_neural.runs.configuration import flattened, merged
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.simulation import SimulationOptions


@dataclass
class Plan:
    """A cell that is ready to be run."""

    suite: Suite
    """The suite of the cell."""

    cell: Cell
    """The cell."""

    run: RunFile
    """Run file of the cell's scan."""

    engine: str
    """Name of the engine in the catalogue."""

    options: PtychographyTaskOptions
    """Options of the engine."""

    before: "Plan | None" = None
    """Plan of the engine from whose result this one starts."""

    @property
    def held_out_fraction(self) -> float:
        """Share of the detector's pixels that the engine does not see."""
        return self.suite.held_out(self.cell.engine)

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
            "held_out_fraction": self.held_out_fraction,
            "half_scans": self.suite.half_scans,
            "max_seconds": self.cell.max_seconds,
            "equal_seconds": self.suite.equal_seconds,
            "n_snapshots": self.suite.n_snapshots,
        }
        if self.suite.intervals:
            contents["intervals"] = True
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
        """Hash of all settings."""
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
            record = find_record(self.cell, records)
            if record is None:
                return False
            theirs, ours = record.settings, self.stated
            if (theirs, record.settings_hash) != (ours, self.settings_hash):
                names = sorted(n for n in theirs | ours if theirs.get(n) != ours.get(n))
                raise ValueError(
                    f"{record_path(self.cell, records)} was made with other settings "
                    f"({', '.join(names) or 'a default has changed'}): --overwrite runs such cells "
                    "again, --output FOLDER writes elsewhere."
                )
        except ValueError:
            if not overwrite:
                raise
            return False
        return True


def make_plans(
    suite: Suite, path: Path, cells: Sequence[Cell], data_folder: str | Path | None
) -> Iterator[Plan]:
    """Make the plan of each cell.

    Parameters
    ----------
    suite : Suite
        The suite.
    path : Path
        Its file.
    cells : sequence of Cell
        Cells of the suite; those of one scan follow each other.
    data_folder : str or Path, optional
        Folder of measured scans.

    Raises
    ------
    RunFileError
        If contents or options of a cell are not valid.
    """
    for _, group in groupby(cells, key=lambda cell: cell.coordinates):
        run = None
        for cell in group:
            run = run or run_file(cell, path, data_folder)
            plan = _plan(suite, cell, run)
            if (before := suite.engines[cell.engine].after) is not None:
                plan.before = _plan(suite, dataclasses.replace(cell, engine=before), run)
            yield plan


def _plan(suite: Suite, cell: Cell, run: RunFile) -> Plan:
    variant = suite.engines[cell.engine]
    engine = variant.engine or cell.engine
    changes = json.loads(json.dumps(variant.changes).replace("{seed}", str(cell.seed)))
    options = engine_options(engine, run, merged({}, changes))
    return Plan(suite, cell, run, engine, options)
