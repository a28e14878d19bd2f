"""Stacks of diffraction patterns in HDF5: (n, h, w) counts with DC at the image centre.

The places are those of pty-chi (``dp``), ptychodus (``patterns``), CXI (Maia, Nature Methods 9,
854 (2012)), NeXus, and the masters of Eiger detectors, which link a stack for each file.
"""

import math
import warnings
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.counted import counted
from ptychi_neural.scans.entries import is_chosen, scans_in
from ptychi_neural.scans.hdf5 import (
    StrPath,
    check_size,
    find,
    found_name,
    frame_numbers,
    names_like,
    opened,
    read,
    replacing,
    written,
)
from ptychi_neural.scans.hdf5 import dataset as dataset
from ptychi_neural.scans.masks import pixel_mask as pixel_mask

PATTERNS = (
    "dp",
    "patterns",
    "entry*/data*/data",
    "entry*/instrument*/detector*/data",
    "exchange/data",
)
"""Names under which a stack of patterns is looked for, in this order."""

FARTHEST = 8
"""Distance of frames from which those between them are not read."""

CHUNKS = "entry*/data*/data_[0-9]*"
"""Names of the stacks that together make a scan in an Eiger master file."""


class Diffraction(NamedTuple):
    """What a diffraction file holds."""

    patterns: NDArray[np.generic]
    """(n, h, w) counts as stored, in native byte order."""

    valid_pixel_mask: NDArray[np.bool_] | None
    """(h, w), True where the detector works; None where the file has no mask."""


def read_stack(
    path: StrPath,
    frame_indexes: ArrayLike | None = None,
    names: tuple[str, ...] = PATTERNS,
    mask_name: str | None = None,
) -> Diffraction:
    """Read patterns and mask of an HDF5 file.

    Parameters
    ----------
    path : path
        The HDF5 file.
    frame_indexes : array_like of int, optional
        (n,) the frames to read, in this order; frames are numbered by the dataset ``indexes``
        where the file has one (as ptychodus writes it), otherwise from 0. None: all of them.
    names : tuple of str
        Names under which patterns are looked for.
    mask_name : str, optional
        The dataset to take the mask from.

    Returns
    -------
    Diffraction
        The patterns in the stored type, and the mask.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file, a dataset, the file behind a link, or a frame is missing, a shape is wrong,
        or the patterns are larger than memory.
    """
    with opened(path) as file:
        parts = stacks(file, names)
        check_stack(parts[0])
        if 0 in parts[0].shape:
            raise ValueError(f"{path}: patterns of shape {parts[0].shape} have no counts.")
        shape = stack_shape(file, names)
        if frame_indexes is None:
            rows = np.arange(shape[0])
        else:
            numbers = frame_numbers(dataset(file, "indexes")) if "indexes" in file else None
            rows = numbered_rows(path, numbers, shape, np.asarray(frame_indexes, dtype=np.int64))
        mask = pixel_mask(file, shape[1:], mask_name, entry_of_patterns(file, names))
        return Diffraction(_selected(parts, rows), mask)


def check_stack(data: h5py.Dataset) -> None:
    """Refuse a dataset that is no stack of counts."""
    if data.ndim < 3 or 0 in data.shape[-2:] or data.dtype.kind not in "uif":
        raise ValueError(
            f"{data.file.filename}: patterns must be real numbers of shape (n, h, w), got "
            f"{data.dtype} of shape {data.shape}; store counts as one stack of 2D images."
        )


def stacks(file: h5py.File, names: tuple[str, ...] = PATTERNS) -> list[h5py.Dataset]:
    """The datasets that hold the patterns one after the other; mostly it is one."""
    chunks = [] if find(file, *names) else names_like(file, CHUNKS)
    return [dataset(file, name) for name in chunks] or [dataset(file, *names)]


def stack_shape(file: h5py.File, names: tuple[str, ...] = PATTERNS) -> tuple[int, ...]:
    """(n, h, w) of the patterns, whose frames may be stored along the axes of a raster."""
    parts = stacks(file, names)
    return (sum(_n_frames(part) for part in parts), *parts[0].shape[-2:])


def entry_of_patterns(file: h5py.File, names: tuple[str, ...] = PATTERNS) -> str | None:
    """The entry of a CXI or NeXus file whose patterns are read, of which masks are taken, too.

    None where patterns lie elsewhere. Where several entries hold patterns, and none was chosen, a
    warning names them.
    """
    first = found_name(file, *names) or next(iter(names_like(file, CHUNKS)), "")
    entry = first.split("/")[0]
    if "/" not in first or not entry.startswith("entry"):
        return None
    others = [name for name in scans_in(file) if name != entry]
    if others and not is_chosen():
        warnings.warn(
            f"{file.filename}: {entry} is read, and not {', '.join(others)}; data.entry chooses.",
            stacklevel=2,
        )
    return entry


