"""The largest memory that a cell of a benchmark takes."""

import contextlib
import sys
from pathlib import Path

import torch


def reset_peak_memory() -> None:
    """Let ``peak_memory_mib`` count from here on, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)


def peak_memory_mib() -> float:
    """Largest memory, see ``Record.peak_memory_mib``.

    Linux is asked through ``/proc``: its ``getrusage`` also counts what the process that started
    this one had taken until then.
    """
    if torch.get_default_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak) / 2**10
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
