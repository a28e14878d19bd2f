"""The cells of a benchmark: each is one engine on one scan."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ptychi_neural.scans import Scan, select_frames


class Frames(BaseModel):
    """The part of a scan that is reconstructed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_px: float = Field(default=float("inf"), gt=0)
    """Side of the square in the middle of the scan in which positions are kept."""

    every: int = Field(default=1, ge=1)
    """Of the positions in the square, one of so many is kept."""

    def of(self, scan: Scan) -> Scan:
        """The scan with these frames only."""
        middle = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2
        distance = np.abs(scan.positions_px - middle).max(axis=1)
        return select_frames(scan, np.flatnonzero(distance <= self.window_px / 2)[:: self.every])


@dataclass(frozen=True)
class Cell:
    """One engine on one scan."""

    coordinates: dict[str, str]
    """Labels of the points of all axes, the object and the seed."""

    engine: str
    """Name of the engine in the suite."""

    seed: int
    """Seed of the simulation, the engine and the held-out pixels."""

    contents: dict[str, Any]
    """Contents of the run file."""

    frames: list[Frames]
    """Parts of the scan that are taken one after the other."""

    max_seconds: float
    """Wall time after which the engine is stopped."""

    @property
    def key(self) -> str:
        """The cell's name, which is also that of its record."""
        labels = {**self.coordinates, "engine": self.engine}
        return ",".join(f"{name}={label}" for name, label in labels.items())
