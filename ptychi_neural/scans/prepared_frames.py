"""Stored frames as they are to be used: cut around the direct beam, oriented, binned."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.detector_images import bad_pixels, image
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.preparation import Preparation


def cut(preparation: Preparation, stored: Diffraction) -> Diffraction:
    """Frames and mask with the direct beam at the centre, cropped, and masked by counts and file.

    Parameters
    ----------
    preparation : Preparation
        What to do.
    stored : Diffraction
        Frames and mask as they are stored.

    Raises
    ------
    ValueError
        If frames are too small for the crop, or the mask does not fit.
    """
    patterns, valid = stored
    shape = patterns.shape[1:]
    bad = np.zeros(shape, bool)
    if preparation.mask is not None:
        bad |= bad_pixels(preparation.mask, shape)
    if preparation.saturated_counts is not None:
        bad |= np.greater_equal(patterns, preparation.saturated_counts).any(axis=0)
    if preparation.dark_counts is not None:
        bad |= np.less_equal(patterns, preparation.dark_counts).all(axis=0)
    if bad.any():
        valid = ~bad if valid is None else valid & ~bad
    if preparation.dc_at_corner:
        patterns = np.fft.fftshift(patterns, axes=(-2, -1))
        valid = None if valid is None else np.fft.fftshift(valid)
    window = _window(preparation, shape)
    return Diffraction(patterns[:, *window], None if valid is None else valid[window])


def pixel_numbers(
    preparation: Preparation, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers that rows and columns of what is ``cut`` have in stored frames of shape (h, w).

    Examples
    --------
    >>> rows, columns = pixel_numbers(Preparation(crop=(4, 2)), (8, 8))
    >>> rows.tolist(), columns.tolist()
    ([2, 3, 4, 5], [3, 4])
    """
    whole = [np.arange(side) for side in shape]
    if preparation.dc_at_corner:
        whole = [np.fft.fftshift(numbers) for numbers in whole]
    rows, columns = (numbers[part] for numbers, part in zip(whole, _window(preparation, shape)))
    return rows, columns


def finished(
    preparation: Preparation, cropped: Diffraction, stored_shape: tuple[int, ...], near_field: bool
) -> Diffraction:
    """Cropped frames and mask without background, oriented and binned.

    Parameters
    ----------
    preparation : Preparation
        What to do.
    cropped : Diffraction
        Frames and mask that ``cut`` gave, without defects.
    stored_shape : tuple of int
        (h, w) of stored frames.
    near_field : bool
        Whether frames have no direct beam, which has to stay at the pixel (h // 2, w // 2).

    Raises
    ------
    ValueError
        If a background does not fit, or sides are no multiple of the bin.
    """
    patterns, valid = cropped
    if preparation.background is not None:
        background: Any = preparation.background
        if isinstance(background, Path):
            background = image(background, stored_shape)
            if preparation.dc_at_corner:
                background = np.fft.fftshift(background)
            background = background[_window(preparation, stored_shape)]
        patterns = np.clip(patterns.astype(np.float32) - np.float32(background), 0, None)
    patterns = oriented(preparation, patterns, near_field)
    valid = None if valid is None else oriented(preparation, valid[None], near_field)[0]
    if preparation.bin > 1:
        if valid is not None:
            patterns = np.where(valid, patterns, 0)
            valid = np.all(_blocks(valid[None], preparation.bin), axis=(-3, -1))[0]
        sums = {"u": np.uint32, "i": np.int64, "f": np.float32}[patterns.dtype.kind]
        patterns = _blocks(patterns, preparation.bin).sum(axis=(-3, -1), dtype=sums)
    valid = None if valid is None else np.ascontiguousarray(valid)
    return Diffraction(np.ascontiguousarray(patterns), valid)


def oriented(preparation: Preparation, frames: NDArray[Any], near_field: bool) -> NDArray[Any]:
    """(n, h, w) frames transposed, flipped and turned.

    In the far field the direct beam stays at the pixel (h // 2, w // 2): an even side turns around
    that pixel, not around the edge beside it.

    Examples
    --------
    >>> frames = np.arange(16).reshape(1, 4, 4)
    >>> flipped = oriented(Preparation(flip_y=True, rotate_deg=90), frames, near_field=False)
    >>> int(flipped[0, 2, 2]) == int(frames[0, 2, 2])
    True
    """
    if preparation.transpose:
        frames = frames.swapaxes(-2, -1)
    turns = preparation.rotate_deg // 90
    # A quarter turn counterclockwise exchanges the axes, then turns the order of rows.
    flips = [preparation.flip_y, preparation.flip_x]
    for axis, flip in zip((-2, -1), flips):
        frames = _flipped(frames, axis, near_field) if flip else frames
    for _ in range(turns):
        frames = _flipped(frames.swapaxes(-2, -1), -2, near_field)
    return frames


def _window(preparation: Preparation, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that are cut out of stored frames of shape (h, w)."""
    if preparation.crop is None:
        return slice(None), slice(None)
    center = preparation.center or (shape[0] // 2, shape[1] // 2)
    starts = [middle - side // 2 for middle, side in zip(center, preparation.crop)]
    for start, side, whole in zip(starts, preparation.crop, shape):
        if start < 0 or side < 2 or start + side > whole:
            raise ValueError(
                f"crop = {list(preparation.crop)} around {list(center)} does not lie in the stored "
                f"frames of {tuple(shape)} pixels; choose a smaller crop or another center."
            )
    rows, columns = (slice(a, a + side) for a, side in zip(starts, preparation.crop))
    return rows, columns


def _flipped(frames: NDArray[Any], axis: int, near_field: bool) -> NDArray[Any]:
    even = frames.shape[axis] % 2 == 0
    flipped = np.flip(frames, axis)
    return flipped if near_field or not even else np.roll(flipped, 1, axis)


def _blocks(frames: NDArray[Any], side: int) -> NDArray[Any]:
    """(n, h / side, side, w / side, side) squares of pixels."""
    n, height, width = frames.shape
    if height % side or width % side:
        raise ValueError(
            f"frames of {height} x {width} pixels are no multiple of bin = {side}; set crop to one "
            "that is."
        )
    return frames.reshape(n, height // side, side, width // side, side)
