"""TIFF stacks: one file with an image a frame, or a folder with a file a frame."""

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.entries import in_order
from ptychi_neural.scans.formats.numpy_stack import selected
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath, check_memory, damage_told, native

NUMBER = re.compile(r"[-+]?\d[\d.]*(?<!\.)")
"""A number in the name of a file."""

FEW = 0.1
"""Largest share of images of other names that are taken for none of the frames."""

MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""First bytes of TIFF and BigTIFF files, in both byte orders."""


@register_reader("tiff")
class Tiff(Reader):
    """Patterns as images; positions come from a file that belongs to them."""

    files = "TIFF with an image for each frame, or a folder of such files"
    folders = True

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return bool(_files(path))
        with open(path, "rb") as file:
            return file.read(4) in MAGIC

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        if not Path(path).is_dir():
            return Diffraction(native(selected(path, _stack(path), frame_indexes)), None)
        files = np.array(_files(Path(path), tells=True), dtype=object)
        chosen = selected(path, files, frame_indexes)
        frames = [_stack(file)[0] for file in chosen]
        shapes = {frame.shape for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"{path} holds images of {sorted(shapes)} pixels; keep one size.")
        return Diffraction(native(np.stack(frames)), None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        if not Path(path).is_dir():
            return _stack(path).shape
        files = _files(Path(path))
        return (len(files), *_stack(files[0]).shape[1:])


def _files(folder: Path, tells: bool = False) -> list[Path]:
    """TIFF files of a folder in the order of the numbers in their names.

    Where names have several numbers, that which counts the files stands first. Few images whose
    names are not like those of the others are none of the frames, which a warning may tell.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in (".tif", ".tiff")]
    seen = [path for path in found if not path.name.startswith(".")]
    names = Counter(NUMBER.sub("#", path.name) for path in seen)
    usual, n = names.most_common(1)[0] if names else ("", 0)
    others = [path for path in seen if NUMBER.sub("#", path.name) != usual]
    if others and len(others) <= FEW * n:
        if tells:
            left_out = ", ".join(sorted(path.name for path in others))
            warnings.warn(
                f"{folder}: names of frames are like {usual}: {left_out} left out; rename it to "
                "take it for a frame.",
                stacklevel=1,
            )
        seen = [path for path in seen if path not in others]
    counts = _counting(seen)
    return sorted(seen, key=lambda path: (counts.get(path, 0), in_order(path.name)))


def _counting(files: list[Path]) -> dict[Path, int]:
    """The last number in the names of files of one kind that counts them one by one."""
    digits = [re.findall(r"\d+", path.stem) for path in files]
    if len({len(found) for found in digits}) != 1:
        return {}
    for column in reversed(list(zip(*digits))):
        numbers = [int(number) for number in column]
        if len(set(numbers)) == len(numbers) == max(numbers) - min(numbers) + 1:
            return dict(zip(files, numbers))
    return {}


def _stack(path: StrPath) -> NDArray[Any]:
    """(n, h, w) images of a file, mapped into memory where they are not compressed."""
    import tifffile  # comes with scikit-image; takes .1 s

    with damage_told(path), tifffile.TiffFile(path) as file:
        for series in file.series:
            if "S" in series.axes:
                raise ValueError(f"{path}: images have colours; store counts in grey.")
            check_memory(f"{path}", series.shape, np.dtype(series.dtype))
        if len(file.series) == 1 and (offset := file.series[0].dataoffset) is not None:
            if offset + file.series[0].nbytes > Path(path).stat().st_size:
                raise ValueError(f"{path} is truncated: it is shorter than its images.")
            stack: NDArray[Any] = tifffile.memmap(path, mode="r")
        else:  # compressed, or images that a program did not join to a series
            stack = np.stack([page.asarray() for series in file.series for page in series if page])
    stack = stack[None] if stack.ndim == 2 else stack
    if stack.ndim > 3:
        stack = stack.reshape(-1, *stack.shape[-2:])
    if stack.ndim != 3 or 0 in stack.shape or stack.dtype.kind not in "uif":
        raise ValueError(
            f"{path}: images must be real numbers of shape (h, w), got {stack.dtype} of shape "
            f"{stack.shape}; store counts in grey."
        )
    return stack
