"""CXI files (Maia, Nature Methods 9, 854 (2012), format 1.6) and NXcxi_ptycho: all in one file.

Positions are ``sample_1/geometry_1/translation``, (n, 3) translations (x, y, z) of the sample in
metres with x to the left and y up along the beam. The rows of a detector run down and its columns
to the right, unless ``basis_vectors`` tell otherwise, and the beam moves over the sample against
the sample's translation, so that (y, x) of the translation are positions along rows and columns.
ptychodus writes probe and object as ``image_1`` and ``image_2``, and more under ``ptychodus``.
"""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.constants import c, h

from ptychi_neural.scans.beamline import (
    Instrument,
    detector_pixel_sizes,
    instrument,
    length_in_metres,
    number,
)
from ptychi_neural.scans.diffraction import stack_shape
from ptychi_neural.scans.formats.ptychodus import (
    array_center_m,
    complex_array,
    expanded,
    origin_m,
    real_numbers,
)
from ptychi_neural.scans.formats.registry import Reader, register_reader, register_writer
from ptychi_neural.scans.hdf5 import (
    StrPath,
    find,
    frame_numbers,
    names_like,
    opened,
    read,
    reals,
    text,
    where,
    written,
)
from ptychi_neural.scans.scan import Scan, middle

ENTRY = "entry_[0-9]*"
PATTERNS = (
    f"{ENTRY}/data*/data",
    f"{ENTRY}/instrument*/detector*/data",
)
TRANSLATION = (
    f"{ENTRY}/sample*/geometry*/translation",
    f"{ENTRY}/data*/translation",
    f"{ENTRY}/instrument*/detector*/translation",
)
DETECTOR = f"{ENTRY}/instrument*/detector*"
SOURCE = f"{ENTRY}/instrument*/source*"
BEAM = f"{ENTRY}/instrument*/beam*"
ENERGIES = (
    f"{BEAM}/incident_beam_energy",
    f"{BEAM}/incident_energy",
    f"{BEAM}/energy",
    f"{SOURCE}/energy",
)
"""In NXcxi_ptycho the source's energy is that of the machine."""

PROBE = (f"{ENTRY}/image_1/data", f"{ENTRY}/instrument_1/source_1/illumination")
OBJECT = (f"{ENTRY}/image_2/data",)
EXTRA = f"{ENTRY}/ptychodus"

LARGEST_COSINE = 0.1
"""Of the angle between rows and columns."""

ATTRIBUTES = {
    "probe_photon_count": "probe_photon_count",
    "exposure_time_s": "exposure_time_s",
    "mass_attenuation_m2_kg": "mass_attenuation_m2_per_kg",
    "tomography_angle_deg": "tomography_angle_deg",
    "focus_object_distance_m": "focus_object_distance_m",
    "tilt_angle_deg": "tilt_angle_deg",
}
"""What a scan tells of the measurement, and its name in ptychodus's group."""


