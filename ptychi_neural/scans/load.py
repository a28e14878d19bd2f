"""A scan from its two files, checked."""

import dataclasses
import warnings

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.defects import repair
from ptychi_neural.scans.diffraction import read_diffraction
from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.product import read_product
from ptychi_neural.scans.scan import Scan, position_origin


def load_scan(
    diffraction: StrPath,
    product: StrPath,
    *,
    frames: slice | None = None,
    valid_pixel_mask: NDArray[np.bool_] | None = None,
) -> Scan:
    """Read a diffraction file and the ptychodus product that belongs to it.

    Broken pixels are masked, broken and empty frames dropped, with one warning that counts them
    (see ``ptychi_neural.scans.defects``).

    Parameters
    ----------
    diffraction : path
        HDF5 file of counts, DC at the image centre: ``dp``, ``patterns`` or
        ``entry_1/data_1/data``.
    product : path
        HDF5 file of probe, object and positions. Its ``probe_position_indexes`` say which frame
        belongs to which position.
    frames : slice, optional
        Part of the scan to read, in the order of the product's positions. None: all of it.
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works, in addition to the file's own mask. Where there is
        a mask, by argument or in the file, dead and hot pixels are not looked for.

    Returns
    -------
    Scan
        Patterns in the type they are stored in; ``positions_px`` relative to the centre of the
        object array.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file or dataset is missing, or the two files do not fit each other; the message says
        what to do.
    """
    scan = read_product(product)
    if frames is not None:
        scan = select_frames(scan, frames)
    placed = np.asarray(np.isfinite(scan.positions_px).all(axis=1))
    if not placed.any():
        raise ValueError(
            f"{product}: none of {len(placed)} selected positions (frames={frames}) is finite; "
            "choose other frames, check probe_position_y_m and probe_position_x_m."
        )
    scan = select_frames(scan, placed)
    patterns, file_mask = read_diffraction(diffraction, scan.frame_indexes)
    if scan.probe.shape[-2:] != patterns.shape[-2:]:
        raise ValueError(
            f"{product}: 'probe' has {scan.probe.shape[-2:]} pixels, the patterns of "
            f"{diffraction} {patterns.shape[-2:]}; crop or pad one to the shape of the other."
        )
    if not np.abs(scan.probe[0]).max() > 0:
        raise ValueError(f"{product}: 'probe' carries no light; write a probe guess into it.")
    _check_inside(scan, product)
    try:
        repaired = repair(patterns, _combined(file_mask, valid_pixel_mask, patterns.shape[-2:]))
    except ValueError as error:
        raise ValueError(f"{diffraction}: {error}") from error
    report = list(repaired.report)
    if not placed.all():
        report.append(f"dropped {(~placed).sum()} frames with NaN or Inf positions")
    if report:
        warnings.warn(f"{diffraction}: {', '.join(report)}.", stacklevel=2)
    return dataclasses.replace(
        select_frames(scan, repaired.kept),
        patterns=repaired.patterns,
        valid_pixel_mask=repaired.valid_pixel_mask,
    )


def select_frames(scan: Scan, frames: slice | NDArray[np.generic]) -> Scan:
    """Part of a scan.

    Parameters
    ----------
    scan : Scan
        The scan; one that was read from a product alone has no patterns to select from.
    frames : slice or ndarray
        Indexes of the frames, or a boolean for each.

    Returns
    -------
    Scan
        Frames with their positions, numbers and OPR weights; the rest is shared.
    """
    indexes = (
        np.arange(len(scan.positions_px)) if scan.frame_indexes is None else scan.frame_indexes
    )
    weights = scan.opr_mode_weights
    return dataclasses.replace(
        scan,
        patterns=scan.patterns[frames] if len(scan.patterns) else scan.patterns,
        positions_px=scan.positions_px[frames],
        frame_indexes=indexes[frames],
        opr_mode_weights=None if weights is None else weights[frames],
    )


def empty_object(
    positions_px: NDArray[np.float64], probe_shape: tuple[int, ...], margin: int = 10
) -> NDArray[np.complex64]:
    """An object of 1 + 0i that holds every patch with pty-chi's default position origin.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels. Position 0, 0 is at the centre of the object, so
        positions far from it make the object large: subtract their middle first.
    probe_shape : tuple
        Shape of the probe, of which the last two are (h, w).
    margin : int
        Pixels to spare on each side, for positions that are going to be corrected.

    Returns
    -------
    ndarray
        (1, H, W) object.

    Examples
    --------
    >>> empty_object(np.array([[-20.0, -5.0], [20.0, 5.0]]), (64, 64), margin=2).shape
    (1, 108, 78)
    """
    from ptychi.utils import get_suggested_object_size  # takes seconds: it imports torch

    both_ways = np.concatenate([positions_px, -positions_px])
    size = get_suggested_object_size(both_ways, probe_shape[-2:], extra=2 * margin)
    even = [n + n % 2 for n in size]  # an odd size has no pixel edge in its middle
    return np.ones((1, *even), dtype=np.complex64)


def _combined(
    file_mask: NDArray[np.bool_] | None,
    given_mask: NDArray[np.bool_] | None,
    shape: tuple[int, ...],
) -> NDArray[np.bool_] | None:
    if given_mask is None:
        return file_mask
    if np.shape(given_mask) != shape:
        raise ValueError(
            f"valid_pixel_mask has shape {np.shape(given_mask)}, patterns {shape}; pass one "
            "boolean for each detector pixel."
        )
    given_mask = np.asarray(given_mask, dtype=bool)
    return given_mask if file_mask is None else given_mask & file_mask


def _check_inside(scan: Scan, product: StrPath) -> None:
    positions_px = scan.positions_px
    size = np.asarray(scan.object.shape[-2:])
    half_patch = np.asarray(scan.probe.shape[-2:]) / 2.0
    centers = positions_px + position_origin(scan.object.shape) + 0.5
    outside = ((centers - half_patch < -0.5) | (centers + half_patch > size + 0.5)).any(axis=1)
    if outside.any():
        needed = empty_object(positions_px, scan.probe.shape).shape[-2:]
        raise ValueError(
            f"{product}: {outside.sum()} of {len(positions_px)} positions lie outside the object "
            f"of {tuple(size.tolist())} pixels; enlarge 'object' to {needed} (see empty_object), "
            "or correct center_y_m, center_x_m and the pixel size."
        )
