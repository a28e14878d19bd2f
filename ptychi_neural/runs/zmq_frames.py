"""Frames that a detector sends over ZeroMQ, in the messages of the DECTRIS stream interface v1.

A scan is a header message (``dheader-1.0``), a message of several parts for each image
(``dimage-1.0`` with the number of the frame, ``dimage_d-1.0`` with shape, type and encoding, the
counts, and parts that are not read), and an end message (``dseries_end-1.0``); see the SIMPLON API
reference. Counts are plain (``<``), LZ4 blocks (``lz4<``) or bitshuffled LZ4 in the framing of its
HDF5 filter (``bs16-lz4<``). What does not fit the header is told and left out. A sender that was
started anew goes on with the series, and the header of another series ends it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.runs.frame_sources import Source
from ptychi_neural.runs.sent_counts import unpacked, unshuffled
from ptychi_neural.runs.sent_frames import LARGEST_IMAGE, Image, Refused, SentFrames
from ptychi_neural.scans.preparation import Preparation

TYPES = {"uint8": "u1", "uint16": "u2", "uint32": "u4"}
"""Types of counts, without their order of bytes."""


class ZmqFrames(SentFrames):
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
        If the preparation needs all frames.
    """

    def __init__(
        self, address: str, socket: Any, preparation: Preparation, timeout_s: float
    ) -> None:
        super().__init__(address, preparation, timeout_s)
        self._socket = socket
        self._series: int | None = None

    def state_dict(self) -> dict[str, Any] | None:
        state = super().state_dict()
        return None if state is None else state | {"series": self._series}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._series = state["series"]

    def _next(self, left_s: float) -> list[bytes] | None:
        if not self._socket.poll(max(1, int(1e3 * left_s))):
            return None
        parts: list[bytes] = self._socket.recv_multipart()
        return parts

    def _read(self, parts: list[bytes]) -> list[Image]:
        kind = _description(parts[0]).get("htype")
        if kind == "dheader-1.0":
            self._begin(parts)
            return []
        if kind not in ("dimage-1.0", "dseries_end-1.0"):
            raise Refused("messages of a kind that is not known")
        of_message = _description(parts[0])
        if self._series is None:
            raise Refused("messages before the header of a series")
        if _whole(of_message, "series") != self._series:
            raise Refused("messages of another series")
        if kind == "dseries_end-1.0":
            self._ended = True
            return []
        if len(parts) < 3:
            raise Refused("images with missing parts")
        number = _whole(of_message, "frame")
        if self._n_expected is not None and number >= self._n_expected:
            raise Refused("images with a number beyond that of the header")
        if number in self._seen:
            return []
        return [Image(number, self._counts(_description(parts[1]), parts[2]))]

    def _begin(self, parts: list[bytes]) -> None:
        """Take up what the header of a series tells of it.

        That of the same series comes again from a sender that has been started anew, which changes
        nothing. That of another one ends the series.
        """
        header = _description(parts[0])
        series = _whole(header, "series")
        if self._series is not None:
            if series != self._series:
                self._ended = True
                self.told.add(f"series {series} began, which ends series {self._series}")
            return
        details = _description(parts[1]) if len(parts) > 1 else {}
        height, width = (details.get(f"{axis}_pixels_in_detector") for axis in "yx")
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            self._shape = (height, width)
        n_images, n_triggers = details.get("nimages"), details.get("ntrigger", 1)
        if type(n_images) is int and type(n_triggers) is int:  # not true
            self._n_expected = max(n_images * n_triggers, 0) or None
        self._series = series

    def _counts(self, details: dict[str, Any], data: bytes) -> NDArray[Any]:
        """(h, w) counts, whose size is the header's, or that of most of the first images."""
        encoding, kind = str(details.get("encoding")), TYPES.get(str(details.get("type")))
        if details.get("htype") != "dimage_d-1.0" or kind is None or encoding[-1:] not in "<>":
            raise Refused("images of a type or encoding that is not known")
        dtype = np.dtype(encoding[-1] + kind)
        sides = details.get("shape")
        if not (
            isinstance(sides, list)
            and len(sides) == 2
            and all(isinstance(side, int) and side > 0 for side in sides)
        ):
            raise Refused("images without a shape")
        shape = (sides[1], sides[0])  # The stream gives the width first.
        self._check_like_others(shape, dtype.newbyteorder("="))
        plain = _decoded(encoding[:-1], data, shape, dtype)
        counts = np.frombuffer(plain, dtype).reshape(shape)
        return counts.astype(dtype.newbyteorder("="), copy=False)


def _description(part: bytes) -> dict[str, Any]:
    """A part that is a JSON object."""
    try:
        description = json.loads(part)
    except (ValueError, RecursionError) as error:
        raise Refused("messages other than JSON") from error
    if not isinstance(description, dict):
        raise Refused("messages other than JSON objects")
    return description


def _whole(description: dict[str, Any], key: str) -> int:
    value = description.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise Refused(f"messages without a number as {key!r}")
    return value


def _decoded(encoding: str, data: bytes, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The bytes of (h, w) counts, of exactly the size that they must have."""
    plain = data
    if encoding == "lz4":
        plain = unpacked(data, shape, dtype)
    elif encoding == f"bs{8 * dtype.itemsize}-lz4":
        plain = unshuffled(data, shape, dtype)
    elif encoding:
        raise Refused("images of a type or encoding that is not known")
    if len(plain) != shape[0] * shape[1] * dtype.itemsize:
        raise Refused("images with more or fewer counts than their shape has")
    return plain


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
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_IMAGE)
        try:
            socket.connect(str(address))
        except zmq.ZMQError as error:
            raise ValueError(f"{address}: is no address to connect to ({error}).") from error
        yield ZmqFrames(str(address), socket, preparation, timeout_s)
