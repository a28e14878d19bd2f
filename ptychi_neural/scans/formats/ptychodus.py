"""ptychodus HDF5: a product (positions, probe, object, losses), a diffraction file, or both in one.

Layout and geometry are those of ptychodus (``ptychodus/api/io.py``, ``api/object.py``): the centre
of the object array lies at the stage coordinates ``center_y_m``, ``center_x_m``. pty-chi's position
0, 0 is there too, or half a pixel beside it where a side of the array is odd.
Names of attributes changed with version 1.7; both are read and written.
pty-chi's own diffraction files (``dp``) are read here too.
"""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.constants import c, e, h

from ptychi_neural.scans.beamline import detector_pixel_sizes
from ptychi_neural.scans.diffraction import put_patterns
from ptychi_neural.scans.formats.registry import Reader, register_reader, register_writer
from ptychi_neural.scans.hdf5 import (
    StrPath,
    dataset,
    find,
    frame_numbers,
    names_like,
    opened,
    read,
    reals,
    replacing,
    scalar,
    text,
    where,
    written,
)
from ptychi_neural.scans.scan import Scan, array_center

PATTERNS = ("dp", "patterns")
POSITIONS = ("probe_position_indexes", "probe_position_y_m", "probe_position_x_m")

ENERGY = ("photon_energy_eV", "probe_energy_eV")
"""The photon energy, by its names since and before ptychodus 1.7."""

MEASUREMENT_ATTRIBUTES = {
    "probe_photon_count": "probe_photon_count",
    "exposure_time_s": "exposure_time_s",
    "mass_attenuation_m2_kg": "mass_attenuation_m2_per_kg",
    "tomography_angle_deg": "tomography_angle_deg",
}
"""Attributes that every product has, by their names before and since ptychodus 1.7."""

OPTIONAL_ATTRIBUTES = ("focus_object_distance_m", "tilt_angle_deg")


@register_reader("ptychodus")
class Ptychodus(Reader):
    """Products and diffraction files of ptychodus, and pty-chi's diffraction files."""

    patterns = PATTERNS
    files = "HDF5 with 'dp' or 'patterns', or with 'probe', 'object' and 'probe_position_x_m'"

    def recognises(self, path: Path) -> bool:
        if not h5py.is_hdf5(path):
            return False
        with opened(path) as file:
            names = {name for name in (*PATTERNS, *POSITIONS) if names_like(file, name)}
            return bool(names) or ("probe" in file and "object" in file)

    def read_product(self, path: StrPath) -> Scan:
        with opened(path) as file:
            return product_in(file)

    def product_beside(self, path: Path) -> Path | None:
        return (
            path.with_name(f"product{path.suffix}") if path.stem.lower() == "diffraction" else None
        )


def product_in(file: h5py.File) -> Scan:
    """All of a scan but its patterns, in a product that is open."""
    if "probe" not in file and find(file, *PATTERNS) is not None:
        raise ValueError(
            f"{file.filename} holds patterns but no positions; give a product that belongs to it, "
            "or name datasets = { y = ..., x = ... } of [data] in it."
        )
    probe_data, object_data = dataset(file, "probe"), dataset(file, "object")
    pixel_size_m = _pixel_size(object_data)
    if "pixel_width_m" in probe_data.attrs and not np.isclose(
        _pixel_size(probe_data), pixel_size_m, rtol=1e-6, atol=0
    ):
        raise ValueError(
            f"{file.filename}: 'probe' and 'object' have pixel sizes {_pixel_size(probe_data)} m "
            f"and {pixel_size_m} m; resample one of them, the scan has one pixel size."
        )
    probe = expanded(complex_array(probe_data), 4)
    object_ = expanded(complex_array(object_data), 3)
    center_m = origin_m(
        (length(object_data, "center_y_m"), length(object_data, "center_x_m")),
        object_.shape,
        pixel_size_m,
    )
    frame_indexes, positions_m = _positions(file)
    energy_eV = next((_number(file, name) for name in ENERGY if _number(file, name)), 0.0)
    distance_m = _number(file, "detector_object_distance_m")
    return Scan(
        patterns=np.empty((0, *probe.shape[-2:]), dtype=np.float32),
        positions_px=(positions_m - np.asarray(center_m)) / pixel_size_m,
        probe=probe,
        object=object_,
        pixel_size_m=pixel_size_m,
        wavelength_m=h * c / (e * energy_eV) if energy_eV > 0 else None,
        detector_distance_m=distance_m if distance_m > 0 else None,
        free_space_propagation_distance_m=_near_field_distance(file),
        slice_spacings_m=_slice_spacings(file, len(object_)),
        opr_mode_weights=real_numbers(find(file, "opr_weights")),
        frame_indexes=frame_indexes,
        object_center_m=center_m,
        probe_photon_counts=real_numbers(find(file, "probe_photon_counts")),
        attributes=_attributes(file),
        name=text(file.attrs.get("name", "")),
        comments=text(file.attrs.get("comments", "")),
    )


