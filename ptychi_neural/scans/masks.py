"""Masks of detector pixels in HDF5 files: where they lie, and what their numbers mean.

CXI masks are bit fields (Maia, Nature Methods 9, 854 (2012), file format 1.6; Cheetah, J. Appl.
Cryst. 47, 1118 (2014), has the same bits). Some bits say that a pixel is bad, others that it was
corrected, counts as a peak, or has signal. In NeXus (``pixel_mask`` of NXdetector) and ptychodus
(``bad_pixels``) every number but 0 means a bad pixel.
"""

import warnings
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.hdf5 import find, names_like, read, where
from ptychi_neural.scans.links import contents

CXI_BAD_BITS = 0x7FF
"""Bits of a CXI mask that mean a bad pixel: 0x1 invalid, 0x2 saturated, 0x4 hot, 0x8 dead,
0x10 shadowed, 0x20 in a peak mask, 0x40 to be ignored, 0x80 bad, 0x100 out of resolution limits,
0x200 missing, 0x400 noisy."""

CXI_GOOD_BITS = 0xF800
"""Bits of a CXI mask that leave a pixel valid: 0x800 artifact corrected, 0x1000 signal above
background, 0x2000 peak of the hit finder, 0x4000 background corrected, 0x8000 in the jet."""

VALID = ("valid_pixel_mask", "entry*/data*/valid_pixel_mask")
"""Names of masks whose pixels are valid where they are not 0."""

BAD = (
    "bad_pixels",
    "entry*/instrument*/detector*/pixel_mask",
    "entry*/instrument*/detector*/detectorSpecific/pixel_mask",
    "pixel_mask",
    "mask",
)
"""Names of masks whose pixels are bad where they are not 0."""

CXI = ("entry*/instrument*/detector*/mask", "entry*/data*/mask", "entry*/mask")
"""Names of masks that are CXI bit fields."""

OURS = ("valid_pixel_mask", "bad_pixels", "entry_1/instrument_1/detector_1/mask")
"""Names of masks that must fit the patterns."""


def pixel_mask(
    file: h5py.File,
    frame_shape: tuple[int, ...] | None = None,
    name: str | None = None,
    entry: str | None = None,
) -> NDArray[np.bool_] | None:
    """Find the valid pixels of a detector; masks in several places add up.

    Parameters
    ----------
    file : h5py.File
        An open file.
    frame_shape : tuple, optional
        (h, w) of the patterns. A mask of another shape is left out with a warning, or refused
        where its name leaves no doubt that it belongs to these patterns (``OURS``). None: the
        shape of the first mask.
    name : str, optional
        The dataset to read instead of looking in the usual places. A name that ends in
        ``valid_pixel_mask`` marks valid pixels, any other marks bad pixels.
    entry : str, optional
        The entry of a CXI or NeXus file whose patterns are meant: masks of others are left out.

    Returns
    -------
    ndarray or None
        (h, w) True where the detector works; None where the file has no mask, or only a
        ``bad_pixels`` without any, which ptychodus writes into every file.

    Raises
    ------
    ValueError
        If a mask of these patterns has another shape, or the named one is missing.
    """
    places = (VALID, BAD, CXI) if name is None else ((name,) if "valid" in name else (), (name,))
    known = [key for kind in places for pattern in kind for key in names_like(file, pattern)]
    if name is None and entry is not None:
        known = [key for key in known if not _is_of_other(key, entry)]
    masks: list[tuple[str, NDArray[np.bool_]]] = []
    misfits: list[tuple[str, tuple[int, ...]]] = []
    seen: list[h5py.Dataset] = []
    for key in dict.fromkeys(known):
        data = find(file, key)
        if data is None or data in seen:
            continue
        seen.append(data)
        shape = data.shape or ()  # None where it is empty
        if frame_shape is None:
            frame_shape = shape[-2:]
        if shape[-2:] == tuple(frame_shape):
            masks.append((key, _meaning(data, key)))
        else:
            misfits.append((key, shape))
    if name is not None and not known:
        raise ValueError(f"{file.filename} has no dataset {name!r}; name the mask's dataset.")
    for key, shape in misfits:
        if key in (*OURS, name):
            raise ValueError(
                f"{file.filename}: the pixel mask has shape {shape}, patterns "
                f"{frame_shape}; crop or bin the mask along with the patterns."
            )
    unused = [key for key, _ in misfits]
    if name is None:
        others = _unknown_masks(file, frame_shape, seen)
        unused += [key for key in others if entry is None or not _is_of_other(key, entry)]
    if unused:
        warnings.warn(
            f"{file.filename} holds {', '.join(map(repr, unused))}, not used as a mask of pixels: "
            "it has another shape or an unknown name. Pass valid_pixel_mask if pixels are bad.",
            stacklevel=2,
        )
    if not masks or (len(masks) == 1 and masks[0][0] == "bad_pixels" and masks[0][1].all()):
        return None
    return np.asarray(np.logical_and.reduce([mask for _, mask in masks]))


def _is_of_other(name: str, entry: str) -> bool:
    """Whether a name lies in another entry of a CXI or NeXus file."""
    return name.startswith("entry") and "/" in name and name.split("/")[0] != entry


def telling(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """A mask that masks a pixel; None in place of one that tells nothing."""
    return None if mask is None or mask.all() else mask


def _meaning(data: h5py.Dataset, name: str) -> NDArray[np.bool_]:
    """(h, w) True where a mask of this name calls a pixel valid in all frames."""
    if data.dtype.kind not in "uifb":
        raise ValueError(f"{where(data)} is {data.dtype}; write a mask as whole numbers.")
    numbers, last = read(data), name.rsplit("/", 1)[-1]
    if numbers.dtype.kind == "f":  # A pixel of which nothing is known is bad.
        numbers = np.where(np.isfinite(numbers), numbers, 0 if "valid" in last else 1)
    if "valid" in last:
        valid = numbers != 0
    elif last == "mask" and "/" in name:
        valid = _valid_by_bits(numbers, name)
    else:
        valid = numbers == 0
        ones = np.isin(numbers, (0, 1)).all() and 2 * np.count_nonzero(numbers) > numbers.size
        if name in ("mask", "pixel_mask") and ones:
            warnings.warn(
                f"{name!r} is 1 in most pixels, so 1 is taken for a valid pixel.", stacklevel=3
            )
            valid = numbers != 0
    frames = valid.reshape(-1, *valid.shape[-2:]) if valid.ndim > 2 else valid[None]
    return np.asarray(frames.all(axis=0))


def _valid_by_bits(numbers: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if numbers.dtype.kind == "b":
        return ~numbers
    numbers = numbers.astype(np.int64) & 0xFFFFFFFF
    valid = np.asarray((numbers & CXI_BAD_BITS) == 0)
    others = int(np.bitwise_or.reduce(numbers[valid], initial=0)) & ~CXI_GOOD_BITS
    if others:
        warnings.warn(
            f"{name!r} sets bits {others:#x}, which the CXI format does not define; pixels with "
            "these bits alone count as valid.",
            stacklevel=4,
        )
    return valid


def _unknown_masks(
    file: h5py.File, frame_shape: tuple[int, ...] | None, used: list[h5py.Dataset]
) -> list[str]:
    """Names of further datasets that look like a mask of the detector."""
    return [
        name
        for name, item in contents(file)
        if isinstance(item, h5py.Dataset)
        and ("mask" in name.rpartition("/")[2].lower() or "bad_pix" in name.lower())
        and (item.shape or ())[-2:] == frame_shape
        and item.dtype.kind in "uib"
        and item not in used
    ]
