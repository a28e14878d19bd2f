"""ptychodus product HDF5: positions, probe, object and losses of a scan.

Layout and geometry are those of ptychodus (``plugins/h5_product_file.py``, ``api/object.py``):
the centre of the object array lies at the stage coordinates ``center_y_m``, ``center_x_m``. That
centre is pty-chi's position 0, 0.
"""

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.constants import c, e, h

from ptychi_neural.scans.hdf5 import StrPath, dataset, opened, replacing
from ptychi_neural.scans.scan import Scan

MEASUREMENT_ATTRIBUTES = (
    "probe_photon_count",
    "exposure_time_s",
    "mass_attenuation_m2_kg",
    "tomography_angle_deg",
)


def read_product(path: StrPath) -> Scan:
    """Read a product; its patterns lie in a diffraction file, see ``load_scan``.

    Parameters
    ----------
    path : path
        The HDF5 file.

    Returns
    -------
    Scan
        With ``patterns`` of shape (0, h, w).

    Raises
    ------
    FileNotFoundError, ValueError
        If the file or something in it is missing, of the wrong shape, not finite, or if pixels
        are not square or differ between probe and object.
    """
    with opened(path) as file:
        probe_data, object_data = dataset(file, "probe"), dataset(file, "object")
        pixel_size_m = _pixel_size(object_data)
        if not np.isclose(_pixel_size(probe_data), pixel_size_m, rtol=1e-6, atol=0):
            raise ValueError(
                f"{path}: 'probe' and 'object' have pixel sizes {_pixel_size(probe_data)} m and "
                f"{pixel_size_m} m; resample one of them, the scan has one pixel size."
            )
        probe = _expanded(_complex(probe_data), 4)
        object_ = _expanded(_complex(object_data), 3)
        center_m = (_attribute(object_data, "center_y_m"), _attribute(object_data, "center_x_m"))
        frame_indexes, positions_m = _positions(file)
        energy_eV = float(file.attrs.get("probe_energy_eV", 0.0))
        distance_m = float(file.attrs.get("detector_object_distance_m", 0.0))
        return Scan(
            patterns=np.empty((0, *probe.shape[-2:]), dtype=np.float32),
            positions_px=(positions_m - np.asarray(center_m)) / pixel_size_m,
            probe=probe,
            object=object_,
            pixel_size_m=pixel_size_m,
            wavelength_m=h * c / (e * energy_eV) if energy_eV > 0 else None,
            detector_distance_m=distance_m if distance_m > 0 else None,
            slice_spacings_m=_slice_spacings(file, len(object_)),
            opr_mode_weights=_opr_mode_weights(file, len(frame_indexes), len(probe)),
            frame_indexes=frame_indexes,
            object_center_m=center_m,
            attributes={
                key: float(file.attrs[key]) for key in MEASUREMENT_ATTRIBUTES if key in file.attrs
            },
            name=str(file.attrs.get("name", "")),
            comments=str(file.attrs.get("comments", "")),
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
    center_y_m, center_x_m = scan.object_center_m
    n = len(scan.positions_px)
    indexes = np.arange(n) if scan.frame_indexes is None else scan.frame_indexes
    spacings_m = np.empty(0) if scan.slice_spacings_m is None else scan.slice_spacings_m
    epochs, values = zip(*losses) if losses else ((), ())
    pixel = {"pixel_height_m": scan.pixel_size_m, "pixel_width_m": scan.pixel_size_m}
    with replacing(path, overwrite) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["name"] = scan.name
        file.attrs["comments"] = scan.comments
        file.attrs["detector_object_distance_m"] = scan.detector_distance_m or 0.0
        file.attrs["probe_energy_eV"] = (
            h * c / (e * scan.wavelength_m) if scan.wavelength_m is not None else 0.0
        )
        for key in MEASUREMENT_ATTRIBUTES:
            file.attrs[key] = scan.attributes.get(key, 0.0)
        file["probe_position_indexes"] = np.asarray(indexes, dtype=np.int64)
        file["probe_position_y_m"] = scan.positions_px[:, 0] * scan.pixel_size_m + center_y_m
        file["probe_position_x_m"] = scan.positions_px[:, 1] * scan.pixel_size_m + center_x_m
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


def _where(data: h5py.Dataset) -> str:
    return f"{data.file.filename}: {data.name.lstrip('/')!r}"


def _attribute(data: h5py.Dataset, name: str) -> float:
    if name not in data.attrs:
        raise ValueError(f"{_where(data)} has no attribute {name!r}; write it, in metres.")
    value = float(data.attrs[name])
    if not np.isfinite(value):
        raise ValueError(f"{_where(data)} has {name} = {value}; write a finite length in metres.")
    return value


def _pixel_size(data: h5py.Dataset) -> float:
    height_m, width_m = _attribute(data, "pixel_height_m"), _attribute(data, "pixel_width_m")
    if height_m <= 0 or not np.isclose(height_m, width_m, rtol=1e-6, atol=0):
        raise ValueError(
            f"{_where(data)} has pixels of {height_m} m x {width_m} m; only square pixels of "
            "positive size are supported: correct the attributes or resample."
        )
    return width_m


def _complex(data: h5py.Dataset) -> NDArray[np.complexfloating]:
    array = data[()]
    if array.dtype.kind != "c":
        raise ValueError(f"{_where(data)} is {array.dtype}; store it as complex numbers.")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{_where(data)} holds {int((~np.isfinite(array)).sum())} NaN or Inf; replace them, "
            "or start from another guess."
        )
    return array