@register_reader("cxi")
class Cxi(Reader):
    """CXI files with patterns, positions and geometry, and perhaps probe and object."""

    patterns = PATTERNS
    files = "HDF5 with 'cxi_version' or 'entry_1/data_1/data'"

    def recognises(self, path: Path) -> bool:
        if not h5py.is_hdf5(path):
            return False
        with opened(path) as file:
            names = (*PATTERNS, *TRANSLATION)
            return "cxi_version" in file or any(names_like(file, name) for name in names)

    def read_instrument(self, path: StrPath) -> Instrument:
        with opened(path) as file:
            return _instrument(file)

    def read_product(self, path: StrPath) -> Scan:
        with opened(path) as file:
            translation = find(file, *TRANSLATION)
            if translation is None:
                raise ValueError(
                    f"{path} has no positions ('entry_1/sample_1/geometry_1/translation'); give a "
                    "product that belongs to it, or name datasets = { y = ..., x = ... } of [data]."
                )
            probe = _image(file, PROBE, ndim=4)
            object_ = _image(file, OBJECT, ndim=3)
            frame_shape = probe.shape[-2:] if probe.size else stack_shape(file, PATTERNS)[1:]
            wavelength_m, distance_m, detector = _instrument(file)
            pixel_size_m = number(file, f"{EXTRA}/object_pixel_width_m") or _pixel_size(
                file, frame_shape, wavelength_m, distance_m
            )
            positions_m = _positions(translation, find(file, f"{DETECTOR}/basis_vectors"))
            center_m = _center(file, positions_m, object_, pixel_size_m)
            indexes = find(file, f"{EXTRA}/probe_position_indexes")
            weights = find(file, f"{EXTRA}/opr_weights")
            spacings = find(file, f"{EXTRA}/object_layer_spacing_m")
            photons = find(file, f"{EXTRA}/probe_photon_counts")
            near_field_m = number(file, f"{EXTRA}/free_space_propagation_distance_m")
            return Scan(
                patterns=np.empty((0, *frame_shape), dtype=np.float32),
                positions_px=positions_m
                if math.isnan(pixel_size_m)
                else (positions_m - np.asarray(center_m)) / pixel_size_m,
                probe=probe,
                object=object_,
                pixel_size_m=pixel_size_m,
                wavelength_m=wavelength_m,
                detector_distance_m=distance_m,
                free_space_propagation_distance_m=near_field_m,
                slice_spacings_m=real_numbers(spacings) if len(object_) > 1 else None,
                opr_mode_weights=real_numbers(weights),
                frame_indexes=np.arange(len(positions_m))
                if indexes is None
                else frame_numbers(indexes),
                object_center_m=center_m,
                probe_photon_counts=real_numbers(photons),
                attributes=_attributes(file) | dict(detector),
                name=_text(file, f"{ENTRY}/title", f"{ENTRY}/sample_1/name"),
                comments=_text(file, f"{ENTRY}/experiment_description"),
            )


