"""Earlier name of ``ptychi_neural.runs`` and ``ptychi_neural.comparison``, kept for scripts."""

from ptychi_neural.comparison import ENGINES, Comparison, EngineRun, Snapshot, compare
from ptychi_neural.comparison.benchmark import BenchmarkResult, benchmark
from ptychi_neural.runs import *  # noqa: F403
from ptychi_neural.runs import __all__ as _of_runs

__all__ = [
    "ENGINES",
    "BenchmarkResult",
    "Comparison",
    "EngineRun",
    "Snapshot",
    "benchmark",
    "compare",
    *_of_runs,
]
