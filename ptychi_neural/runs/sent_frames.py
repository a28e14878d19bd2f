"""Frames that a detector sends one by one, and does not send again."""

import time
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.engine.state_files import with_arrays, with_tensors
from ptychi_neural.runs.frame_sources import BATCH_SIZE, Block, Look, Source
from ptychi_neural.scans import StreamedCounts
from ptychi_neural.scans.preparation import Preparation

LARGEST_IMAGE = 2**28
"""Bytes of the counts of a frame beyond which they are not taken."""

SOON_S = 0.5
"""Seconds after which a signal to stop is heard."""

MOST_NAMED = 8
"""Frames that a message names one by one."""

ALIKE = 3
"""Images of one shape and type that decide what a frame is where nothing else tells it."""

MOST_UNDECIDED = 16
"""Images after which that is decided by most of them."""


class Image(NamedTuple):
    """The counts of a frame."""

    number: int
    """Number of the frame."""

    counts: NDArray[Any]
    """(h, w) counts."""


class Refused(Exception):
    """A message that is left out; its text says what kind of messages these are."""


class SentFrames(Source):
    """Frames of one series of a detector.

    Parameters
    ----------
    address : str
        Of the sender.
    preparation : Preparation
        What is done to frames.
    timeout_s : float
        Seconds to wait for the first frame.

    Raises
    ------
    ValueError
        If the preparation needs all frames.
    """

    def __init__(self, address: str, preparation: Preparation, timeout_s: float) -> None:
        super().__init__(preparation, None)
        self._address, self._timeout_s = address, timeout_s
        self._shape: tuple[int, int] | None = None
        self._dtype: np.dtype | None = None
        self._n_expected: int | None = None
        self._seen: set[int] = set()
        self._ended = False
        self._refused: dict[str, int] = {}
        self._images: list[Image] = []
        self._undecided: list[Image] = []
        self._placed: frozenset[int] | None = None
        self._check: StreamedCounts | None = None

    @abstractmethod
    def _next(self, left_s: float) -> Any | None:
        """The next message; None where none comes within a time."""

    @abstractmethod
    def _read(self, message: Any) -> list[Image]:
        """The new images that a message lets pass.

        Raises
        ------
        Refused
            If it is left out.
        """

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(h, w) of the frames that are sent, the first of which is waited for.

        Raises
        ------
        ValueError
            If no frame comes.
        KeyboardInterrupt
            If it was told to stop before.
        """
        end = time.monotonic() + self._timeout_s
        while not self._seen and not self._ended and (now := time.monotonic()) < end:
            if self.stop():
                raise KeyboardInterrupt
            self._images += self._received(1, min(end, now + SOON_S))
        self._images += self._decided(fewest=1)
        if self._shape is None or not self._seen:
            self._tell()
            raise ValueError(
                f"{self._address}: no frame came within {self._timeout_s:g} s; start the detector "
                "after this command, check the address, or give a longer --timeout."
            )
        return self._shape

    def looks(
        self, every_s: float, timeout_s: float, placed: Collection[int], near_field: bool
    ) -> Iterator[Look]:
        """Give the frames that have come, until the series ends or all of them are there.

        After its end frames that were overtaken are waited for, ``every_s`` at a time. Frames do
        not come again: where later ones show that earlier ones were broken, this is told.
        """
        shape, self._placed = self.stored_shape, frozenset(placed)
        if self._check is None:
            self._check = self.begun(np.zeros((1, *shape), self._dtype))
        check = self._check
        images, self._images = self._images, []
        last_arrival = time.monotonic()

        def blocks() -> Iterator[Block]:
            for first in range(0, len(images), BATCH_SIZE):
                some = images[first : first + BATCH_SIZE]
                numbers = np.array([image.number for image in some], np.int64)
                counts = np.stack([image.counts for image in some])
                yield self.prepared(check, counts, numbers, placed, near_field)

        while not self.stop():
            if images:
                last_arrival = time.monotonic()
            elif self._ended or time.monotonic() - last_arrival >= timeout_s:
                break
            yield False, blocks()
            if next(self._missing(), None) is None:
                break
            images = self._received(16 * BATCH_SIZE, time.monotonic() + min(every_s, timeout_s))
        if check.outdated:
            self.told.add(
                "frames that came earlier were taken in with pixels that turned out to be broken, "
                "or do not belong: name bad pixels by data.mask, and predict the stored scan"
            )
        self._tell()

    def state_dict(self) -> dict[str, Any] | None:
        if self._shape is None or self._dtype is None or self._check is None:
            return None
        return {
            "shape": list(self._shape),
            "type": self._dtype.str,
            "n_expected": self._n_expected,
            "seen": torch.tensor(sorted(self._seen), dtype=torch.int64),
            "ended": self._ended,
            "told": sorted(self.told),
            "refused": self._refused,
            "check": with_tensors(self._check.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        height, width = state["shape"]
        self._shape, self._dtype = (height, width), np.dtype(state["type"])
        self._n_expected, self._ended = state["n_expected"], state["ended"]
        self._seen = set(state["seen"].tolist())
        self.told, self._refused = set(state["told"]), dict(state["refused"])
        self._check = self.begun(np.zeros((1, *self._shape), self._dtype))
        self._check.load_state_dict(with_arrays(state["check"]))

    def _received(self, most: int, end: float) -> list[Image]:
        """New images of the messages that come until a time."""
        images: list[Image] = []
        while len(images) < most and (left_s := end - time.monotonic()) > 0:
            message = self._next(left_s)
            if message is None:
                break
            try:
                new = self._read(message)
            except Refused as error:
                self._leave_out(str(error))
                continue
            if self._dtype is None:
                self._undecided += new
                new = self._decided(ALIKE if self._n_expected is None else self._n_expected)
            self._seen.update(image.number for image in new)
            images += new
        return images

    def _decided(self, fewest: int) -> list[Image]:
        """The first images, once so many of them are alike or enough have come: those of the shape
        and type of most, so that no odd one decides what a frame is."""
        kinds = Counter((image.counts.shape, image.counts.dtype) for image in self._undecided)
        if self._dtype is not None or not kinds:
            return []
        kind, n_alike = kinds.most_common(1)[0]
        if n_alike < min(fewest, ALIKE) and len(self._undecided) < MOST_UNDECIDED:
            return []
        self._shape, self._dtype = kind
        waited, self._undecided = self._undecided, []
        images: dict[int, Image] = {}
        for image in waited:
            try:
                self._check_like_others(image.counts.shape, image.counts.dtype)
            except Refused as error:
                self._leave_out(str(error))
            else:
                images.setdefault(image.number, image)
        self._seen.update(images)
        return list(images.values())

    def _has_position(self, number: int) -> bool:
        """Whether a frame has a position, as far as is known yet."""
        return self._placed is None or number in self._placed

    def _missing(self) -> Iterator[int]:
        """Numbers of the frames that have a position and have not come, but may; in any order."""
        end = np.inf if self._n_expected is None else self._n_expected
        return (n for n in (self._placed or ()) if n < end and n not in self._seen)

    def _leave_out(self, what: str) -> None:
        """Count a message that is left out."""
        self._refused[what] = self._refused.get(what, 0) + 1

    def _check_like_others(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Refuse images that are not as the header says, or as most of the first images are."""
        others = self._shape or shape, self._dtype or dtype
        if others != (shape, dtype):
            raise Refused("images of another shape or type than the header or the first images")
        if int(np.prod(shape)) * dtype.itemsize > LARGEST_IMAGE:
            raise Refused("images of too large a size")

    def _tell(self) -> None:
        told = [*sorted(self.told)]
        told += [f"left out {counted(n, what)}" for what, n in sorted(self._refused.items())]
        if missing := sorted(self._missing()):
            told.append(f"{counted(len(missing), 'frames')} never came: {_named(missing)}")
        if unplaced := sorted(n for n in self._seen if not self._has_position(n)):
            what = counted(len(unplaced), "frames")
            told.append(f"left out {what} whose number has no position: {_named(unplaced)}")
        if told:
            warnings.warn(f"{self._address}: {', '.join(told)}.", stacklevel=3)


def _named(numbers: list[int]) -> str:
    """The first of some numbers."""
    more = " ..." if len(numbers) > MOST_NAMED else ""
    return ", ".join(map(str, numbers[:MOST_NAMED])) + more
