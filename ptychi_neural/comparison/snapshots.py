"""What an engine had reached at some of its epochs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.prediction.deviation_intervals import Intervals


@dataclass
class Snapshot:
    """What an engine had after an epoch."""

    epoch: int
    """Number of epochs done. Each projection of the neural engine counts as one."""

    seconds: float
    """Wall time that the engine alone had taken."""

    held_out: float
    """Value of ``held_out_likelihood``."""

    error: float | None
    """Relative complex error against the ground truth or reference; None where there is neither."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) object."""

    probe: NDArray[np.complexfloating]
    """(n_opr_modes, n_modes, h, w) probe."""

    positions_px: NDArray[np.floating]
    """(n, 2) positions (y, x) in pixels."""


@dataclass
class EngineRun:
    """The course of one engine."""

    engine: str
    """Name of the engine."""

    settings: dict[str, Any]
    """Options that differ from the engine's defaults, by dotted name."""

    snapshots: list[Snapshot]
    """Snapshots in order of time; the first is the start, which all engines share."""

    stopped: str | None = None
    """What ended the run before its last epoch: "interrupted", "out of time", or how it failed."""

    intervals: Intervals | None = None
    """Intervals of the last snapshot's object, where they were asked for and could be measured."""

    remark: str | None = None
    """What else a reader should know about the run."""

    @property
    def best(self) -> Snapshot:
        """The snapshot of the best held-out likelihood."""
        return min(self.snapshots, key=lambda snapshot: or_infinite(snapshot.held_out))

    @property
    def best_by_error(self) -> Snapshot | None:
        """The snapshot of the smallest error; None where there is nothing to compare with."""
        best = min(self.snapshots, key=lambda snapshot: or_infinite(snapshot.error))
        return best if or_infinite(best.error) < np.inf else None

    @property
    def last(self) -> Snapshot:
        """The last snapshot."""
        return self.snapshots[-1]

    def at(self, seconds: float) -> Snapshot:
        """The last snapshot that was reached within a wall time."""
        return [snapshot for snapshot in self.snapshots if snapshot.seconds <= seconds][-1]


def or_infinite(value: float | None) -> float:
    """The value, or infinity in the place of None and NaN, which are worse than anything."""
    return np.inf if value is None or np.isnan(value) else value
