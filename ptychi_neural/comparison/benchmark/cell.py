"""The cells of a benchmark: each is one engine on one scan."""

from dataclasses import dataclass
from typing import Any

from ptychi_neural.scans.frames import Frames


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
    def labels(self) -> dict[str, str]:
        """What tells the cell from others: its coordinates and its engine."""
        return {**self.coordinates, "engine": self.engine}

    @property
    def key(self) -> str:
        """The cell's name, which is also that of its record."""
        return ",".join(f"{name}={label}" for name, label in self.labels.items())
