"""Benchmark suites: engines on scans of many kinds, with records, tables and figures."""

from ptychi_neural.comparison.benchmark.run import BenchmarkResult, benchmark

__all__ = ["BenchmarkResult", "benchmark"]