def write_product(
    path: StrPath,
    scan: Scan,
    losses: Sequence[tuple[int, float]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write all of a scan but its patterns, in the layout that ptychodus reads.

    Parameters
    ----------
    path : path
        The HDF5 file.
    scan : Scan
        What to write. ``wavelength_m`` is written as photon energy.
    losses : sequence of (int, float), optional
        Epochs and their losses.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    with replacing(path, overwrite) as temporary, written(temporary) as file:
        _put_product(file, scan, losses)


@register_writer("ptychodus")
def write_both(path: Path, scan: Scan) -> None:
    """Write product and patterns into one file, which ptychodus opens as either."""
    with written(path) as file:
        _put_product(file, scan, None)
        if len(scan.patterns):
            put_patterns(
                file,
                scan.patterns,
                scan.valid_pixel_mask,
                scan.frame_indexes,
                detector_pixel_sizes(scan),
                scan.probe_photon_counts,
            )


def _put_product(file: h5py.File, scan: Scan, losses: Sequence[tuple[int, float]] | None) -> None:
    center_y_m, center_x_m = array_center_m(scan)
    n = len(scan.positions_px)
    indexes = np.arange(n) if scan.frame_indexes is None else scan.frame_indexes
    spacings_m = np.empty(0) if scan.slice_spacings_m is None else scan.slice_spacings_m
    epochs, values = zip(*losses) if losses else ((), ())
    pixel = {"pixel_height_m": scan.pixel_size_m, "pixel_width_m": scan.pixel_size_m}
    energy_eV = h * c / (e * scan.wavelength_m) if scan.wavelength_m is not None else 0.0
    file.attrs["name"] = scan.name
    file.attrs["comments"] = scan.comments
    file.attrs.update(dict.fromkeys(ENERGY, energy_eV))
    for before, since in MEASUREMENT_ATTRIBUTES.items():
        file.attrs.update(dict.fromkeys((before, since), scan.attributes.get(before, 0.0)))
    others = set(scan.attributes) - set(MEASUREMENT_ATTRIBUTES)
    file.attrs.update({name: scan.attributes[name] for name in others})
    file.attrs.update(_distances(scan))
    file["probe_position_indexes"] = np.asarray(indexes, dtype=np.int64)
    positions_m = scan.positions_px * scan.pixel_size_m + scan.object_center_m
    file["probe_position_y_m"], file["probe_position_x_m"] = positions_m.T
    if scan.probe_photon_counts is not None:
        file["probe_photon_counts"] = scan.probe_photon_counts
    file["probe"] = scan.probe
    file["probe"].attrs.update(pixel)
    file["object"] = scan.object
    file["object"].attrs.update(pixel)
    file["object"].attrs.update(center_y_m=center_y_m, center_x_m=center_x_m)
    file["object_layer_spacing_m"] = np.asarray(spacings_m, dtype=np.float64)
    if scan.opr_mode_weights is not None:
        file["opr_weights"] = scan.opr_mode_weights
    file["loss_epochs"] = np.asarray(epochs, dtype=np.int64)
    file["loss_values"] = np.asarray(values, dtype=np.float64)


def origin_m(
    center_m: tuple[float, float], object_shape: tuple[int, ...], pixel_size_m: float
) -> tuple[float, float]:
    """Stage coordinates of position 0, 0, from those of the middle of the object array."""
    y_m, x_m = np.asarray(center_m) - array_center(object_shape) * pixel_size_m
    return float(y_m), float(x_m)


def array_center_m(scan: Scan) -> tuple[float, float]:
    """Stage coordinates of the middle of the object array."""
    y_m, x_m = scan.object_center_m + array_center(scan.object.shape) * scan.pixel_size_m
    return float(y_m), float(x_m)


def length(data: h5py.Dataset, name: str) -> float:
    """An attribute in metres, which must be there and finite."""
    if name not in data.attrs:
        raise ValueError(f"{where(data)} has no attribute {name!r}; write it, in metres.")
    value = scalar(data.attrs[name], f"{where(data)}: {name}")
    if not np.isfinite(value):
        raise ValueError(f"{where(data)} has {name} = {value}; write a finite length in metres.")
    return value


def complex_array(data: h5py.Dataset) -> NDArray[np.complexfloating]:
    """A complex and finite array; MATLAB stores pairs of the names ``real`` and ``imag``."""
    array = read(data)
    if array.dtype.names == ("real", "imag"):
        array = array["real"] + 1j * array["imag"]
    if array.dtype.kind != "c":
        raise ValueError(f"{where(data)} is {array.dtype}; store it as complex numbers.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{where(data)} holds {int((~np.isfinite(array)).sum())} NaN or Inf; replace them, "
            "or start from another guess."
        )
    return array


def expanded(array: NDArray[np.complexfloating], ndim: int) -> NDArray[np.complexfloating]:
    """Leading axes of length 1 where the file leaves out modes or slices."""
    if not 2 <= array.ndim <= ndim:
        name, shape = {
            4: ("probe", "(n_opr_modes, n_modes, h, w)"),
            3: ("object", "(n_slices, H, W)"),
        }[ndim]
        raise ValueError(f"{name!r} must have shape {shape}, got {array.shape}.")
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _number(file: h5py.File, name: str) -> float:
    """An attribute of the file, 0 where there is none."""
    value = file.attrs.get(name, 0.0)
    if isinstance(value, h5py.Empty):
        return 0.0
    return scalar(value, f"{file.filename}: attribute {name!r}")


def _attributes(file: h5py.File) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for before, since in MEASUREMENT_ATTRIBUTES.items():
        present = [name for name in (since, before) if name in file.attrs]
        if present:
            found[before] = _number(file, present[0])
    found |= {name: _number(file, name) for name in OPTIONAL_ATTRIBUTES if name in file.attrs}
    if "polarization" in file.attrs:
        found["polarization"] = text(file.attrs["polarization"])
    return found


def magnification(detector_distance_m: float, focus_object_distance_m: float) -> float:
    """Magnification of a cone beam, (z_d - z_f) / z_f, with the focus at z_f from the object.

    A focus upstream has a negative z_f; 0 means a parallel beam (ptychodus,
    ``compute_magnification``).
    """
    if focus_object_distance_m == 0:
        return 1.0
    return abs((detector_distance_m - focus_object_distance_m) / focus_object_distance_m)


def _near_field_distance(file: h5py.File) -> float | None:
    """The distance of the equivalent parallel beam, as ptychodus gives it to pty-chi."""
    if scalar(file.attrs.get("far_field", True), f"{file.filename}: far_field"):
        return None
    distance_m = _number(file, "detector_object_distance_m")
    if distance_m <= 0:
        raise ValueError(
            f"{file.filename} is a near-field product (far_field is False) without a "
            "detector_object_distance_m; write it, in metres."
        )
    return distance_m / magnification(distance_m, _number(file, "focus_object_distance_m"))


def _distances(scan: Scan) -> dict[str, float | bool]:
    """Attributes from which the same distances are read again."""
    near_m, distance_m = scan.free_space_propagation_distance_m, scan.detector_distance_m
    if near_m is None:
        return {"far_field": True, "detector_object_distance_m": distance_m or 0.0}
    focus_m = float(scan.attributes.get("focus_object_distance_m", 0.0))
    if distance_m is None or distance_m < near_m * (1 - 1e-6):
        distance_m, focus_m = near_m, 0.0
    elif not np.isclose(distance_m / magnification(distance_m, focus_m), near_m, rtol=1e-6):
        focus_m = -distance_m / (distance_m / near_m - 1)
    found = {"far_field": False, "detector_object_distance_m": distance_m}
    return found | ({"focus_object_distance_m": focus_m} if focus_m else {})


def _pixel_size(data: h5py.Dataset) -> float:
    height_m, width_m = length(data, "pixel_height_m"), length(data, "pixel_width_m")
    if height_m <= 0 or not np.isclose(height_m, width_m, rtol=1e-6, atol=0):
        raise ValueError(
            f"{where(data)} has pixels of {height_m} m x {width_m} m; only square pixels of "
            "positive size are supported: correct the attributes or resample."
        )
    return width_m


def real_numbers(data: h5py.Dataset | None) -> NDArray[np.float64] | None:
    """Real numbers of a dataset; None where a file does not have it."""
    return None if data is None else reals(read(data), where(data))


def _positions(file: h5py.File) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    indexes, y, x = (dataset(file, name) for name in POSITIONS)
    if not indexes.shape == y.shape == x.shape or indexes.ndim != 1 or len(indexes) == 0:
        raise ValueError(
            f"{file.filename}: probe_position_indexes, _y_m and _x_m have shapes {indexes.shape}, "
            f"{y.shape} and {x.shape}; write one number each for every position."
        )
    positions_m = np.stack([reals(read(data), where(data)) for data in (y, x)], axis=1)
    return frame_numbers(indexes), positions_m


def _slice_spacings(file: h5py.File, n_slices: int) -> NDArray[np.float64] | None:
    if n_slices == 1:
        return None
    spacings_m = real_numbers(dataset(file, "object_layer_spacing_m"))
    assert spacings_m is not None
    if spacings_m.shape != (n_slices - 1,) or not (spacings_m > 0).all():
        raise ValueError(
            f"{file.filename}: 'object_layer_spacing_m' is {spacings_m}; an object of {n_slices} "
            f"slices needs {n_slices - 1} positive distances in metres."
        )
    return spacings_m
