"""Frames that a detector sends over ZeroMQ, in the messages of the DECTRIS stream interface v1.

A scan is a header message (``dheader-1.0``), a message of several parts for each image
(``dimage-1.0`` with the number of the frame, ``dimage_d-1.0`` with shape, type and encoding, the
counts, and parts that are not read), and an end message (``dseries_end-1.0``); see the SIMPLON API
reference. Counts are plain (``<``), LZ4 blocks (``lz4<``) or bitshuffled LZ4 in the framing of its
HDF5 filter (``bs16-lz4<``). What does not fit the header is told and left out.
"""

import itertools
import json
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.runs.frame_sources import BATCH_SIZE, Block, Look, Source
from ptychi_neural.scans.preparation import Preparation

TYPES = {"uint8": "u1", "uint16": "u2", "uint32": "u4"}
"""Types of counts, without their order of bytes."""

LARGEST_MESSAGE = 2**28
"""Bytes of a part of a message, and of the counts in it, beyond which it is not received."""

BITSHUFFLE, WITH_LZ4 = 32008, 2
"""Number of the HDF5 filter, and its option."""

MOST_NAMED = 8
"""Frames that a message names one by one."""


class Image(NamedTuple):
    """The counts of a frame."""

    number: int
    """Number of the frame."""

    counts: NDArray[Any]
    """(h, w) counts."""


class ZmqFrames(Source):
    """Frames of one series of a detector.

    Parameters
    ----------
    address : str
        Of the sender.
    socket : zmq.Socket
        Connected to it.
    preparation : Preparation
        What is done to frames.
    timeout_s : float
        Seconds to wait for the first frame.

    Raises
    ------
    ValueError
        If no frame comes, or the preparation needs all of them.
    """

    def __init__(
        self, address: str, socket: Any, preparation: Preparation, timeout_s: float
    ) -> None:
        super().__init__(preparation, None)
        self._address, self._socket = address, socket
        self._series: int | None = None
        self._shape: tuple[int, int] | None = None
        self._dtype: np.dtype | None = None
        self._n_expected: int | None = None
        self._seen: set[int] = set()
        self._ended = False
        self._refused: dict[str, int] = {}
        self._first: list[Image] = []
        end = time.monotonic() + timeout_s
        while not self._first and not self._ended and time.monotonic() < end:
            self._first = self._received(1, end)
        if not self._first:
            self._tell()
            raise ValueError(
                f"{address}: no frame came within {timeout_s:g} s; start the detector after this "
                "command, check the address, or give a longer --timeout."
            )

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(h, w) of the frames that are sent."""
        return tuple(self._first[0].counts.shape)

    def looks(
        self, every_s: float, timeout_s: float, stop: Callable[[], bool], near_field: bool
    ) -> Iterator[Look]:
        """Give the frames that have come, until the series ends.

        After its end frames that were overtaken are waited for, ``every_s`` at a time. Frames do
        not come again: where later ones show that earlier ones were broken, this is told.
        """
        check = self._begun(self._first[0].counts[None])
        images = self._first
        last_arrival = time.monotonic()

        def blocks() -> Iterator[Block]:
            for first in range(0, len(images), BATCH_SIZE):
                some = images[first : first + BATCH_SIZE]
                numbers = np.array([image.number for image in some], np.int64)
                counts = np.stack([image.counts for image in some])
                yield self._prepared(check, counts, numbers, near_field)

        while not stop():
            if images:
                last_arrival = time.monotonic()
                yield False, blocks()
            elif self._ended or time.monotonic() - last_arrival >= timeout_s:
                break
            if self._n_expected is not None and len(self._seen) >= self._n_expected:
                break
            images = self._received(16 * BATCH_SIZE, time.monotonic() + min(every_s, timeout_s))
        if check.outdated:
            self.told.add(
                "frames that came earlier were taken in with pixels that turned out to be broken, "
                "or do not belong: name bad pixels by data.mask, and predict the stored scan"
            )
        self._tell()

    def _received(self, most: int, end: float) -> list[Image]:
        """New images of the messages that come until a time."""
        images: list[Image] = []
        while len(images) < most and (left := end - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(1e3 * left))):
                break
            try:
                image = self._read(self._socket.recv_multipart())
            except _Refused as error:
                self._refused[str(error)] = self._refused.get(str(error), 0) + 1
                continue
            if image is not None:
                images.append(image)
        return images

    def _read(self, parts: list[bytes]) -> Image | None:
        """The image of a message; None where it holds none, or one that came before."""
        kind = _description(parts[0]).get("htype")
        if kind == "dheader-1.0":
            self._begin(parts)
            return None
        if kind not in ("dimage-1.0", "dseries_end-1.0"):
            raise _Refused("messages of a kind that is not known")
        of_message = _description(parts[0])
        if self._series is None:
            raise _Refused("messages before the header of a series")
        if _whole(of_message, "series") != self._series:
            raise _Refused("messages of another series")
        if kind == "dseries_end-1.0":
            self._ended = True
            return None
        if len(parts) < 3:
            raise _Refused("images with missing parts")
        number = _whole(of_message, "frame")
        if self._n_expected is not None and number >= self._n_expected:
            raise _Refused("images with a number beyond that of the header")
        if number in self._seen:
            return None
        counts = self._counts(_description(parts[1]), parts[2])
        self._seen.add(number)
        return Image(number, counts)

    def _begin(self, parts: list[bytes]) -> None:
        """Take up what the header of a series tells of it."""
        header = _description(parts[0])
        series = _whole(header, "series")
        if self._series is not None:
            raise _Refused("headers after the first")
        details = _description(parts[1]) if len(parts) > 1 else {}
        height, width = (details.get(f"{axis}_pixels_in_detector") for axis in "yx")
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            self._shape = (height, width)
        n_images, n_triggers = details.get("nimages"), details.get("ntrigger", 1)
        if isinstance(n_images, int) and isinstance(n_triggers, int):
            self._n_expected = max(n_images * n_triggers, 0) or None
        self._series = series

    def _counts(self, details: dict[str, Any], data: bytes) -> NDArray[Any]:
        """(h, w) counts, whose size is the header's, or that of the first image."""
        encoding, kind = str(details.get("encoding")), TYPES.get(str(details.get("type")))
        if details.get("htype") != "dimage_d-1.0" or kind is None or encoding[-1:] not in "<>":
            raise _Refused("images of a type or encoding that is not known")
        dtype = np.dtype(encoding[-1] + kind)
        sides = details.get("shape")
        if not (
            isinstance(sides, list)
            and len(sides) == 2
            and all(isinstance(side, int) and side > 0 for side in sides)
        ):
            raise _Refused("images without a shape")
        shape = (sides[1], sides[0])  # The stream gives the width first.
        size = shape[0] * shape[1] * dtype.itemsize
        if (self._shape or shape) != shape or (self._dtype or dtype) != dtype:
            raise _Refused("images of another shape or type than the header or the first image")
        if size > LARGEST_MESSAGE:
            raise _Refused("images that are too large")
        plain = _decoded(encoding[:-1], data, shape, dtype)
        self._shape, self._dtype = shape, dtype
        counts = np.frombuffer(plain, dtype).reshape(shape)
        return counts.astype(dtype.newbyteorder("="), copy=False)

    def _tell(self) -> None:
        told = [*sorted(self.told)]
        told += [f"left out {n} {what}" for what, n in sorted(self._refused.items())]
        if self._seen:
            n = max(self._seen) + 1 if self._n_expected is None else self._n_expected
            if n > len(self._seen):
                missing = (str(k) for k in range(n) if k not in self._seen)
                named = ", ".join(itertools.islice(missing, MOST_NAMED))
                more = " ..." if n - len(self._seen) > MOST_NAMED else ""
                told.append(f"{n - len(self._seen)} frames never came: {named}{more}")
        if told:
            warnings.warn(f"{self._address}: {', '.join(told)}.", stacklevel=3)


