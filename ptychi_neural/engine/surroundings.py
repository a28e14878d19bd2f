"""What pty-chi sets for the whole process when a task is built, kept for each task by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ptychi.maths as pmath
import torch
from ptychi.utils import get_default_complex_dtype, set_default_complex_dtype

from ptychi_neural.engine.device import without_default_device
from ptychi_neural.engine.random_state import random_state, restore_random_state


class Surroundings:
    """Precision, device and random numbers of a task, as they were when it was built.

    Several tasks can then run in turns, whatever the precision and the seed of each.

    Parameters
    ----------
    seeded : bool
        Whether the task has a seed: its random numbers are then its own. Otherwise it draws from
        those of the process.
    """

    def __init__(self, seeded: bool) -> None:
        self._process = _process_state()
        self._random = random_state() if seeded else None
        self._are_inside = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Do something in these surroundings, without an effect on those outside."""
        if self._are_inside:
            yield
            return
        outside, random_outside = _process_state(), random_state()
        _restore_process_state(self._process)
        if self._random is not None:
            restore_random_state(self._random)
        self._are_inside = True
        try:
            with without_default_device():
                yield
        finally:
            self._are_inside = False
            _restore_process_state(outside)
            if self._random is not None:
                self._random = random_state()
                restore_random_state(random_outside)

    def random_state(self) -> dict[str, Any]:
        """State of the random numbers from which the next run draws."""
        return random_state() if self._are_inside or self._random is None else self._random

    def restore_random_state(self, state: dict[str, Any]) -> None:
        """Let the next run draw from this state of the random numbers."""
        if self._random is None:
            restore_random_state(state)
        else:
            self._random = state


def _process_state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        get_default_complex_dtype(),
        torch.get_default_device(),
        pmath.get_use_double_precision_for_fft(),
        pmath.get_allow_nondeterministic_algorithms(),
    )


def _restore_process_state(state: tuple[Any, ...]) -> None:
    dtype, complex_dtype, device, double_precision_for_fft, nondeterministic = state
    torch.set_default_dtype(dtype)
    set_default_complex_dtype(complex_dtype)
    torch.set_default_device(device)
    pmath.set_use_double_precision_for_fft(double_precision_for_fft)
    pmath.set_allow_nondeterministic_algorithms(nondeterministic)
