"""A scan from its files, checked."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.counted import counted
from ptychi_neural.scans.beamline import settled
from ptychi_neural.scans.checks import (
    check_extent,
    check_lengths,
    check_positions,
    check_start,
    check_told,
)
from ptychi_neural.scans.counts import OnBadData, remember, repair
from ptychi_neural.scans.diffraction import PATTERNS, Diffraction
from ptychi_neural.scans.entries import entry_chosen
from ptychi_neural.scans.formats import READERS, WRITERS, reader_of
from ptychi_neural.scans.hdf5 import StrPath, damage_told, replacing
from ptychi_neural.scans.links import links_outside_allowed
from ptychi_neural.scans.masks import telling
from ptychi_neural.scans.named_datasets import named_diffraction, named_positions, stack_shape
from ptychi_neural.scans.preparation import Named, Preparation, Unit
from ptychi_neural.scans.prepared_frames import cut, finished, pixel_numbers
from ptychi_neural.scans.prepared_positions import placed
from ptychi_neural.scans.scan import Scan, recentred, scan_of_positions, select_frames
from ptychi_neural.scans.scan_names import as_it_is_named, named
from ptychi_neural.scans.starts import empty_object, mean_pattern_probe

MOST_OBJECT_PIXELS = 2**15
"""Side of the largest object that is made for positions of a file without an object."""


def load_scan(
    diffraction: StrPath,
    product: StrPath | None = None,
    *,
    frames: slice | None = None,
    valid_pixel_mask: NDArray[np.bool_] | None = None,
    on_bad_data: OnBadData = "mask",
    datasets: Mapping[str, str] | None = None,
    pixel_size_m: float | None = None,
    free_space_propagation_distance_m: float | None = None,
    allow_outside_links: bool = False,
    preparation: Preparation | None = None,
    needs_probe: bool = True,
) -> Scan:
    """Read a scan from a file, or from a diffraction file and the product that belongs to it.

    Broken pixels are masked, broken, odd and empty frames dropped, with one warning that counts
    and names them (see ``ptychi_neural.scans.counts``). Formats are those of
    ``ptychi_neural.scans.formats``; each file is recognised by what it holds.

    Parameters
    ----------
    diffraction : path
        File of counts, DC at the image centre.
    product : path, optional
        File of positions, probe and object. Its ``probe_position_indexes`` say which frame
        belongs to which position. None: the file beside ``diffraction`` that belongs to it
        (``product.h5`` beside ``diffraction.h5``, ``X_para.hdf5`` beside ``X_dp.hdf5``), or
        ``diffraction`` itself.
    frames : slice, optional
        Part of the scan to read, in the order of the product's positions. None: all of it. Where
        ``preparation.frames`` chooses some, it is a part of those.
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works, in addition to the file's own mask. Where there is
        a mask, by argument or one in the file that masks a pixel, dead and hot pixels are not
        looked for.
    on_bad_data : str
        ``"mask"`` bad pixels and drop bad frames, or raise an ``"error"`` that names them.
    datasets, pixel_size_m, free_space_propagation_distance_m : optional
        Keys of ``preparation`` that may be given by themselves.
    allow_outside_links : bool
        Follow links to files outside the folder of the data.
    preparation : Preparation, optional
        How frames and positions are stored, and what is done to them.
    needs_probe : bool
        Whether a probe that the files do not have is told to be missing.

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
    unknown = set(datasets or ()) - set(get_args(Named))
    if unknown:
        raise ValueError(f"datasets names {sorted(unknown)}; there are {sorted(get_args(Named))}.")
    given = {
        "datasets": None if datasets is None else dict(datasets),
        "pixel_size_m": pixel_size_m,
        "free_space_propagation_distance_m": free_space_propagation_distance_m,
    }
    given = {name: value for name, value in given.items() if value is not None}
    preparation = Preparation.model_validate((preparation or Preparation()).model_dump() | given)
    entry = entry_chosen(preparation.told_entry, preparation.entry and diffraction)
    with links_outside_allowed(allow_outside_links), entry:
        product = product_of(diffraction) if product is None else product
        chosen = preparation.frames
        placing = chosen is not None and chosen.window_px is not None
        shape = stack_shape(diffraction, preparation.datasets)[1:] if placing else ()
        scan, unit, n_lost = chosen_frames(product, preparation, shape, frames, diffraction)
        stored = read_patterns(diffraction, scan.frame_indexes, preparation.datasets)
    stored_shape = stored.patterns.shape[-2:]
    scan = _placed(product, preparation, scan, stored_shape, unit)
    mask = stored.valid_pixel_mask
    valid = _combined(telling(mask), valid_pixel_mask, stored_shape)
    patterns, valid = cut(preparation, Diffraction(stored.patterns, valid))
    try:
        repaired = repair(
            *(patterns, valid, on_bad_data),
            frame_numbers=scan.frame_indexes,
            pixel_numbers=pixel_numbers(preparation, stored_shape),
        )
    except ValueError as error:
        raise ValueError(f"{diffraction}: {error}") from error
    near_field = scan.free_space_propagation_distance_m is not None
    patterns, valid = finished(
        preparation,
        Diffraction(repaired.patterns, repaired.valid_pixel_mask),
        stored_shape,
        near_field,
    )
    remember(patterns)
    if valid is None and mask is not None:
        valid = np.ones(patterns.shape[1:], bool)
    check_probe_size(product, scan, str(diffraction), patterns)
    report = list(repaired.report)
    if n_lost:
        report.append(f"dropped {counted(n_lost, 'frames')} with NaN or Inf positions")
    scan = dataclasses.replace(
        select_frames(scan, repaired.kept), patterns=patterns, valid_pixel_mask=valid
    )
    if not scan.probe.size and needs_probe:
        report.append("started the probe from the root of the mean pattern, as the file has none")
    scan = named(with_start(scan), diffraction)
    _check(scan, product)
    if report:
        warnings.warn(f"{diffraction}: {', '.join(report)}.", stacklevel=2)
    return scan


