"""What a benchmark keeps of a cell: one JSON file of what was run, on what, and what came of it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.evaluation.metric_table import METRICS
from ptychi_neural.scans.hdf5 import replacing

POSITION_COLUMNS = ("position_rms_px", "position_rms_no_affine_px")
"""Errors of positions in a ``FullScore``."""

COVERAGE_COLUMNS = ("coverage_amplitude", "coverage_phase", "rank_correlation", "unevenness")
"""How intervals compare with the truth, in the order of ``evaluation.Coverage``."""


def score_columns() -> list[str]:
    """What a ``FullScore`` has that is one number, in the order of tables."""
    metrics = [name for name, metric in METRICS.items() if metric.format is not None]
    return ["error", *POSITION_COLUMNS, *COVERAGE_COLUMNS, *metrics, "held_out", "epoch", "seconds"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class RingCurve(_Model):
    """Fourier ring correlation of two halves of a scan."""

    frequencies: list[float]
    """(n_rings,) frequencies in cycles per pixel."""

    correlation: list[float]
    """(n_rings,) correlations, -1 to 1."""

    half_bit: list[float]
    """(n_rings,) half-bit threshold."""

    resolution_px: float
    """Period where the correlation falls below the threshold; infinite if nothing is resolved."""


class Score(_Model):
    """What an engine had at one epoch. None stands for what cannot be told."""

    epoch: int
    """Number of epochs done."""

    seconds: float
    """Wall time that the engine had taken."""

    held_out: float | None = None
    """Mean negative logarithm of the likelihood of the counts at held-out pixels, in nats."""

    error: float | None = None
    """Relative complex error against the ground truth."""


class FullScore(Score):
    """A score with what takes longer to compute: the ``METRICS`` by their names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | list[float] | None]

    position_rms_px: float | None = None
    """Root mean square error of refined positions along an axis, without their mean."""

    position_rms_no_affine_px: float | None = None
    """The same without an affine map."""

    coverage_amplitude: float | None = None
    """Share of the scanned area's pixels whose true amplitude is in its 90 % interval."""

    coverage_phase: float | None = None
    """The same of the phase."""

    rank_correlation: float | None = None
    """Rank correlation of deviation and magnitude of the error, both smoothed over 5 px."""

    unevenness: float | None = None
    """Standard deviation of the magnitude of the error, smoothed over 5 px, over its mean."""

    half_scans: RingCurve | None = None
    """Correlation of the reconstructions from two halves of the scan."""


class Record(_Model):
    """One cell: what was run, on what, and what came of it."""

    suite: str
    """Name of the suite."""

    cell: dict[str, str]
    """Labels of the points of all axes, the object and the seed."""

    engine: str
    """Name of the engine in the suite."""

    seed: int
    """Seed of the simulation, the engine and the held-out pixels."""

    settings: dict[str, Any]
    """Settings that are not a default of pty-chi or of the simulation, by dotted name."""

    settings_hash: str
    """Hash of all settings, with the defaults."""

    versions: dict[str, str | None]
    """Versions of packages; ``commit`` is None where the package is not in a git checkout."""

    device: str
    """Name of the device."""

    threads: int
    """Number of CPU threads."""

    started: str
    """Time of the start as in ISO 8601, UTC."""

    wall_time_s: float
    """Wall time of everything that was done for the cell, with scoring and half scans."""

    engine_seconds: float
    """Wall time of the engine alone, on the whole scan."""

    peak_memory_mib: float
    """Largest memory of the GPU while the cell ran. On a CPU it is the largest resident memory of
    the process, since the cell began where the system can tell, otherwise since the process did."""

    n_parameters: int | None = None
    """Number of real numbers that the generator learns; None where there is no generator."""

    flops: int | None = None
    """Floating-point operations with which the generator makes the object once, see ``Cost``."""

    stopped: str | None
    """What ended the engine before its last epoch."""

    band_edges: list[float]
    """Edges of the bands of ``error_by_band`` in cycles per pixel."""

    trace: list[Score]
    """Scores in order of time, from the common start."""

    end: FullScore
    """Score of the last epoch."""

    best_held_out: FullScore | None
    """Score at the best held-out likelihood; None where no pixels were held out."""

    best_truth: FullScore | None
    """Score at the smallest error; None where there is no ground truth."""

    equal_time: FullScore | None
    """Score at the suite's ``equal_seconds``; None where there is none, or the engine had not
    begun by then."""

    def write(self, path: Path, overwrite: bool = False) -> None:
        """Write the record whole or not at all."""
        with replacing(path, overwrite) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def record_path(cell: Cell, folder: Path) -> Path:
    """The file of a cell's record in a folder of records."""
    return folder / f"{cell.key}.json"


def find_record(cell: Cell, folder: Path) -> Record | None:
    """Read the record of a cell, if there is one.

    Raises
    ------
    ValueError
        If it cannot be read, or is that of another cell.
    """
    path = record_path(cell, folder)
    if not path.exists():
        return None
    record = read_record(path)
    if (record.cell, record.engine) != (cell.coordinates, cell.engine):
        raise ValueError(
            f"{path} is the record of another cell, {record.cell}, {record.engine}: --overwrite "
            "runs this one."
        )
    return record


def read_record(path: Path) -> Record:
    """Read and check a record.

    Raises
    ------
    ValueError
        If the file is not one.
    """
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"msg": str(error)}
        where = ".".join(map(str, problem.get("loc", ())))
        raise ValueError(
            f"{path} is no record of a benchmark ({where + ': ' if where else ''}"
            f"{problem['msg']}): --overwrite runs the cell again."
        ) from None
