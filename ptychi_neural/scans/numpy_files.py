"""NumPy files, read without unpickling anything and not beyond memory."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.hdf5 import StrPath, check_memory, damage_told, native


def is_npy(path: Path) -> bool:
    """Whether a file is one NumPy array."""
    with open(path, "rb") as file:
        return file.read(6) == b"\x93NUMPY"


def npz_names(path: Path) -> set[str]:
    """Names of the arrays of an NPZ archive; none if the file is no archive."""
    if not zipfile.is_zipfile(path):
        return set()
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


def read_npy(path: StrPath) -> NDArray[Any]:
    """An array, mapped into memory, of a ``.npy`` file.

    Raises
    ------
    ValueError
        If it holds pickled objects, is truncated, or is larger than memory.
    """
    with damage_told(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    check_memory(f"{path}", array.shape, array.dtype)
    return array


def read_npz(path: StrPath, name: str) -> NDArray[Any]:
    """An array of an NPZ archive in native byte order.

    Raises
    ------
    ValueError
        If the archive lacks it, it holds pickled objects, or it is larger than memory.
    """
    what = f"{path}: {name!r}"
    if name not in npz_names(Path(path)):
        raise ValueError(f"{path} has no array {name!r}; it holds {sorted(npz_names(Path(path)))}.")
    shape, dtype = npz_header(path, name)
    if dtype.hasobject:
        raise ValueError(f"{what} holds pickled objects, which could run programs.")
    check_memory(what, shape, dtype)
    with damage_told(path), np.load(path, allow_pickle=False) as arrays:
        return native(arrays[name])


def check_stack(path: StrPath, stack: NDArray[Any]) -> None:
    """Refuse what are no patterns.

    Raises
    ------
    ValueError
        If these are not real numbers of shape (n, h, w).
    """
    if stack.ndim != 3 or 0 in stack.shape or stack.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: patterns must be real numbers of shape (n, h, w), got {stack.dtype} of "
            f"shape {stack.shape}; store one stack of 2D images."
        )


def npz_header(path: StrPath, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of an NPZ archive."""
    with (
        damage_told(path),
        zipfile.ZipFile(path) as archive,
        archive.open(f"{name}.npy") as member,
    ):
        version = np.lib.format.read_magic(member)
        header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(member)
    return shape, dtype