def planned_scan(product: StrPath, preparation: Preparation, stored_shape: tuple[int, ...]) -> Scan:
    """All of a scan but its patterns, placed for frames that are still to come.

    Parameters
    ----------
    product : path
        File of positions, probe and object.
    preparation : Preparation
        How frames and positions are stored, and what is done to them.
    stored_shape : tuple of int
        (h, w) of frames as they are stored.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``load_scan``.
    """
    scan, unit, _ = chosen_frames(product, preparation, stored_shape)
    return _placed(product, preparation, scan, stored_shape, unit)


def check_probe_size(
    product: StrPath, scan: Scan, source: str, patterns: NDArray[np.generic]
) -> None:
    """Refuse a probe, where there is one, of another size than the patterns of a source."""
    if scan.probe.size and scan.probe.shape[-2:] != patterns.shape[1:]:
        raise ValueError(
            f"{product}: 'probe' has {scan.probe.shape[-2:]} pixels, the patterns of "
            f"{source} {patterns.shape[1:]}; crop or pad one to the shape of the other."
        )


def with_start(scan: Scan) -> Scan:
    """The scan with the mean pattern's probe and an empty object where it has none."""
    if not scan.probe.size:
        near_field = scan.free_space_propagation_distance_m is not None
        probe = mean_pattern_probe(scan.patterns, scan.valid_pixel_mask, near_field)
        scan = dataclasses.replace(scan, probe=probe)
    if not scan.object.size:
        object_ = empty_object(scan.positions_px, scan.probe.shape)
        n_slices = 1 if scan.slice_spacings_m is None else 1 + len(scan.slice_spacings_m)
        scan = dataclasses.replace(scan, object=object_.repeat(n_slices, axis=0))
    return scan


def read_diffraction(path: StrPath, frame_indexes: ArrayLike | None = None) -> Diffraction:
    """Read patterns and mask of a file of any format, unchecked.

    Parameters
    ----------
    path : path
        The file.
    frame_indexes : array_like of int, optional
        (n,) numbers of the frames to read, in this order; None: all of them.

    Returns
    -------
    Diffraction
        The patterns in the stored type, and the mask.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file, a dataset or a frame is missing, or a shape is wrong.
    """
    return reader_of(path).read_diffraction(path, frame_indexes)


def read_product(path: StrPath) -> Scan:
    """Read all of a scan but its patterns, from a file of any format.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    Scan
        With ``patterns`` of shape (0, h, w). A probe or an object that the file does not have is
        of size 0.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file or something in it is missing, of the wrong shape, not finite, or if pixels
        are not square or differ between probe and object.
    """
    return reader_of(path).read_product(path)


def write_scan(
    path: StrPath, scan: Scan, format: str = "ptychodus", overwrite: bool = False
) -> None:
    """Write a whole scan into one file.

    Parameters
    ----------
    path : path
        The file.
    scan : Scan
        What to write.
    format : str
        Name of a registered writer.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        If there is no such format.
    """
    if format not in WRITERS:
        raise ValueError(f"no format {format!r} can be written; there are {sorted(WRITERS)}.")
    with replacing(path, overwrite) as temporary:
        WRITERS[format](temporary, scan)


def product_of(diffraction: StrPath) -> StrPath:
    """The file of positions that belongs to a diffraction file."""
    path = Path(diffraction)
    beside = (reader.product_beside(path) for reader in READERS.values())
    found = (as_it_is_named(other) for other in beside if other is not None)
    return next((other for other in found if other is not None), path)


