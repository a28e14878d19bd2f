"""Benchmark suites: engines on scans of many kinds, with records, tables and figures."""

from ptychi_neural.comparison.benchmark.run import BenchmarkResult, benchmark
from ptychi_neural.comparison.benchmark.stream import (
    STREAM,
    STREAM_DESCRIPTION,
    stream_benchmark,
)
from ptychi_neural.comparison.benchmark.suite_files import packaged_suites

__all__ = [
    "STREAM",
    "BenchmarkResult",
    "benchmark",
    "offered",
    "packaged_suites",
    "stream_benchmark",
]


def offered() -> dict[str, str]:
    """Names and descriptions of what the command runs by name."""
    return packaged_suites() | {STREAM: STREAM_DESCRIPTION}
