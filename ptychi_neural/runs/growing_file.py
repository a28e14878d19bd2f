"""A diffraction file that is looked at again and again while a scan is written to it."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.runs.frame_sources import BATCH_SIZE, Block, Look, Source
from ptychi_neural.scans.diffraction import PATTERNS, entry_of_patterns, pixel_mask
from ptychi_neural.scans.entries import entry_chosen
from ptychi_neural.scans.hdf5 import dataset
from ptychi_neural.scans.masks import telling
from ptychi_neural.scans.preparation import Preparation


class GrowingFile(Source):
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
        named = preparation.datasets
        self._file = file
        names = (named["patterns"],) if "patterns" in named else PATTERNS
        self._data = dataset(file, *names)
        if self._data.ndim != 3:
            raise ValueError(
                f"{file.filename}: patterns of shape {self._data.shape} cannot be followed; store "
                "them as (n, h, w)."
            )
        entry = entry_of_patterns(file, names)
        mask = pixel_mask(file, self.stored_shape, named.get("mask"), entry)
        super().__init__(preparation, telling(mask))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(h, w) of stored frames."""
        return tuple(self._data.shape[1:])

    def looks(
        self, every_s: float, timeout_s: float, stop: Callable[[], bool], near_field: bool
    ) -> Iterator[Look]:
        """Look at the file until it stops growing, and then once more at all of it.

        Frames that are still empty are looked at again the next time. Counts are repaired as those
        of a whole scan are. Where later frames show that earlier ones were broken, all of them come
        once more in the next look. They do so in the last look too, where what all of them tell is
        known: the mean counts, with which the probe's power is that of the whole scan.
        """
        data = self._data
        check = self._begun(np.zeros((1, *self.stored_shape), data.dtype))
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
                yield self._prepared(check, patterns[written], numbers, near_field)

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
        if n_read and not stop():
            check.begin_again()
            pending = list(range(n_seen))
            yield True, blocks()
        path = self._file.filename
        if self.told:
            warnings.warn(f"{path}: {', '.join(sorted(self.told))}.", stacklevel=2)
        if pending:
            empty = counted(len(pending), "frames without counts")
            warnings.warn(f"{path}: left out {empty}.", stacklevel=2)

    def _numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the frames in these rows."""
        if "indexes" not in self._file:
            return rows
        self._file["indexes"].refresh()
        return self._file["indexes"][rows].astype(np.int64)


@contextmanager
def opened(address: str | Path, preparation: Preparation, timeout_s: float) -> Iterator[Source]:
    """Open a file that is being written, which ``opened_source`` calls.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is none that can be followed.
    """
    import hdf5plugin  # noqa: F401  (registers the compression filters of detectors)

    path = Path(address)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; start the measurement, check the path.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is no HDF5 file: other formats are predicted when complete.")
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        with entry_chosen(preparation.told_entry, preparation.entry and path):
            source = GrowingFile(file, preparation)
        yield source
