"""Frames that a detector puts into an EPICS process variable, over PV Access.

The variable is an ``NTNDArray``, as the PVA plugin of areaDetector serves it; ``uniqueId`` is the
number of the frame. Counts are plain, LZ4 (codec ``lz4``) or bitshuffled LZ4 (``bslz4``). The
server, which has a queue for each client, leaves out images where a client is too slow. What is
there when the connection begins may be of an earlier scan: it is taken when a higher number
follows. Where the counter begins anew the scan is over.

Servers are found as by all clients of EPICS: EPICS_PVA_ADDR_LIST names them.
"""

import queue
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.runs.frame_sources import Source
from ptychi_neural.runs.sent_counts import unpacked, unshuffled
from ptychi_neural.runs.sent_frames import Image, Refused, SentFrames
from ptychi_neural.scans.preparation import Preparation

QUEUE_SIZE = 128
"""Images that wait in the server and in the client."""

MOST_OVERTAKEN = 64
"""Numbers by which an image may lie behind another one of its scan."""

TYPES = (None, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
"""Types of compressed counts, by the number that the codec's parameter is."""

SHUFFLED_BYTES = 8192
"""Bytes that bitshuffle takes at a time where nobody chooses."""


class PvaFrames(SentFrames):
    """Frames of one scan of a detector.

    Parameters
    ----------
    address : str
        ``pva://`` and the name of the variable.
    updates : queue.Queue
        Values of the variable as they come.
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
        self,
        address: str,
        updates: "queue.Queue[Any]",
        preparation: Preparation,
        timeout_s: float,
    ) -> None:
        super().__init__(address, preparation, timeout_s)
        self._updates = updates
        self._held: Image | None = None
        self._connected = False
        self._latest = self._highest = -1

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._highest = max(self._seen)

    def _next(self, left_s: float) -> Any | None:
        try:
            return self._updates.get(timeout=left_s)
        except queue.Empty:
            return None

    def _read(self, message: Any) -> list[Image]:
        if self._ended:
            raise Refused("images after the counter had begun anew")
        image = _image(message)
        is_first, self._connected = not self._connected, True
        if image is None:
            return []
        self._check_like_others(image.counts.shape, image.counts.dtype)
        if is_first:
            self._held = image
            return []
        new = [image]
        if self._held is not None:
            if _is_later(image, self._held):
                new = [self._held, image]
            else:
                self._leave_out("images of an earlier scan")
            self._held = None
        elif image.number == self._latest:  # It comes once more where a connection is made anew.
            return []
        elif image.number in self._seen or image.number < self._highest - MOST_OVERTAKEN:
            self._ended = True
            raise Refused("images after the counter had begun anew")
        self._latest = image.number
        if self._has_position(image.number):
            self._highest = max(self._highest, image.number)
        return [one for one in new if one.number not in self._seen]


def _is_later(image: Image, held: Image) -> bool:
    """Whether an image can be of the same scan as the one that was there before."""
    alike = (image.counts.shape, image.counts.dtype) == (held.counts.shape, held.counts.dtype)
    return alike and image.number > held.number


def _image(value: Any) -> Image | None:
    """The image of an ``NTNDArray``; None of a variable that has had none yet."""
    try:
        sides = [int(dimension["size"]) for dimension in value["dimension"]]
        number, codec, data = int(value["uniqueId"]), str(value["codec.name"]), value["value"]
        kind = value["codec.parameters"]
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("values other than NTNDArrays") from error
    if 0 in sides or data is None:
        return None
    if len(sides) != 2 or min(sides) < 1 or not isinstance(data, np.ndarray):
        raise Refused("images without two sides")
    if number < 0:
        raise Refused("images without a number")
    shape = (sides[1], sides[0])  # The width comes first.
    counts = data if codec == "" else _decompressed(codec, kind, data, shape)
    if counts.size != shape[0] * shape[1]:
        raise Refused("images with more or fewer counts than their shape has")
    if counts.dtype.kind not in "iuf":
        raise Refused("images of a type that is not known")
    return Image(number, counts.reshape(shape))


def _decompressed(
    codec: str, kind: Any, data: NDArray[Any], shape: tuple[int, int]
) -> NDArray[Any]:
    """(h * w,) counts of compressed bytes."""
    name = TYPES[kind] if isinstance(kind, int) and 0 < kind < len(TYPES) else None
    if codec not in ("lz4", "bslz4") or name is None:
        raise Refused("images whose codec is neither lz4 nor bslz4")
    dtype = np.dtype(name)
    if codec == "lz4":
        plain = unpacked(data.tobytes(), shape, dtype)
    else:  # It comes without the header of the HDF5 filter.
        size = shape[0] * shape[1] * dtype.itemsize
        header = struct.pack(">QI", size, SHUFFLED_BYTES)
        plain = unshuffled(header + data.tobytes(), shape, dtype)
    if len(plain) % dtype.itemsize:
        raise Refused("images with more or fewer counts than their shape has")
    return np.frombuffer(plain, dtype)


@contextmanager
def opened(address: str | Path, preparation: Preparation, timeout_s: float) -> Iterator[Source]:
    """Begin to monitor a variable, which ``opened_source`` calls.

    Raises
    ------
    ImportError
        If the extra ``pva`` is not installed.
    ValueError
        If the address has no name.
    """
    try:
        import lz4.block  # noqa: F401
        from p4p.client.thread import Context
    except ImportError as error:
        raise ImportError(
            f"{address}: frames over PV Access need p4p and lz4: pip install '.[pva]'."
        ) from error
    name = str(address).partition("://")[2]
    if not name:
        raise ValueError(f"{address}: names no process variable: pva://NAME.")
    updates: queue.Queue[Any] = queue.Queue(QUEUE_SIZE)
    closed = threading.Event()

    def put(value: Any) -> None:
        while not closed.is_set():  # The server leaves images out while this waits.
            try:
                return updates.put(value, timeout=0.1)
            except queue.Full:
                continue

    request = f"record[queueSize={QUEUE_SIZE}]field()"
    with Context("pva", nt=False) as context, context.monitor(name, put, request=request):
        try:
            yield PvaFrames(str(address), updates, preparation, timeout_s)
        finally:
            closed.set()
