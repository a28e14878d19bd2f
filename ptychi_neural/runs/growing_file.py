"""A diffraction file that is looked at again and again while a scan is written to it."""

import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans import StreamedCounts
from ptychi_neural.scans.diffraction import PATTERNS, pixel_mask
from ptychi_neural.scans.hdf5 import dataset

BATCH_SIZE = 64
"""Frames that are read at a time."""

Block = tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.bool_] | None]
"""Numbers of frames, their patterns, and the detector's mask as far as it is known."""

Look = tuple[bool, Iterator[Block]]
"""Whether all frames come once more, and the frames."""


def looks(
    path: str | Path, every_s: float, timeout_s: float, stop: Callable[[], bool]
) -> Iterator[Look]:
    """Look at a growing file (HDF5 SWMR) until it stops growing.

    Frames that are still empty are looked at again the next time. Counts are repaired as those of
    a whole scan are. Where later frames show that earlier ones were broken, all of them come once
    more in the next look.

    Parameters
    ----------
    path : str or Path
        HDF5 file of counts.
    every_s : float
        Seconds between looks.
    timeout_s : float
        Seconds without a new frame after which the file's end is assumed.
    stop : callable
        It tells whether to stop before that.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; start the measurement, check the path.")
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        data, mask = dataset(file, *PATTERNS), pixel_mask(file)
        check = StreamedCounts(None if mask is None or mask.all() else mask)
        told: set[str] = set()
        pending: list[int] = []
        n_seen = n_read = 0
        last_growth = time.monotonic()

        def blocks() -> Iterator[Block]:
            nonlocal pending, n_read
            rows, pending = pending, []
            for first in range(0, len(rows), BATCH_SIZE):
                batch = np.array(rows[first : first + BATCH_SIZE])
                patterns = data[batch]
                # Rows can be seen before their frames are written.
                written = patterns.any(axis=(1, 2))
                pending += batch[~written].tolist()
                n_read += int(written.sum())
                numbers = _numbers(file, batch[written])
                block = check.add(patterns[written], numbers)
                told.update(block.report)
                yield numbers[block.kept], block.patterns, check.valid_pixel_mask

        while check.outdated or (not stop() and time.monotonic() - last_growth < timeout_s):
            anew = check.outdated
            if anew:
                check.begin_again()
                n_seen, pending = 0, []
            data.refresh()
            pending += range(n_seen, len(data))
            n_seen, n_before = len(data), n_read
            yield anew, blocks()
            if check.outdated:
                continue
            if n_read > n_before:
                last_growth = time.monotonic()
            time.sleep(min(every_s, timeout_s))
        if told:
            warnings.warn(f"{path}: {', '.join(sorted(told))}.", stacklevel=2)
        if pending:
            warnings.warn(f"{path}: {len(pending)} frames have no counts, left out.", stacklevel=2)


def _numbers(file: h5py.File, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the frames in these rows."""
    if "indexes" not in file:
        return rows
    file["indexes"].refresh()
    return file["indexes"][rows].astype(np.int64)
