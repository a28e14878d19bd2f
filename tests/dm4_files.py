"""The least of a Gatan DM4 file: one array with calibrated axes, and the voltage.

A tag is its kind (20 a group, 21 data), its name, the length of what follows, and its contents.
Numbers of the layout are big-endian, data little-endian (B. Schaffer, "How to script...", 2015).
"""

import struct
from pathlib import Path

import numpy as np

KINDS = {np.dtype(np.uint16): (4, 10), np.dtype(np.float32): (6, 2)}
"""Type of the tag, and type of the image, of an array."""


def _tag(kind: int, name: str, body: bytes) -> bytes:
    return struct.pack(">BH", kind, len(name)) + name.encode() + struct.pack(">Q", len(body)) + body


def _group(name: str, *tags: bytes) -> bytes:
    return _tag(20, name, _contents(tags))


def _contents(tags) -> bytes:
    return struct.pack(">BBQ", 0, 0, len(tags)) + b"".join(tags)


def _data(name: str, kind: tuple[int, ...], values: bytes) -> bytes:
    return _tag(21, name, b"%%%%" + struct.pack(f">Q{len(kind)}Q", len(kind), *kind) + values)


def _number(name: str, value: float, code: str = "f") -> bytes:
    return _data(name, ({"f": 6, "I": 5}[code],), struct.pack(f"<{code}", value))


def _text(name: str, text: str) -> bytes:
    return _data(name, (20, 4, len(text)), text.encode("utf-16-le"))


def write_dm4(path: Path, array: np.ndarray, axes, voltage_V: float | None = None) -> None:
    """Write an array with (scale, units) of each axis, in the order of the array's."""
    of_data, of_image = KINDS[array.dtype]
    dimensions = [
        _group("", _number("Origin", 0), _number("Scale", scale), _text("Units", units))
        for scale, units in reversed(axes)
    ]
    image = _group(
        "ImageData",
        _group("Calibrations", _group("Dimension", *dimensions)),
        _data("Data", (20, of_data, array.size), array.tobytes()),
        _number("DataType", of_image, "I"),
        _group("Dimensions", *(_number("", size, "I") for size in reversed(array.shape))),
        _number("PixelDepth", array.itemsize, "I"),
    )
    microscope = () if voltage_V is None else (_number("Voltage", voltage_V),)
    tags = _group("ImageTags", _group("Microscope Info", *microscope))
    root = _contents([_group("ImageList", _group("", image, tags, _text("Name", "cube")))])
    path.write_bytes(struct.pack(">IQI", 4, len(root), 1) + root + bytes(8))
