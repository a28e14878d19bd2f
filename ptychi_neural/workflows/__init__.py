"""Runs from beginning to end: from a run file to a results folder."""

from ptychi_neural.workflows.benchmark import BenchmarkResult, benchmark
from ptychi_neural.workflows.compare import Comparison, compare
from ptychi_neural.workflows.engines import ENGINES, EngineRun, Snapshot
from ptychi_neural.workflows.reconstruct import ReconstructionResult, build_task, reconstruct

__all__ = [
    "ENGINES",
    "BenchmarkResult",
    "Comparison",
    "EngineRun",
    "ReconstructionResult",
    "Snapshot",
    "benchmark",
    "build_task",
    "compare",
    "reconstruct",
]
