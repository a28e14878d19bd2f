"""Where the frames of a scan that is being measured come from: a register of sources."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans import StreamedCounts
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.prepared_frames import cut, finished, pixel_numbers

BATCH_SIZE = 64
"""Frames that are taken at a time."""


class Block(NamedTuple):
    """Repaired frames, as they come."""

    numbers: NDArray[np.int64]
    """(n,) numbers of the frames."""

    patterns: NDArray[np.generic]
    """(n, h, w) their counts."""

    valid_pixel_mask: NDArray[np.bool_] | None
    """(h, w) True where the detector works, as far as is known; None: everywhere."""

    is_outdating: bool
    """Whether earlier frames should have been repaired otherwise, by what these show."""


Look = tuple[bool, Iterator[Block]]
"""Whether all frames come once more, and the frames."""


class Source(ABC):
    """Frames that come while a scan is measured.

    Parameters
    ----------
    preparation : Preparation
        How frames are stored or sent, and what is done to them.
    mask : ndarray, optional
        (h, w) True where the detector works, as the source tells it.

    Raises
    ------
    ValueError
        If the preparation needs all frames.
    """

    def __init__(self, preparation: Preparation, mask: NDArray[np.bool_] | None) -> None:
        for key in ("saturated_counts", "dark_counts"):
            if getattr(preparation, key) is not None:
                raise ValueError(
                    f"data.{key} needs all frames of a scan: leave it out while the scan is "
                    "followed, and name bad pixels by data.mask."
                )
        self.told: set[str] = set()
        """What was masked and dropped."""
        self.stop: Callable[[], bool] = lambda: False
        """It tells whether to wait no longer."""
        self._preparation = preparation
        self._mask = mask

    @property
    @abstractmethod
    def stored_shape(self) -> tuple[int, ...]:
        """(h, w) of frames as they are stored or sent."""

    @abstractmethod
    def looks(
        self, every_s: float, timeout_s: float, placed: Collection[int], near_field: bool
    ) -> Iterator[Look]:
        """Look for frames until no more come.

        Parameters
        ----------
        every_s : float
            Seconds between looks.
        timeout_s : float
            Seconds without a new frame after which the end is assumed.
        placed : collection of int
            Numbers of the frames that have a position. Others are left out.
        near_field : bool
            Whether frames have no direct beam.
        """

    def state_dict(self) -> dict[str, Any] | None:
        """What a source in another process goes on from; None where all frames come again."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, where that was not None."""
        raise NotImplementedError

    def begun(self, blank: NDArray[Any]) -> StreamedCounts:
        """The check of counts, from a (1, h, w) blank frame of the type of the others."""
        _, valid = cut(self._preparation, Diffraction(blank, self._mask))
        return StreamedCounts(valid, pixel_numbers(self._preparation, blank.shape[1:]))

    def prepared(
        self,
        check: StreamedCounts,
        patterns: NDArray[Any],
        numbers: NDArray[np.int64],
        placed: Collection[int],
        near_field: bool,
    ) -> Block:
        """Those of a block of frames that have a position, cut, repaired as a whole scan is, and
        oriented."""
        known = np.array([number in placed for number in numbers.tolist()], dtype=bool)
        patterns, numbers = patterns[known], numbers[known]
        cropped = cut(self._preparation, Diffraction(patterns, None))
        block = check.add(cropped.patterns, numbers)
        self.told.update(block.report)
        used = Diffraction(block.patterns, check.valid_pixel_mask)
        ready = finished(self._preparation, used, self.stored_shape, near_field)
        return Block(numbers[block.kept], *ready, check.outdated)


Opened = AbstractContextManager[Source]
"""A source that is closed in the end."""

Opener = Callable[[str, Preparation, float], Opened]
"""Opens the source of an address; it is given what is done to frames, and seconds to wait."""

_SOURCES: dict[str, str | Opener] = {
    "": "ptychi_neural.runs.growing_file",
    "tcp": "ptychi_neural.runs.zmq_frames",
    "ipc": "ptychi_neural.runs.zmq_frames",
    "pva": "ptychi_neural.runs.pva_frames",
}
"""What opens a source, or the module whose ``opened`` does, by the scheme of its addresses; that of
files is empty."""


def register_source(scheme: str) -> Callable[[Opener], Opener]:
    """Let a function open the sources whose addresses begin with ``scheme://``.

    Raises
    ------
    ValueError
        If there is such a source.
    """

    def register(opener: Opener) -> Opener:
        if scheme in _SOURCES:
            raise ValueError(f"there is a source {scheme}:// already; take another name.")
        _SOURCES[scheme] = opener
        return opener

    return register


def scheme_of(address: str) -> str:
    """The part of an address before ``://``; empty for a file.

    >>> scheme_of("tcp://127.0.0.1:9999"), scheme_of("scan.h5")
    ('tcp', '')
    """
    scheme, separator, _ = address.partition("://")
    return scheme if separator else ""


def opened_source(address: str | Path, preparation: Preparation, timeout_s: float) -> Opened:
    """Open a source of frames.

    Parameters
    ----------
    address : str or Path
        A file that is being written, or ``scheme://...`` of a source that is registered.
    preparation : Preparation
        How frames are stored or sent, and what is done to them.
    timeout_s : float
        Seconds to wait for the first frame of a source that is no file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such source, or it is none that can be followed.
    ImportError
        If the source needs an extra that is not installed.
    """
    scheme = scheme_of(str(address))
    if scheme not in _SOURCES:
        known = ", ".join(f"{name}://" for name in _SOURCES if name)
        raise ValueError(f"{address}: frames come from a file or from {known}.")
    found = _SOURCES[scheme]
    opener: Opener = importlib.import_module(found).opened if isinstance(found, str) else found
    return opener(str(address), preparation, timeout_s)
