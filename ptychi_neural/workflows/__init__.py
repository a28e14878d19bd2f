"""Earlier name of ``ptychi_neural.runs`` and ``ptychi_neural.comparison``, kept for scripts."""

from importlib import import_module

from ptychi_neural.earlier_names import EARLIER

for _name in EARLIER:  # First, because some of the modules are called as a function in them is.
    if _name.startswith("workflows."):
        import_module(f"ptychi_neural.{_name}")

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
