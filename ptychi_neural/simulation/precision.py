"""Double precision on the CPU, whatever the caller's defaults of torch and pty-chi are."""

from collections.abc import Iterator
from contextlib import contextmanager

import ptychi.utils as pty_utils
import torch


@contextmanager
def double_precision_on_cpu() -> Iterator[None]:
    """Let pty-chi compute in float64 and complex128 on the CPU, then restore the defaults."""
    real_dtype = torch.get_default_dtype()
    complex_dtype = pty_utils.get_default_complex_dtype()
    torch.set_default_dtype(torch.float64)
    pty_utils.set_default_complex_dtype(torch.complex128)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(real_dtype)
        pty_utils.set_default_complex_dtype(complex_dtype)
