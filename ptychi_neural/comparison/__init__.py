"""Engines side by side on one scan."""

from ptychi_neural.comparison.compare import compare
from ptychi_neural.comparison.engines import ENGINES
from ptychi_neural.comparison.result import Comparison
from ptychi_neural.comparison.snapshots import EngineRun, Snapshot

__all__ = ["ENGINES", "Comparison", "EngineRun", "Snapshot", "compare"]
