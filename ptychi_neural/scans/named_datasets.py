"""Positions and probe from datasets that a run file names, in HDF5 files and NPZ archives."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans import diffraction
from ptychi_neural.scans.beamline import length_in_metres, told_unit
from ptychi_neural.scans.diffraction import Diffraction, read_stack
from ptychi_neural.scans.formats import reader_of
from ptychi_neural.scans.formats.numpy_stack import selected
from ptychi_neural.scans.formats.ptychodus import expanded
from ptychi_neural.scans.hdf5 import StrPath, dataset, opened, read, reals
from ptychi_neural.scans.numpy_files import npz_header, npz_names, read_npz
from ptychi_neural.scans.scan import Scan, scan_of_positions

COLUMN = re.compile(r"(?P<name>.+)\[(?P<rows>:, ?)?(?P<index>\d+)\]$")
"""A column of positions, or a row, by its number from 0."""


def named_positions(path: StrPath, datasets: Mapping[str, str], scan: Scan | None) -> Scan:
    """A scan with positions and probe of these datasets, and the rest of what its file tells.

    Parameters
    ----------
    path : path
        An HDF5 file or NPZ archive.
    datasets : mapping
        Names of ``"y"`` and ``"x"``, of ``"probe"``, or of all. One name for both coordinates is
        that of an (n, 2) array (y, x).
    scan : Scan, optional
        What the file tells; None where positions are named, which tell nothing else.

    Raises
    ------
    ValueError
        If a dataset is missing or of the wrong shape.
    """
    if ("y" in datasets) != ("x" in datasets):
        raise ValueError("datasets names one of 'y' and 'x'; name both, or (n, 2) data twice.")
    if "y" in datasets:
        y, x = (named_array(path, datasets[axis], lengths=True) for axis in "yx")
        is_pair = datasets["y"] == datasets["x"]
        if is_pair and y.ndim >= 2 and y.shape[-1] == 2:
            (y, x), is_pair = y.reshape(-1, 2).T, False
        if is_pair or y.squeeze().shape != x.squeeze().shape:  # a raster's may have two axes
            raise ValueError(
                f"{path}: {datasets['y']!r} and {datasets['x']!r} have shapes {y.shape} and "
                f"{x.shape}; name datasets of one number for each frame, or "
                f'columns of one: y = "{datasets["y"]}[:, 0]", x = "{datasets["x"]}[:, 1]".'
            )
        positions = reals(np.stack([y.ravel(), x.ravel()], axis=1), f"{path}: 'y', 'x'")
        scan = scan_of_positions(positions)
    assert scan is not None
    if "probe" in datasets:
        probe = named_array(path, datasets["probe"])
        if probe.dtype.kind != "c" or not np.isfinite(probe).all():
            raise ValueError(
                f"{path}: {datasets['probe']!r} is {probe.dtype}; name finite complex numbers."
            )
        scan.probe = expanded(probe, 4)
    return scan


def named_diffraction(
    path: StrPath, datasets: Mapping[str, str], names: tuple[str, ...], rows: Any
) -> Diffraction:
    """Patterns and mask of these datasets.

    Parameters
    ----------
    path : path
        An HDF5 file or NPZ archive.
    datasets : mapping
        Names of ``"patterns"``, ``"mask"``, or both.
    names : tuple of str
        Where patterns are looked for without a name.
    rows : array_like of int or None
        (n,) numbers of the frames to read; None: all.
    """
    if h5py.is_hdf5(path) or "patterns" not in datasets:
        named = (datasets["patterns"],) if "patterns" in datasets else names
        return read_stack(path, rows, named, datasets.get("mask"))
    stack = named_array(path, datasets["patterns"])
    stack = stack.reshape(-1, *stack.shape[-2:]) if stack.ndim > 3 else stack  # of a raster
    if stack.ndim != 3 or stack.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: {datasets['patterns']!r} is {stack.dtype} of shape {stack.shape}; name real "
            "numbers of shape (n, h, w)."
        )
    mask = None
    if "mask" in datasets:
        marked = named_array(path, datasets["mask"]) != 0
        mask = marked if "valid" in datasets["mask"] else ~marked
    return Diffraction(selected(path, stack, rows), mask)


def stack_shape(path: StrPath, datasets: Mapping[Any, str]) -> tuple[int, ...]:
    """(n, h, w) of the patterns under their name, or in the usual place, without reading them."""
    name = datasets.get("patterns")
    if name is None:
        return reader_of(path).stack_shape(path)
    if npz_names(Path(path)):
        shape = npz_header(path, name)[0]
        return (math.prod(shape[:-2]), *shape[-2:])
    with opened(path) as file:
        return diffraction.stack_shape(file, (name,))


def named_array(path: StrPath, name: str, lengths: bool = False) -> NDArray[Any]:
    """An array of an HDF5 file or NPZ archive, or a column of it (``"scan/xyz[:, 1]"``).

    Lengths with units become metres.
    """
    if lengths and (told := COLUMN.match(name)):
        array = named_array(path, told["name"], lengths)
        axis, index = (-1 if told["rows"] else 0), int(told["index"])
        if array.ndim < 2 or index >= array.shape[axis]:
            raise ValueError(f"{path}: {name!r} is none of an array of shape {array.shape}.")
        return array.take(index, axis=axis)
    if npz_names(Path(path)):
        return read_npz(path, name)
    with opened(path) as file:
        data = dataset(file, name)
        array = read(data)
        return array * length_in_metres(data) if lengths and told_unit(data) else array