@register_writer("cxi")
def write_cxi(path: Path, scan: Scan) -> None:
    """Write a whole scan as ptychodus writes CXI files."""
    n = len(scan.positions_px)
    translation = np.zeros((n, 3))
    translation[:, :2] = (scan.positions_px * scan.pixel_size_m + scan.object_center_m)[:, ::-1]
    with written(path) as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        entry = file.create_group("entry_1")
        entry["title"], entry["experiment_description"] = scan.name, scan.comments
        entry["sample_1/geometry_1/translation"] = translation
        detector = entry.create_group("instrument_1/detector_1")
        if scan.wavelength_m is not None:
            entry["instrument_1/source_1/energy"] = h * c / scan.wavelength_m
        if scan.detector_distance_m is not None:
            detector["distance"] = scan.detector_distance_m
        for name, size_m in zip(("y_pixel_size", "x_pixel_size"), detector_pixel_sizes(scan)):
            detector[name] = size_m
        data = entry.create_group("data_1")
        data["translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
        if len(scan.patterns):
            frame = (1, *scan.patterns.shape[1:])
            detector.create_dataset("data", data=scan.patterns, chunks=frame, compression="gzip")
            data["data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        if scan.valid_pixel_mask is not None:
            detector["mask"] = (~scan.valid_pixel_mask).astype(np.uint32)
        for name, array, axes in (
            ("image_1", scan.probe, "coherent:incoherent:y:x"),
            ("image_2", scan.object, "layer:y:x"),
        ):
            entry[f"{name}/data"] = array
            entry[f"{name}/data"].attrs["axes"] = axes
        extra = entry.create_group("ptychodus")
        # Frames have no numbers of their own here: those in this file count from 0.
        holds_frames = scan.frame_indexes is None or len(scan.patterns) > 0
        extra["probe_position_indexes"] = np.arange(n) if holds_frames else scan.frame_indexes
        for owner in ("probe", "object"):
            extra[f"{owner}_pixel_width_m"] = scan.pixel_size_m
            extra[f"{owner}_pixel_height_m"] = scan.pixel_size_m
        extra["object_center_y_m"], extra["object_center_x_m"] = array_center_m(scan)
        if scan.opr_mode_weights is not None:
            extra["opr_weights"] = scan.opr_mode_weights
        if scan.probe_photon_counts is not None:
            extra["probe_photon_counts"] = scan.probe_photon_counts
        if scan.free_space_propagation_distance_m is not None:
            extra["free_space_propagation_distance_m"] = scan.free_space_propagation_distance_m
        if scan.slice_spacings_m is not None:
            extra["object_layer_spacing_m"] = scan.slice_spacings_m
        for name, key in (ATTRIBUTES | {"polarization": "polarization"}).items():
            if name in scan.attributes:
                extra[key] = scan.attributes[name]


def _instrument(file: h5py.File) -> Instrument:
    wavelengths = (f"{BEAM}/incident_wavelength", f"{SOURCE}/wavelength")
    return instrument(file, DETECTOR, wavelengths, ENERGIES)


def _image(file: h5py.File, names: tuple[str, ...], ndim: int) -> NDArray[np.complexfloating]:
    """Probe or object; an array of size 0 where the file has none."""
    data = find(file, *names)
    if data is None:
        return np.empty((0,) * ndim, dtype=np.complex64)
    return expanded(complex_array(data), ndim)


def _positions(
    translation: h5py.Dataset, basis_vectors: h5py.Dataset | None
) -> NDArray[np.float64]:
    """(n, 2) positions of the beam on the sample, in metres along rows and columns."""
    moves = reals(read(translation), where(translation)) * length_in_metres(translation)
    moves = moves.reshape(-1, moves.shape[-1]) if moves.ndim > 2 else moves  # of a raster
    if moves.ndim == 2 and moves.shape[0] == 3 < moves.shape[1]:
        moves = moves.T
    if moves.ndim != 2 or moves.shape[1] < 2 or len(moves) == 0:
        raise ValueError(
            f"{where(translation)} has shape {moves.shape}; write (n, 3) translations (x, y, z)."
        )
    rows, columns = np.array([0.0, -1.0]), np.array([-1.0, 0.0])
    if basis_vectors is not None:
        vectors = reals(read(basis_vectors), where(basis_vectors))
        vectors = vectors if vectors.shape == (2, 3) else vectors.T
        if vectors.shape == (2, 3) and np.linalg.norm(vectors[:, :2], axis=1).all():
            rows, columns = (v[:2] / np.linalg.norm(v[:2]) for v in vectors)
            if not abs(rows @ columns) < LARGEST_COSINE:
                raise ValueError(
                    f"{where(basis_vectors)} are {vectors.tolist()}; write the directions of rows "
                    "and columns, which are at right angles."
                )
    return -moves[:, :2] @ np.stack([rows, columns], axis=1)


def _pixel_size(
    file: h5py.File,
    frame_shape: tuple[int, ...],
    wavelength_m: float | None,
    distance_m: float | None,
) -> float:
    """Pixel size of the object in the far field, lambda z / (N d); NaN where it is unknown."""
    sizes_m = [number(file, f"{DETECTOR}/{axis}_pixel_size") for axis in "yx"]
    known = [size for size in sizes_m if size]
    if not known or not wavelength_m or not distance_m:
        return math.nan
    height_m, width_m = (
        wavelength_m * distance_m / (n * (size or known[0]))
        for n, size in zip(frame_shape, sizes_m)
    )
    return width_m if np.isclose(height_m, width_m, rtol=1e-3, atol=0) else math.nan


def _center(
    file: h5py.File,
    positions_m: NDArray[np.float64],
    object_: NDArray[Any],
    pixel_size_m: float,
) -> tuple[float, float]:
    """Stage coordinates of position 0, 0; the middle of the scan where the file has no centre."""
    told = [number(file, f"{EXTRA}/object_center_{axis}_m") for axis in "yx"]
    if object_.size and None not in told:
        return origin_m((float(told[0] or 0), float(told[1] or 0)), object_.shape, pixel_size_m)
    y_m, x_m = middle(positions_m)
    return float(y_m), float(x_m)


def _attributes(file: h5py.File) -> dict[str, float | str]:
    found: dict[str, float | str] = {
        name: value
        for name, key in ATTRIBUTES.items()
        if (value := number(file, f"{EXTRA}/{key}")) is not None
    }
    polarization = _text(file, f"{EXTRA}/polarization")
    return found | ({"polarization": polarization} if polarization else {})


def _text(file: h5py.File, *names: str) -> str:
    data = find(file, *names)
    return "" if data is None else text(data[()])
