"""Frames that wait for their positions, and positions that wait for their frames."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class WaitingFrames:
    """What has arrived of frames whose pattern or position is still missing.

    Parameters
    ----------
    ring_size : int
        Most patterns that wait. Positions take little memory, and all of them wait.
    """

    def __init__(self, ring_size: int) -> None:
        self.ring_size = ring_size
        self.patterns: dict[int, NDArray[Any]] = {}
        """(h, w) counts by the number of the frame, in the order in which they came."""
        self.positions: dict[int, NDArray[np.float32]] = {}
        """(2,) positions by the number of the frame."""

    def put(self, numbers: Sequence[int], patterns: NDArray[Any]) -> list[int]:
        """Let patterns wait, and return the numbers of those that had to go."""
        for number, pattern in zip(numbers, patterns):
            self.patterns.setdefault(number, pattern.copy())
        lost = list(self.patterns)[: max(0, len(self.patterns) - self.ring_size)]
        for number in lost:
            del self.patterns[number]
        return lost

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget frames that have been taken in."""
        for number in numbers:
            self.patterns.pop(number, None)
            self.positions.pop(number, None)

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            "patterns": [
                [number, str(pattern.dtype), torch.from_numpy(_as_signed(pattern))]
                for number, pattern in self.patterns.items()
            ],
            "numbers": list(self.positions),
            "positions": torch.from_numpy(np.array([*self.positions.values()], np.float32)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.patterns = {
            number: pattern.numpy().view(dtype) for number, dtype, pattern in state["patterns"]
        }
        self.positions = dict(zip(state["numbers"], state["positions"].numpy(), strict=True))


def _as_signed(pattern: NDArray[Any]) -> NDArray[Any]:
    """The same bits as integers that every version of torch knows; no count is NaN then."""
    return np.ascontiguousarray(pattern).view(f"i{pattern.dtype.itemsize}")