class _Refused(Exception):
    """A message that is left out; its text says what kind of messages these are."""


def _description(part: bytes) -> dict[str, Any]:
    """A part that is a JSON object."""
    try:
        description = json.loads(part)
    except (ValueError, RecursionError) as error:
        raise _Refused("messages that are no JSON") from error
    if not isinstance(description, dict):
        raise _Refused("messages that are no JSON objects")
    return description


def _whole(description: dict[str, Any], key: str) -> int:
    value = description.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise _Refused(f"messages without a number as {key!r}")
    return value


def _decoded(encoding: str, data: bytes, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The bytes of (h, w) counts, of exactly the size that they must have."""
    size = shape[0] * shape[1] * dtype.itemsize
    plain = data
    if encoding == "lz4":
        import lz4.block

        try:
            plain = lz4.block.decompress(data, uncompressed_size=size)
        except lz4.block.LZ4BlockError as error:
            raise _Refused("images that cannot be decompressed") from error
    elif encoding == f"bs{8 * dtype.itemsize}-lz4":
        plain = _unshuffled(data, shape, dtype)
    elif encoding:
        raise _Refused("images of a type or encoding that is not known")
    if len(plain) != size:
        raise _Refused("images with more or fewer counts than their shape has")
    return plain


def _unshuffled(data: bytes, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """Counts that the HDF5 filter of bitshuffle decompresses, in a file in memory.

    The filter trusts the lengths that the data tell: these are checked before.
    """
    import hdf5plugin  # noqa: F401  (registers the filter)

    size = shape[0] * shape[1] * dtype.itemsize
    if len(data) < 12 or struct.unpack(">Q", data[:8])[0] != size:
        raise _Refused("images with more or fewer counts than their shape has")
    block = struct.unpack(">I", data[8:12])[0]
    multiple = 8 * dtype.itemsize
    if block == 0 or block % multiple:
        raise _Refused("images that cannot be decompressed")
    full, rest = divmod(size, block)
    n_blocks = full + (rest >= multiple)  # Less than eight counts are left as they are.
    place = 12
    for _ in range(n_blocks):
        if place + 4 > len(data):
            raise _Refused("images that cannot be decompressed")
        place += 4 + struct.unpack(">I", data[place : place + 4])[0]
    if place + rest % multiple != len(data):
        raise _Refused("images that cannot be decompressed")
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        compression: Any = {"compression": BITSHUFFLE, "compression_opts": (0, WITH_LZ4)}
        counts = file.create_dataset("counts", shape, dtype, chunks=shape, **compression)
        counts.id.write_direct_chunk((0, 0), data)
        try:
            return bytes(counts[()].tobytes())
        except OSError as error:
            raise _Refused("images that cannot be decompressed") from error


@contextmanager
def opened(address: str | Path, preparation: Preparation, timeout_s: float) -> Iterator[Source]:
    """Connect to a sender, which ``opened_source`` calls.

    Raises
    ------
    ImportError
        If the extra ``zmq`` is not installed.
    ValueError
        If the address is none, or no frame comes.
    """
    try:
        import lz4.block  # noqa: F401
        import zmq
    except ImportError as error:
        raise ImportError(
            f"{address}: frames over ZeroMQ need pyzmq and lz4: pip install '.[zmq]'."
        ) from error
    with zmq.Context() as context, context.socket(zmq.PULL) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        try:
            socket.connect(str(address))
        except zmq.ZMQError as error:
            raise ValueError(f"{address}: is no address to connect to ({error}).") from error
        yield ZmqFrames(str(address), socket, preparation, timeout_s)
