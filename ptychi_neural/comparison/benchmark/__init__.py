"""Benchmark suites: engines on scans of many kinds, with records, tables and figures."""

from ptychi_neural.comparison.benchmark.run import BenchmarkResult, benchmark
from ptychi_neural.comparison.benchmark.stream import STREAM, stream_benchmark
from ptychi_neural.comparison.benchmark.suite_files import packaged_suites

__all__ = ["STREAM", "BenchmarkResult", "benchmark", "packaged_suites", "stream_benchmark"]