def _expanded(array: NDArray[np.complexfloating], ndim: int) -> NDArray[np.complexfloating]:
    """Leading axes of length 1 where the file leaves out modes or slices."""
    if not 2 <= array.ndim <= ndim:
        name, shape = {
            4: ("probe", "(n_opr_modes, n_modes, h, w)"),
            3: ("object", "(n_slices, H, W)"),
        }[ndim]
        raise ValueError(f"{name!r} must have shape {shape}, got {array.shape}.")
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def _positions(file: h5py.File) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    indexes, y_m, x_m = (
        dataset(file, f"probe_position_{name}")[()] for name in ("indexes", "y_m", "x_m")
    )
    if not indexes.shape == y_m.shape == x_m.shape or indexes.ndim != 1 or len(indexes) == 0:
        raise ValueError(
            f"{file.filename}: probe_position_indexes, _y_m and _x_m have shapes {indexes.shape}, "
            f"{y_m.shape} and {x_m.shape}; write one number each for every position."
        )
    if len(np.unique(indexes)) != len(indexes):
        raise ValueError(
            f"{file.filename}: probe_position_indexes names a frame twice; average the positions "
            "of each frame."
        )
    return indexes.astype(np.int64), np.stack([y_m, x_m], axis=1).astype(np.float64)


def _slice_spacings(file: h5py.File, n_slices: int) -> NDArray[np.float64] | None:
    if n_slices == 1:
        return None
    spacings_m = dataset(file, "object_layer_spacing_m")[()].astype(np.float64)
    if spacings_m.shape != (n_slices - 1,) or not (spacings_m > 0).all():
        raise ValueError(
            f"{file.filename}: 'object_layer_spacing_m' is {spacings_m}; an object of {n_slices} "
            f"slices needs {n_slices - 1} positive distances in metres."
        )
    return spacings_m


def _opr_mode_weights(file: h5py.File, n: int, n_opr_modes: int) -> NDArray[np.float64] | None:
    if "opr_weights" not in file:
        return None
    weights = file["opr_weights"][()].astype(np.float64)
    if weights.shape != (n, n_opr_modes):
        raise ValueError(
            f"{file.filename}: 'opr_weights' has shape {weights.shape}; {n} positions and "
            f"{n_opr_modes} OPR modes need ({n}, {n_opr_modes})."
        )
    return weights
