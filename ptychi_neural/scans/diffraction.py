"""Diffraction HDF5: (n, h, w) counts with DC at the image centre, and the detector's mask.

Patterns are looked for under ``dp`` (pty-chi), ``patterns`` (ptychodus) and
``entry_1/data_1/data`` (CXI, Maia, Nature Methods 9, 854 (2012)).
"""

from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.scans.hdf5 import StrPath, dataset, opened, replacing

PATTERNS = ("dp", "patterns", "entry_1/data_1/data")
VALID_PIXELS = ("valid_pixel_mask",)
BAD_PIXELS = ("bad_pixels", "entry_1/instrument_1/detector_1/mask")


class Diffraction(NamedTuple):
    """What a diffraction file holds."""

    patterns: NDArray[np.generic]
    """(n, h, w) counts as stored."""

    valid_pixel_mask: NDArray[np.bool_] | None
    """(h, w), True where the detector works; None where the file has no mask."""


def read_diffraction(path: StrPath, frame_indexes: ArrayLike | None = None) -> Diffraction:
    """Read patterns and mask.

    Parameters
    ----------
    path : path
        The HDF5 file.
    frame_indexes : array_like of int, optional
        (n,) the frames to read, in this order; frames are numbered by the dataset ``indexes``
        where the file has one (as ptychodus writes it), otherwise from 0. None: all of them.

    Returns
    -------
    Diffraction
        The patterns in the stored type, and the mask.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file, a dataset or a frame is missing, or a shape is wrong.
    """
    with opened(path) as file:
        data = dataset(file, *PATTERNS)
        if data.ndim != 3 or 0 in data.shape or data.dtype.kind not in "uif":
            raise ValueError(
                f"{path}: patterns must be real numbers of shape (n, h, w), got {data.dtype} of "
                f"shape {data.shape}; store counts as one stack of 2D images."
            )
        mask = pixel_mask(file)
        if mask is not None and mask.shape != data.shape[1:]:
            raise ValueError(
                f"{path}: the pixel mask has shape {mask.shape}, patterns {data.shape[1:]}; "
                "crop or bin the mask along with the patterns."
            )
        if frame_indexes is None:
            return Diffraction(data[()], mask)
        rows = _rows(file, len(data), np.asarray(frame_indexes, dtype=np.int64))
        first = int(rows.min())
        block = data[first : int(rows.max()) + 1]
        contiguous = np.array_equal(rows, np.arange(first, first + len(block)))
        return Diffraction(block if contiguous else block[rows - first], mask)


def write_diffraction(
    path: StrPath,
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None = None,
    overwrite: bool = False,
) -> None:
    """Write counts as dataset ``dp``, compressed, and the mask as ``valid_pixel_mask``.

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
    with replacing(path, overwrite) as temporary, h5py.File(temporary, "w") as file:
        frame = (1, *patterns.shape[1:])
        file.create_dataset("dp", data=patterns, chunks=frame, compression="gzip")
        if valid_pixel_mask is not None:
            file.create_dataset("valid_pixel_mask", data=valid_pixel_mask.astype(bool))


def pixel_mask(file: h5py.File) -> NDArray[np.bool_] | None:
    """(h, w) True where the detector works; None where the file has no mask."""
    for name in VALID_PIXELS:
        if name in file:
            return np.asarray(file[name][()] != 0)
    for name in BAD_PIXELS:
        if name in file:
            return np.asarray(file[name][()] == 0)
    return None


def _rows(file: h5py.File, n_frames: int, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in the stack the wanted frames are."""
    numbers = file["indexes"][()] if "indexes" in file else np.arange(n_frames)
    order = np.argsort(numbers)
    rows = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=n_frames - 1)]
    missing = wanted[numbers[rows] != wanted]
    if len(missing):
        raise ValueError(
            f"probe_position_indexes asks for {len(wanted)} frames, but {file.filename} holds "
            f"{n_frames} and lacks {len(missing)} of them (the first: {missing[0]}); remove "
            "these positions from the product or use the diffraction file that belongs to it."
        )
    return rows