def read_positions(product: StrPath, preparation: Preparation) -> tuple[Scan, Unit]:
    """All of a scan but its patterns as files have it, and the unit of its positions."""
    if preparation.raster is not None:
        return scan_of_positions(preparation.raster.positions_m()), "m"
    named = {
        str(key): name for key, name in preparation.datasets.items() if key in ("y", "x", "probe")
    }
    with entry_chosen(preparation.told_entry):
        if "y" in named:
            return named_positions(product, named, None), "m"
        reader = reader_of(product)
        scan = reader.read_product(product)
        with damage_told(product):
            check_told(scan, preparation.replaced_lengths)
        unit = reader.unit_of_positions(product)
        return (named_positions(product, named, scan) if named else scan), unit


def read_patterns(
    path: StrPath, frame_indexes: ArrayLike | None, datasets: Mapping[Any, str]
) -> Diffraction:
    """Patterns and mask as they are stored, from named datasets or the usual ones."""
    if datasets.keys().isdisjoint({"patterns", "mask"}):
        return read_diffraction(path, frame_indexes)
    return named_diffraction(path, datasets, PATTERNS, frame_indexes)


def chosen_frames(
    product: StrPath,
    preparation: Preparation,
    stored_shape: tuple[int, ...],
    frames: slice | None = None,
    diffraction: StrPath | None = None,
) -> tuple[Scan, Unit, int]:
    """All but the patterns of the frames that are taken and have finite positions.

    Parameters
    ----------
    product : path
        File of positions.
    preparation : Preparation
        How positions are stored, and which frames are taken.
    stored_shape : tuple of int
        (h, w) of frames as they are stored, of which a window asks.
    frames : slice, optional
        Part of those frames.
    diffraction : path, optional
        File of patterns, which tells beam and detector where the product does not.

    Returns
    -------
    Scan, str, int
        The scan as its file has it, the unit of its positions, and the number of frames that were
        left out because they have none.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, or no frame is left.
    """
    with settled(preparation.settled_keys):
        scan, unit = read_positions(product, preparation)
        if diffraction is not None and math.isnan(scan.pixel_size_m):
            scan = _with_instrument(scan, diffraction)
    if preparation.frames is not None:
        positions_px = np.full_like(scan.positions_px, np.nan)
        finite = np.asarray(np.isfinite(scan.positions_px).all(axis=1))
        if preparation.frames.window_px is not None and finite.any():
            whole = _placed(product, preparation, select_frames(scan, finite), stored_shape, unit)
            positions_px[finite] = whole.positions_px
        try:
            kept = preparation.frames.indexes(positions_px, scan.frame_indexes)
            scan = select_frames(scan, kept)
        except ValueError as error:
            raise ValueError(f"{product}: {error}") from error
        if not scan.object.size and math.isfinite(scan.pixel_size_m):
            scan = recentred(scan)
    if frames is not None:
        scan = select_frames(scan, frames)
    finite = np.asarray(np.isfinite(scan.positions_px).all(axis=1))
    if not finite.any():
        raise ValueError(
            f"{product}: none of {len(finite)} selected positions (frames={frames}) is finite; "
            "choose other frames, check probe_position_y_m and probe_position_x_m."
        )
    return select_frames(scan, finite), unit, int((~finite).sum())


def _with_instrument(scan: Scan, diffraction: StrPath) -> Scan:
    """The scan with beam and detector of the file of patterns, where it does not tell them."""
    try:
        told = reader_of(diffraction).read_instrument(diffraction)
    except (ValueError, FileNotFoundError):  # as of named datasets in a file of no known format
        return scan
    return dataclasses.replace(
        scan,
        wavelength_m=scan.wavelength_m or told.wavelength_m,
        detector_distance_m=scan.detector_distance_m or told.detector_distance_m,
        attributes={**told.attributes, **scan.attributes},
    )


def _placed(
    product: StrPath,
    preparation: Preparation,
    scan: Scan,
    stored_shape: tuple[int, ...],
    unit: Unit,
) -> Scan:
    try:
        scan = placed(preparation, scan, stored_shape, unit)
    except ValueError as error:
        raise ValueError(f"{product}: {error}") from error
    _check(scan, product)
    return scan


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


def _check(scan: Scan, product: StrPath) -> None:
    """Check probe, object and positions of a product, as far as it has them."""
    size: tuple[int, ...] = (MOST_OBJECT_PIXELS, MOST_OBJECT_PIXELS)
    probe_shape = scan.patterns.shape
    try:
        if scan.probe.size and scan.object.size:
            check_start(scan.object, scan.probe, names=("'object'", "'probe'"))
            size, probe_shape = scan.object.shape, scan.probe.shape
        check_lengths(
            pixel_size_m=scan.pixel_size_m,
            wavelength_m=scan.wavelength_m,
            detector_distance_m=scan.detector_distance_m,
        )
        if not scan.object.size:
            check_extent(scan, MOST_OBJECT_PIXELS)
        check_positions(scan.positions_px, probe_shape, size, scan.pixel_size_m)
    except ValueError as error:
        raise ValueError(f"{product}: {error}") from error
