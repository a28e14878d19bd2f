"""NPZ archives of PtychoPINN: ``diffraction`` or ``diff3d``, ``xcoords``, ``ycoords``, guesses.

PtychoPINN stores amplitudes, the square roots of counts; ptychodus writes the same archive with
counts. Whole numbers are therefore taken for counts, and others for amplitudes. Coordinates are
pixels: ptychodus counts them from the corner of ``objectGuess``, others from anywhere.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.scans.checks import check_positions
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.formats.numpy_stack import selected
from ptychi_neural.scans.formats.registry import Reader, register_reader, register_writer
from ptychi_neural.scans.hdf5 import StrPath, reals, scalar
from ptychi_neural.scans.numpy_files import check_stack, npz_header, npz_names, read_npz
from ptychi_neural.scans.scan import UNKNOWN_PIXEL_M, Scan, middle, position_origin

PATTERNS = ("diffraction", "diff3d")

ROUNDED = 1e-6
"""Relative error of the squares of single-precision amplitudes."""


@register_reader("ptychopinn")
class PtychoPinn(Reader):
    """Archives with patterns, positions, probe and object."""

    files = "NPZ with 'xcoords', 'ycoords' and 'diffraction' or 'diff3d'"
    position_unit = "px"

    def recognises(self, path: Path) -> bool:
        names = npz_names(path)
        return {"xcoords", "ycoords"} <= names and not names.isdisjoint(PATTERNS)

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        stack = _stack(path)
        bad = read_npz(path, "bad_pixels") != 0 if "bad_pixels" in npz_names(Path(path)) else None
        if bad is not None and bad.shape != stack.shape[1:]:
            raise ValueError(
                f"{path}: the pixel mask has shape {bad.shape}, patterns {stack.shape[1:]}; "
                "crop or bin the mask along with the patterns."
            )
        counts = _counts(path, selected(path, stack, frame_indexes))
        return Diffraction(counts, ~bad if bad is not None and bad.any() else None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        names = npz_names(Path(path))
        shape, _ = npz_header(path, next(name for name in PATTERNS if name in names))
        n = read_npz(path, "xcoords").size
        shape = shape[:-1] if len(shape) == 4 and shape[-1] == 1 else shape
        return (n, *shape[:-1]) if shape[0] != n and shape[-1] == n else shape

    def read_product(self, path: StrPath) -> Scan:
        names = npz_names(Path(path))
        y_px, x_px = (
            reals(read_npz(path, name), f"{path}: {name!r}").ravel()
            for name in ("ycoords", "xcoords")
        )
        if y_px.shape != x_px.shape or len(y_px) == 0:
            raise ValueError(
                f"{path}: 'ycoords' and 'xcoords' have {len(y_px)} and {len(x_px)} numbers; write "
                "one each for every frame."
            )
        probe = _guess(path, "probeGuess", names, 4)
        object_ = _guess(path, "objectGuess", names, 3)
        shape = probe.shape[-2:] if probe.size else self.stack_shape(path)[1:]
        positions, object_ = _placed(np.stack([y_px, x_px], axis=1), shape, object_)
        return Scan(
            patterns=np.empty((0, *shape), dtype=np.float32),
            positions_px=positions,
            probe=probe,
            object=object_,
            pixel_size_m=scalar(read_npz(path, "pixel_size_m"), f"{path}: 'pixel_size_m'")
            if "pixel_size_m" in names
            else UNKNOWN_PIXEL_M,
            frame_indexes=np.arange(len(positions)),
        )


@register_writer("ptychopinn")
def write_ptychopinn(path: Path, scan: Scan) -> None:
    """Write a scan of one slice and one OPR mode, as ptychodus does for PtychoPINN."""
    y_px, x_px = (scan.positions_px + position_origin(scan.object.shape)).T
    valid = scan.valid_pixel_mask
    shape = scan.patterns.shape[1:]
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            xcoords=x_px,
            ycoords=y_px,
            xcoords_start=x_px,
            ycoords_start=y_px,
            diff3d=scan.patterns,
            bad_pixels=np.zeros(shape, bool) if valid is None else ~valid,
            probeGuess=scan.probe[0],
            objectGuess=scan.object[0],
            scan_index=np.zeros(len(y_px), dtype=np.int64),
            pixel_size_m=scan.pixel_size_m,
        )


def _stack(path: StrPath) -> NDArray[Any]:
    """(n, h, w) patterns as stored; older archives have the frames on the last axis."""
    names = npz_names(Path(path))
    stack = read_npz(path, next((name for name in PATTERNS if name in names), PATTERNS[0]))
    stack = stack[..., 0] if stack.ndim == 4 and stack.shape[-1] == 1 else stack
    check_stack(path, stack)
    n = read_npz(path, "xcoords").size
    return np.moveaxis(stack, -1, 0) if len(stack) != n and stack.shape[-1] == n else stack


def _counts(path: StrPath, stored: NDArray[Any]) -> NDArray[np.generic]:
    if stored.dtype.kind != "f":
        return stored
    finite = stored[np.isfinite(stored)]
    if (finite == np.round(finite)).all():
        return stored
    squared = np.square(stored)
    whole = np.round(squared)
    if np.allclose(squared, whole, rtol=ROUNDED, atol=0):
        return whole
    name = next(name for name in PATTERNS if name in npz_names(Path(path)))
    warnings.warn(
        f"{path}: {name!r} holds neither counts nor their square roots; it is taken for amplitudes "
        f"in other units, and squared. If it is intensities, set datasets.patterns = {name!r}.",
        stacklevel=2,
    )
    return squared


def _guess(path: StrPath, name: str, names: set[str], ndim: int) -> NDArray[np.complexfloating]:
    if name not in names:
        return np.empty((0,) * ndim, dtype=np.complex64)
    array = read_npz(path, name)
    if array.dtype.kind != "c" or not 2 <= array.ndim <= ndim or not np.isfinite(array).all():
        raise ValueError(
            f"{path}: {name!r} is {array.dtype} of shape {array.shape}; store finite complex "
            f"numbers of 2 to {ndim} axes."
        )
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _placed(
    corner_px: NDArray[Any], shape: tuple[int, ...], object_: NDArray[np.complexfloating]
) -> tuple[NDArray[np.float64], NDArray[np.complexfloating]]:
    """Positions relative to the object's centre, and the object if it holds them."""
    coordinates = corner_px.astype(np.float64)
    finite = coordinates[np.isfinite(coordinates).all(axis=1)]
    center = middle(coordinates)
    if object_.size and len(finite):
        for origin in (position_origin(object_.shape), np.zeros(2), center):
            try:
                check_positions(finite - origin, shape, object_.shape)
            except ValueError:
                continue
            return coordinates - origin, object_
    return coordinates - center, np.empty((0, 0, 0), dtype=np.complex64)