def write_diffraction(
    path: StrPath,
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None = None,
    overwrite: bool = False,
    *,
    frame_indexes: NDArray[np.int64] | None = None,
    detector_pixel_sizes_m: tuple[float, ...] = (),
    probe_photon_counts: NDArray[np.float64] | None = None,
) -> None:
    """Write counts and mask, compressed, so that pty-chi's and ptychodus's readers open them.

    The counts are the dataset ``dp`` and, under the name ``patterns``, the same dataset again
    (a hard link). The mask is ``bad_pixels``, and ``valid_pixel_mask`` where one is given.

    Parameters
    ----------
    path : path
        The HDF5 file.
    patterns : ndarray
        (n, h, w) counts, DC at the image centre, stored in their own type.
    valid_pixel_mask : ndarray, optional
        (h, w), True where the detector works.
    overwrite : bool
        Whether an existing file may be replaced.
    frame_indexes : ndarray, optional
        (n,) number of each frame; None: 0 ... n - 1.
    detector_pixel_sizes_m : tuple of float
        Height and width of a detector pixel in metres; empty: 1, which ptychodus needs in place
        of nothing.
    probe_photon_counts : ndarray, optional
        (n,) photons of each frame before the sample.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        If a shape is wrong.
    """
    if patterns.ndim != 3 or patterns.size == 0:
        raise ValueError(f"patterns must have shape (n, h, w), got {patterns.shape}.")
    if valid_pixel_mask is not None and valid_pixel_mask.shape != patterns.shape[1:]:
        raise ValueError(
            f"valid_pixel_mask must have the patterns' shape {patterns.shape[1:]}, "
            f"got {valid_pixel_mask.shape}."
        )
    with replacing(path, overwrite) as temporary, written(temporary) as file:
        put_patterns(
            file,
            patterns,
            valid_pixel_mask,
            frame_indexes,
            detector_pixel_sizes_m,
            probe_photon_counts,
        )


def put_patterns(
    file: h5py.File,
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None,
    frame_indexes: NDArray[np.int64] | None,
    detector_pixel_sizes_m: tuple[float, ...],
    probe_photon_counts: NDArray[np.float64] | None,
) -> None:
    """Write what ``write_diffraction`` writes into an open file."""
    frame_shape = patterns.shape[1:]
    numbers = np.arange(len(patterns)) if frame_indexes is None else frame_indexes
    valid = (
        np.ones(frame_shape, bool) if valid_pixel_mask is None else valid_pixel_mask.astype(bool)
    )
    data = file.create_dataset("dp", data=patterns, chunks=(1, *frame_shape), compression="gzip")
    height_m, width_m = detector_pixel_sizes_m or (1.0, 1.0)
    data.attrs.update(detector_pixel_width_m=width_m, detector_pixel_height_m=height_m)
    file["patterns"] = data
    file["indexes"] = np.asarray(numbers, dtype=np.int64)
    file["bad_pixels"] = ~valid
    if valid_pixel_mask is not None:
        file["valid_pixel_mask"] = valid
    if probe_photon_counts is not None and "probe_photon_counts" not in file:
        file["probe_photon_counts"] = probe_photon_counts


def _selected(parts: list[h5py.Dataset], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Frames in this order, of which those far from each other are read by themselves."""
    ordered = np.unique(rows)
    check_size(parts[0], -(-len(ordered) // math.prod(parts[0].shape[1:-2])))
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > FARTHEST) + 1)
    blocks = []
    for run in runs:
        block = _block(parts, int(run[0]), int(run[-1]) + 1)
        blocks.append(block if len(block) == len(run) else block[run - run[0]])
    frames = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return frames if np.array_equal(rows, ordered) else frames[np.searchsorted(ordered, rows)]


def _block(parts: list[h5py.Dataset], first: int, stop: int) -> NDArray[Any]:
    """Frames ``first`` to ``stop`` of the stacks taken together."""
    blocks, offset = [], 0
    for part in parts:
        n = _n_frames(part)
        start, end = max(first - offset, 0), min(max(stop - offset, 0), n)
        if start < end:
            each = n // len(part)  # frames of a row of a raster
            rows = slice(start // each, -(-end // each))
            block = read(part, rows).reshape(-1, *part.shape[-2:])
            blocks.append(block[start - each * rows.start : end - each * rows.start])
        offset += n
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _n_frames(part: h5py.Dataset) -> int:
    return math.prod(part.shape[:-2])


def on_last_axis(shape: tuple[int, ...], n_wanted: int) -> str:
    """What to say where as many frames are wanted as the last axis of a stack is long.

    Examples
    --------
    >>> on_last_axis((64, 64, 144), 144)
    '; its last axis is 144 long: store frames along the first one, np.moveaxis(stack, -1, 0)'
    """
    if len(shape) != 3 or shape[-1] != n_wanted:
        return ""
    return (
        f"; its last axis is {n_wanted} long: store frames along the first one, "
        "np.moveaxis(stack, -1, 0)"
    )


def numbered_rows(
    path: StrPath,
    numbers: NDArray[np.integer] | None,
    shape: tuple[int, ...],
    wanted: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Where in a stack of this shape the wanted frames are, by the numbers of its frames.

    Raises
    ------
    ValueError
        If there is not a number for each frame, or a frame is missing.
    """
    n_frames = shape[0]
    numbers = np.arange(n_frames) if numbers is None else numbers
    if numbers.shape != (n_frames,):
        raise ValueError(
            f"{path}: 'indexes' has shape {numbers.shape}; write one number for each of "
            f"the {n_frames} frames."
        )
    order = np.argsort(numbers)
    rows = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=n_frames - 1)]
    missing = wanted[numbers[rows] != wanted]
    if len(missing):
        raise ValueError(
            f"probe_position_indexes asks for {counted(len(wanted), 'frames')}, but "
            f"{path} holds {n_frames} and lacks {len(missing)} of them (the first: "
            f"{missing[0]}){on_last_axis(shape, len(wanted))}; remove these positions from the "
            "product or use the diffraction file that belongs to it."
        )
    return rows
