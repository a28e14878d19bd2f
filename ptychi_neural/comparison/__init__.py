"""Engines side by side on one scan."""

from ptychi_neural.comparison.compare import Comparison, compare
from ptychi_neural.comparison.engines import ENGINES, EngineRun, Snapshot

__all__ = ["ENGINES", "Comparison", "EngineRun", "Snapshot", "compare"]
