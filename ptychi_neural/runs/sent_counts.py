"""Counts of a frame out of the bytes that a detector sends: plain, LZ4 or bitshuffled LZ4."""

import struct

import h5py
import numpy as np

from ptychi_neural.runs.sent_frames import Refused

BITSHUFFLE, WITH_LZ4 = 32008, 2
"""Number of the HDF5 filter, and its option."""


def unpacked(data: bytes, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The bytes of (h, w) counts out of a block of LZ4."""
    import lz4.block

    try:
        return bytes(lz4.block.decompress(data, uncompressed_size=_size(shape, dtype)))
    except lz4.block.LZ4BlockError as error:
        raise Refused("images that cannot be decompressed") from error


def unshuffled(data: bytes, shape: tuple[int, int], dtype: np.dtype) -> bytes:
    """The bytes of (h, w) counts out of bitshuffled LZ4 with the header of its HDF5 filter.

    The filter, which decompresses them in a file in memory, trusts the lengths that the data tell:
    these are checked before.
    """
    import hdf5plugin  # noqa: F401  (registers the filter)

    size = _size(shape, dtype)
    if len(data) < 12 or struct.unpack(">Q", data[:8])[0] != size:
        raise Refused("images with more or fewer counts than their shape has")
    block = struct.unpack(">I", data[8:12])[0]
    multiple = 8 * dtype.itemsize
    if block == 0 or block % multiple:
        raise Refused("images that cannot be decompressed")
    full, rest = divmod(size, block)
    n_blocks = full + (rest >= multiple)  # Less than eight counts are left as they are.
    place = 12
    for _ in range(n_blocks):
        if place + 4 > len(data):
            raise Refused("images that cannot be decompressed")
        place += 4 + struct.unpack(">I", data[place : place + 4])[0]
    if place + rest % multiple != len(data):
        raise Refused("images that cannot be decompressed")
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        counts = file.create_dataset(
            *("counts", shape, dtype),
            chunks=shape,
            compression=BITSHUFFLE,
            compression_opts=(0, WITH_LZ4),
        )
        counts.id.write_direct_chunk((0, 0), data)
        try:
            return bytes(counts[()].tobytes())
        except OSError as error:
            raise Refused("images that cannot be decompressed") from error


def _size(shape: tuple[int, int], dtype: np.dtype) -> int:
    return shape[0] * shape[1] * dtype.itemsize
