"""EMD files of 4D-STEM (emdatasets.com): those of the NCEM, and of py4DSTEM (emdfile).

A group with the dataset ``data`` and, for each of its axes, ``dim0`` to ``dim3`` (or ``dim1`` to
``dim4``) with the attribute ``units``: two axes of the scan, two of the camera. Axes that count
pixels have the step that py4DSTEM's group ``calibration`` tells.
"""

from collections.abc import Iterator
from pathlib import Path
from posixpath import commonpath

import h5py
import numpy as np
from numpy.typing import ArrayLike

from ptychi_neural.scans.beamline import Instrument
from ptychi_neural.scans.calibrated_axes import Axis, instrument_of_axes, scan_axes, scan_of_axes
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.formats.numpy_stack import selected
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import (
    StrPath,
    check_size,
    native,
    opened,
    read,
    scalar,
    text,
    where,
)
from ptychi_neural.scans.links import check_links, contents
from ptychi_neural.scans.scan import Scan

NAMES = ("data", "datacube")

STEP_OF_SCAN = "R_pixel_size"
"""Name of the scan's step in py4DSTEM's calibration."""


@register_reader("emd")
class Emd(Reader):
    """Patterns of a camera for each position of an electron beam."""

    files = "EMD and py4DSTEM HDF5 with 'data' of four axes beside 'dim0' ... 'dim3'"

    def recognises(self, path: Path) -> bool:
        if not h5py.is_hdf5(path):
            return False
        with opened(path) as file:
            return next(_datacubes(file), None) is not None

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        with opened(path) as file:
            data, axes = _datacube(file)
            if data.dtype.kind not in "uif":
                raise ValueError(f"{where(data)} is {data.dtype}; store counts as real numbers.")
            of_scan = scan_axes(axes)
            if of_scan == (2, 3):  # all axes are in the opposite order: dim4 is the slowest
                stack = read(data).T.reshape(-1, data.shape[1], data.shape[0])
                return Diffraction(native(selected(path, stack, frame_indexes)), None)
            shape = [axes[axis].size for axis in of_scan]
            numbers = np.arange(int(np.prod(shape)))
            wanted = selected(path, numbers, frame_indexes)
            rows = np.unique(wanted // shape[-1]) if len(shape) > 1 else np.unique(wanted)
            check_size(data, len(rows))
            block = native(data[rows if len(rows) < len(data) else slice(None)])
            if len(shape) == 1:
                return Diffraction(block[np.searchsorted(rows, wanted)], None)
            row = np.searchsorted(rows, wanted // shape[-1])
            if len(wanted) == block.shape[0] * block.shape[1] and (np.diff(wanted) == 1).all():
                return Diffraction(block.reshape(-1, *block.shape[2:]), None)
            return Diffraction(block[row, wanted % shape[-1]], None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        scan, camera = _scan_and_camera(path)
        return (int(np.prod([axis.size for axis in scan])), *(axis.size for axis in camera))

    def read_product(self, path: StrPath) -> Scan:
        return scan_of_axes(path, *_scan_and_camera(path), None)

    def read_instrument(self, path: StrPath) -> Instrument:
        return instrument_of_axes(_scan_and_camera(path)[1], None)


def _scan_and_camera(path: StrPath) -> tuple[list[Axis], list[Axis]]:
    with opened(path) as file:
        _, axes = _datacube(file)
    axes = axes[::-1] if scan_axes(axes) == (2, 3) else axes
    return axes[:-2], axes[-2:]


def _datacube(file: h5py.File) -> tuple[h5py.Dataset, list[Axis]]:
    """The first stack of frames of the file, and its axes."""
    name, group = next(_datacubes(file))
    check_links(file, name)
    data = file[name]
    first = 0 if "dim0" in group else 1
    axes = []
    for i, size in enumerate(data.shape):
        dim = group.get(f"dim{i + first}")
        scale, units = 1.0, ""
        if isinstance(dim, h5py.Dataset) and dim.dtype.kind in "uif" and dim.size > 1:
            values = read(dim, slice(0, 2))
            scale, units = float(values[1]) - float(values[0]), text(dim.attrs.get("units", ""))
        axes.append(_axis(size, scale, units))
    told = _calibration(file, name)
    if told is not None:
        for i, axis in enumerate(axes):
            kind = "R" if i < len(axes) - 2 else "Q"
            step, units = (told.get(f"{kind}_pixel_{what}") for what in ("size", "units"))
            if not axis.is_calibrated and step is not None and units is not None:
                axes[i] = _axis(axis.size, scalar(step[()], where(step)), text(units[()]))
    return data, axes


def _axis(size: int, scale: float, units: str) -> Axis:
    return Axis(size, scale, units.strip("[] ").replace("_", ""))


def _calibration(file: h5py.File, name: str) -> h5py.Group | None:
    """The group that calibrates a datacube: the one that shares most of its path."""
    found = [
        item.parent
        for path, item in contents(file)
        if isinstance(item, h5py.Dataset) and path.split("/")[-2:] == ["calibration", STEP_OF_SCAN]
    ]
    return max(found, key=lambda group: len(commonpath([group.name, f"/{name}"])), default=None)


def _datacubes(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """Names of datasets of three or four axes that have a ``dim`` for each, and their groups."""
    found: list[tuple[str, h5py.Group]] = []
    for name, item in contents(file):
        if isinstance(item, h5py.Dataset) and name.rpartition("/")[2] in NAMES:
            group, n = item.parent, item.ndim
            places = [all(f"dim{i + first}" in group for i in range(n)) for first in (0, 1)]
            if n in (3, 4) and any(places):
                found.append((name, group))
    return iter(sorted(found, key=lambda pair: -pair[1][pair[0].rpartition("/")[2]].ndim))
