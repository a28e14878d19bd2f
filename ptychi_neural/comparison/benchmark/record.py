"""What a benchmark keeps of a cell: one JSON file of what was run, on what, and what came of it."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from ptychi_neural.scans.hdf5 import replacing


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class RingCurve(_Model):
    """Fourier ring correlation of two halves of a scan."""

    frequencies: list[float]
    """(n_rings,) in cycles per pixel."""

    correlation: list[float]

    half_bit: list[float]
    """(n_rings,) threshold."""

    resolution_px: float
    """Period where the correlation falls below the threshold; infinite: nothing is resolved."""


class Score(_Model):
    """What an engine had at one epoch; None where there is nothing to tell it by."""

    epoch: int

    seconds: float
    """Wall time of the engine until then."""

    held_out: float | None = None
    """Mean negative logarithm of the likelihood of the counts at held-out pixels, in nats."""

    error: float | None = None
    """Relative complex error against the ground truth."""


class FullScore(Score):
    """A score with everything that takes longer to compute."""

    ssim_amplitude: float | None = None

    ssim_phase: float | None = None

    frc_resolution_px: float | None = None
    """Period where the correlation with the ground truth falls below 0.5."""

    error_by_band: list[float] | None = None
    """Share of the error between each two of the record's ``band_edges``."""

    phase_correlation: float | None = None
    """With a measured scan's reference, which is no ground truth."""

    half_scans: RingCurve | None = None


class Record(_Model):
    """One cell: what was run, on what, and what came of it."""

    suite: str

    cell: dict[str, str]
    """Labels of the points of all axes, the object and the seed."""

    engine: str
    """Name of the engine in the suite."""

    seed: int

    settings: dict[str, Any]
    """All that is not a default of pty-chi or of the simulation, by dotted name."""

    settings_hash: str
    """Of all settings, with the defaults."""

    versions: dict[str, str | None]
    """Of packages; ``commit`` is None where the package is not in a git checkout."""

    device: str

    threads: int
    """CPU threads."""

    started: str
    """ISO 8601, UTC."""

    wall_time_s: float
    """All there was to do for the cell, with scoring and half scans."""

    engine_seconds: float
    """Wall time of the engine alone, on the whole scan."""

    peak_memory_mib: float
    """Largest memory of the GPU while the cell ran; on a CPU largest resident memory of the
    process, since the cell began where the system can tell, otherwise since the process did."""

    stopped: str | None
    """What ended the engine before its last epoch."""

    band_edges: list[float]
    """In cycles per pixel."""

    trace: list[Score]
    """In order of time, from the common start."""

    end: FullScore

    best_held_out: FullScore | None
    """At the best held-out likelihood; None where no pixels were held out."""

    best_truth: FullScore | None
    """At the smallest error; None where there is no ground truth."""

    equal_time: FullScore | None
    """At the suite's ``equal_seconds``; None where there is none, or this one had not begun."""

    def write(self, path: Path, overwrite: bool = False) -> None:
        """Write the record whole or not at all."""
        with replacing(path, overwrite) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


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


def reset_peak_memory() -> None:
    """Let ``peak_memory_mib`` count from here on, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def peak_memory_mib() -> float:
    """Largest memory, see ``Record.peak_memory_mib``."""
    import resource  # not on Windows
    import sys

    if torch.get_default_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
