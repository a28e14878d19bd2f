"""The largest memory that a cell of a benchmark takes."""

import contextlib
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Let ``peak_memory_mib`` count from here on, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def peak_memory_mib() -> float:
    """Largest memory, see ``Record.peak_memory_mib``."""
    import resource  # not on Windows
    import sys

    if torch.get_default_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
