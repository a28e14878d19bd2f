"""Images of a detector in files of their own: masks of pixels, and dark frames."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.formats import reader_of
from ptychi_neural.scans.hdf5 import StrPath, damage_told, dataset, opened, read
from ptychi_neural.scans.links import contents
from ptychi_neural.scans.numpy_files import is_npy, npz_header, npz_names, read_npy, read_npz

TEXT = (".txt", ".csv", ".dat", ".tsv")
"""Suffixes of text files, which hold a row of pixels on each line."""


def bad_pixels(path: StrPath, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(h, w) pixels that a file marks as bad: not 0, or 0 where a name in it says ``valid``.

    Parameters
    ----------
    path : path
        The file, as for ``image``.
    shape : tuple of int
        (h, w) of stored frames.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``image``.
    """
    name, stack = _found(Path(path), shape)
    marked = _mean(path, stack, shape) != 0
    return ~marked if "valid" in f"{Path(path).name} {name}" else marked


def image(path: StrPath, shape: tuple[int, ...]) -> NDArray[Any]:
    """An (h, w) image, or the mean of a stack of them.

    Parameters
    ----------
    path : path
        A file of patterns of any format, or an HDF5 file, NPZ archive or text of one image.
    shape : tuple of int
        (h, w) of stored frames.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, its images have another shape, or it holds several.
    """
    return _mean(path, _found(Path(path), shape)[1], shape)


def _found(path: Path, shape: tuple[int, ...]) -> tuple[str, NDArray[Any]]:
    """The image or stack of a file, and its name in there."""
    if path.is_file() and is_npy(path):
        return "", read_npy(path)
    if path.is_file() and path.suffix.lower() in TEXT:
        with damage_told(path):
            first = path.read_text(encoding="utf-8-sig").split("\n", 1)[0]
            return "", np.loadtxt(path, delimiter="," if "," in first else None, ndmin=2)
    try:
        return "", reader_of(path).read_diffraction(path).patterns
    except ValueError:
        if path.is_dir():
            raise
        held = list(_held(path))
        if not held:
            raise
    fitting = [name for name, of in held if of[-2:] == tuple(shape)] or [held[0][0]]
    if len(fitting) > 1:
        raise ValueError(
            f"{path} holds several images, {', '.join(map(repr, fitting))}; write the one that is "
            "meant into a file of its own, .npy or TIFF."
        )
    if npz_names(path):
        return fitting[0], read_npz(path, fitting[0])
    with opened(path) as file:
        return fitting[0], read(dataset(file, fitting[0]))


def _held(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the arrays of two and more axes, the largest first."""
    found: list[tuple[str, tuple[int, ...]]] = []
    if names := npz_names(path):
        found = [(name, npz_header(path, name)[0]) for name in sorted(names)]
    elif h5py.is_hdf5(path):
        with opened(path) as file:
            found = [
                (name, item.shape or ())
                for name, item in contents(file)
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "uifb"
            ]
    arrays = [(name, shape) for name, shape in found if len(shape) > 1]
    return iter(sorted(arrays, key=lambda pair: -math.prod(pair[1])))


def _mean(path: StrPath, stack: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if stack.shape[-2:] != tuple(shape) or stack.ndim not in (2, 3):
        raise ValueError(
            f"{path} holds images of {stack.shape}, the stored frames are {tuple(shape)}; use one "
            "that was measured with the same part of the detector."
        )
    return np.asarray(stack) if stack.ndim == 2 else stack.mean(axis=0, dtype=np.float64)
