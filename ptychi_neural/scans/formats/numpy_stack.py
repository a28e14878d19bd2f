"""A stack of patterns in one ``.npy`` file, or the positions that belong to one in another."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ptychi_neural.counted import counted
from ptychi_neural.scans.diffraction import Diffraction, on_last_axis
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath, native
from ptychi_neural.scans.numpy_files import check_stack, is_npy, read_npy
from ptychi_neural.scans.scan import Scan, scan_of_positions


@register_reader("numpy")
class NumpyStack(Reader):
    """Patterns of shape (n, h, w), or positions of shape (n, 2)."""

    files = ".npy with patterns (n, h, w), or with positions (n, 2): y and x in metres"

    def recognises(self, path: Path) -> bool:
        return is_npy(path)

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        stack = read_npy(path)
        if stack.ndim == 4:  # rows and columns of a scan
            stack = stack.reshape(-1, *stack.shape[2:])
        check_stack(path, stack)
        return Diffraction(native(selected(path, stack, frame_indexes)), None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        shape = read_npy(path).shape
        return (shape[0] * shape[1], *shape[2:]) if len(shape) == 4 else shape

    def read_product(self, path: StrPath) -> Scan:
        positions = read_npy(path)
        if positions.ndim == 3 and positions.shape[2] == 2:  # rows and columns of a scan
            positions = positions.reshape(-1, 2)
        if positions.ndim > 2:
            return super().read_product(path)
        if positions.ndim == 2 and positions.shape[0] == 2 < positions.shape[1]:
            positions = positions.T
        if positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in "uif":
            raise ValueError(
                f"{path} holds {positions.dtype} of shape {positions.shape}; write positions as "
                "(n, 2) real numbers: y and x of each frame, such as positions[:, [1, 0]] of x, y."
            )
        return scan_of_positions(positions)


def selected(path: StrPath, stack: np.ndarray, frame_indexes: ArrayLike | None) -> np.ndarray:
    """Some frames of a stack, in memory."""
    if frame_indexes is None:
        return np.array(stack)
    rows = np.asarray(frame_indexes, dtype=np.int64)
    missing = rows[(rows < 0) | (rows >= len(stack))]
    if len(missing):
        raise ValueError(
            f"{path} holds {counted(len(stack), 'frames')} and lacks {len(missing)} of the "
            f"{len(rows)} that the product asks for (the first: {missing[0]})"
            f"{on_last_axis(stack.shape, len(rows))}."
        )
    return np.asarray(stack[rows])
