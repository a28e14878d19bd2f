"""A diffraction file that is looked at again and again while a scan is written to it."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans import StreamedCounts
from ptychi_neural.scans.diffraction import PATTERNS, Diffraction, pixel_mask
from ptychi_neural.scans.hdf5 import dataset
from ptychi_neural.scans.masks import telling
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.prepared_frames import cut, finished

BATCH_SIZE = 64
"""Frames that are read at a time."""

Block = tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.bool_] | None]
"""Numbers of frames, their patterns, and the detector's mask as far as it is known."""

Look = tuple[bool, Iterator[Block]]
"""Whether all frames come once more, and the frames."""


class GrowingFile:
    """A file of counts (HDF5 SWMR) that is being written.

    Parameters
    ----------
    file : h5py.File
        The open file.
    preparation : Preparation
        How frames are stored, and what is done to them.

    Raises
    ------
    ValueError
        If the file has no patterns, or the preparation needs all of them.
    """

    def __init__(self, file: h5py.File, preparation: Preparation) -> None:
        for key in ("saturated_counts", "dark_counts"):
            if getattr(preparation, key) is not None:
                raise ValueError(
                    f"data.{key} needs all frames of a scan: leave it out while the scan is "
                    "followed, and name bad pixels by data.mask."
                )
        named = preparation.datasets
        self._file, self._preparation = file, preparation
        self._data = dataset(file, *((named["patterns"],) if "patterns" in named else PATTERNS))
        self._mask = telling(pixel_mask(file, self.stored_shape, named.get("mask")))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(h, w) of stored frames."""
        return tuple(self._data.shape[1:])

    def looks(
        self, every_s: float, timeout_s: float, stop: Callable[[], bool], near_field: bool
    ) -> Iterator[Look]:
        """Look at the file until it stops growing.

        Frames that are still empty are looked at again the next time. Counts are repaired as those
        of a whole scan are. Where later frames show that earlier ones were broken, all of them come
        once more in the next look.

        Parameters
        ----------
        every_s : float
            Seconds between looks.
        timeout_s : float
            Seconds without a new frame after which the file's end is assumed.
        stop : callable
            It tells whether to stop before that.
        near_field : bool
            Whether frames have no direct beam.
        """
        data = self._data
        blank = np.zeros((1, *self.stored_shape), data.dtype)
        check = StreamedCounts(cut(self._preparation, Diffraction(blank, self._mask))[1])
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
                numbers = self._numbers(batch[written])
                cropped = cut(self._preparation, Diffraction(patterns[written], None))
                block = check.add(cropped.patterns, numbers)
                told.update(block.report)
                used = Diffraction(block.patterns, check.valid_pixel_mask)
                ready = finished(self._preparation, used, self.stored_shape, near_field)
                yield numbers[block.kept], *ready

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
        path = self._file.filename
        if told:
            warnings.warn(f"{path}: {', '.join(sorted(told))}.", stacklevel=2)
        if pending:
            warnings.warn(f"{path}: {len(pending)} frames have no counts, left out.", stacklevel=2)

    def _numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the frames in these rows."""
        if "indexes" not in self._file:
            return rows
        self._file["indexes"].refresh()
        return self._file["indexes"][rows].astype(np.int64)


@contextmanager
def growing_file(path: Path, preparation: Preparation) -> Iterator[GrowingFile]:
    """Open a file that is being written.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is none that can be followed.
    """
    import hdf5plugin  # noqa: F401  (registers the compression filters of detectors)

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; start the measurement, check the path.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file: other formats are predicted when complete.")
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        yield GrowingFile(file, preparation)
