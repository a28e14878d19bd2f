"""A diffraction file that is looked at again and again while a scan is written to it."""

import os
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ptychi_neural.counted import counted
from ptychi_neural.runs.frame_sources import BATCH_SIZE, Block, Look, Source
from ptychi_neural.scans.diffraction import (
    PATTERNS,
    check_stack,
    entry_of_patterns,
    pixel_mask,
)
from ptychi_neural.scans.entries import entry_chosen
from ptychi_neural.scans.hdf5 import damage_told, dataset, frame_numbers
from ptychi_neural.scans.masks import telling
from ptychi_neural.scans.preparation import Preparation

CUT_OFF = "it was cut off, or written anew while it was followed"


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
        self._file, self._place = file, _place(file)
        names = (named["patterns"],) if "patterns" in named else PATTERNS
        self._data = dataset(file, *names)
        self._indexes = dataset(file, "indexes") if "indexes" in file else None
        check_stack(self._data)
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
        self, every_s: float, timeout_s: float, placed: Collection[int], near_field: bool
    ) -> Iterator[Look]:
        """Look at the file until it stops growing, and then once more at all of it.

        Frames that are still empty, or have no number yet, are looked at again the next time.
        Counts are repaired as those of a whole scan are. Where later frames show that earlier ones
        were broken, all of them come once more in the next look. They do so in the last look too,
        where what all of them tell is known: the mean counts, with which the probe's power is that
        of the whole scan. Where frames have other counts then, because they had been read while
        they were written, all of them come anew until they have not.

        Raises
        ------
        ValueError
            If something in the file cannot be read, or frames that it had are gone.
        """
        data, path = self._data, self._file.filename
        blank = np.zeros((1, *self.stored_shape), data.dtype)
        check = self.begun(blank)
        pending: list[int] = []
        read: dict[int, float] = {}  # Rows, and their counts as they are in the file.
        n_seen = 0
        last_growth = time.monotonic()

        def blocks() -> Iterator[Block]:
            nonlocal pending
            rows, pending = pending, []
            for first in range(0, len(rows), BATCH_SIZE):
                batch = np.array(rows[first : first + BATCH_SIZE])
                with damage_told(path):
                    n_numbered = self._n_numbered()
                    patterns = data[batch]
                    # Rows can be seen before their frames are written.
                    ready = patterns.any(axis=(1, 2)) & (batch < n_numbered)
                    is_other = patterns.shape[1:] != blank.shape[1:]
                    if is_other or not read.keys().isdisjoint(batch[~ready].tolist()):
                        raise ValueError(f"{path} has lost frames: {CUT_OFF}.")
                    numbers = batch[ready]
                    if self._indexes is not None and len(numbers):
                        numbers = frame_numbers(self._indexes, numbers)
                    block = self.prepared(check, patterns[ready], numbers, placed, near_field)
                pending += batch[~ready].tolist()
                for row, pattern in zip(batch[ready].tolist(), patterns[ready]):
                    read[row] = float(np.nansum(pattern, dtype=np.float64))
                yield block

        while check.outdated or (not self.stop() and time.monotonic() - last_growth < timeout_s):
            anew = check.outdated
            if anew:
                check.begin_again()
                n_seen, pending = 0, []
            with damage_told(path):
                data.refresh()
            if len(data) < len(read):
                raise ValueError(f"{path} has fewer frames than before: {CUT_OFF}.")
            pending += range(n_seen, len(data))
            n_seen, n_before = len(data), len(read)
            yield anew, blocks()
            if check.outdated:
                continue
            if len(read) > n_before:
                last_growth = time.monotonic()
            time.sleep(min(every_s, timeout_s))
        known, is_renewed = check.light, False
        check.begin_again()
        while read and not self.stop():
            pending, before = list(range(n_seen)), dict(read)
            yield True, blocks()
            light = check.light
            # What seemed to be a missing module may have been filled.
            if not check.outdated and np.array_equal(light, known) and read == before:
                break
            known = np.zeros(0) if check.outdated else light
            if check.outdated or is_renewed:
                check.begin_again()
            else:
                check, is_renewed = self.begun(blank), True
        if _place(self._file) != self._place:
            self.told.add(
                "was renamed, removed or replaced while it was followed: the result is that of "
                "the file that had been opened"
            )
        if pending:
            what = "frames without counts" + ("" if self._indexes is None else " or a number")
            self.told.add(f"left out {counted(len(pending), what)}")
        if self.told:
            warnings.warn(f"{path}: {', '.join(sorted(self.told))}.", stacklevel=2)

    def _n_numbered(self) -> float:
        """As many frames as have a number."""
        if self._indexes is None:
            return np.inf
        self._indexes.refresh()
        return self._indexes.shape[0] if self._indexes.ndim else 0


def _place(file: h5py.File) -> tuple[int, int] | None:
    """Where the disk has the file of this name."""
    try:
        found = os.stat(file.filename)
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
    try:
        file = h5py.File(path, "r", libver="latest", swmr=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be followed ({error}): a file that is being written has to be in SWMR "
            "mode (h5py: libver='latest', then swmr_mode = True). Others are predicted when "
            "complete."
        ) from error
    with file:
        with (
            damage_told(path),
            entry_chosen(preparation.told_entry, preparation.entry and path),
        ):
            source = GrowingFile(file, preparation)
        yield source
