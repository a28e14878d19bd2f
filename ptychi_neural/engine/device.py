"""torch's default device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_default_device() -> Iterator[None]:
    """Run without the default device that pty-chi sets, on a CPU: torch looks after it in every
    call, which on small scans takes a tenth of the time, and its own default is the same."""
    on_cpu = torch.get_default_device().type == "cpu"
    if on_cpu:
        torch.set_default_device(None)
    try:
        yield
    finally:
        if on_cpu:
            torch.set_default_device("cpu")
