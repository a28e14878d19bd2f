"""What files tell of a scan besides its frames, brought to the frames as they are used."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.beamline import METRES
from ptychi_neural.scans.formats.ptychodus import magnification
from ptychi_neural.scans.preparation import Preparation, Unit
from ptychi_neural.scans.scan import UNKNOWN_PIXEL_M, Scan, middle


class Geometry(NamedTuple):
    """The geometry of a scan, as far as it is known."""

    wavelength_m: float | None
    detector_distance_m: float | None
    near_field_distance_m: float | None
    """None in the far field."""
    pixel_size_m: float
    """NaN where it is unknown."""


def geometry(
    preparation: Preparation, scan: Scan, stored_shape: tuple[int, ...], shape: tuple[int, ...]
) -> Geometry:
    """Put the keys of a run file in place of what a file tells.

    Parameters
    ----------
    preparation : Preparation
        The keys.
    scan : Scan
        What the file tells. A pixel size of NaN is unknown.
    stored_shape, shape : tuple of int
        (h, w) of frames as they are stored, and after cropping.

    Raises
    ------
    ValueError
        If a key is given that tells nothing without others, or pixels are not square.
    """
    wavelength_m = preparation.told_wavelength_m or scan.wavelength_m
    distance_m = preparation.detector_distance_m or scan.detector_distance_m
    known = scan.attributes.get("detector_pixel_size_m")
    detector_m = preparation.detector_pixel_size_m or (float(known) if known else None)
    near_m, size_m = scan.free_space_propagation_distance_m, math.nan
    focus_m, free_m = preparation.focus_object_distance_m, None
    if focus_m is not None:
        _ask_for(detector_distance_m=distance_m)
        assert distance_m is not None
        near_m = distance_m / magnification(distance_m, focus_m)
    elif (free_m := preparation.free_space_propagation_distance_m) is not None:
        near_m = free_m
    told = preparation.detector_distance_m, preparation.detector_pixel_size_m
    if near_m is not None:
        if distance_m is not None and detector_m is not None:
            size_m = detector_m * preparation.bin * near_m / distance_m
        elif focus_m is not None or any(told):
            _ask_for(detector_distance_m=distance_m, detector_pixel_size_m=detector_m)
    elif (angle := preparation.detector_pixel_angle_rad) is not None:
        _ask_for(wavelength_m=wavelength_m)
        size_m = _far_field(wavelength_m or 0.0, angle, shape)
    elif (frequency := scan.attributes.get("detector_pixel_per_m")) and not any(told):
        size_m = _far_field(1.0, float(frequency), shape)
    elif (angle := _angle(scan)) and wavelength_m and not any(told):
        size_m = _far_field(wavelength_m, angle, shape)
    elif wavelength_m and distance_m and detector_m:
        size_m = _far_field(wavelength_m, detector_m / distance_m, shape)
    elif any(told):
        _ask_for(
            wavelength_m=wavelength_m,
            detector_distance_m=distance_m,
            detector_pixel_size_m=detector_m,
        )
    tells_size = any(told) or focus_m or free_m or preparation.detector_pixel_angle_rad
    tells_size = tells_size or preparation.told_wavelength_m
    if math.isfinite(scan.pixel_size_m) and (not tells_size or math.isnan(size_m)):
        size_m = scan.pixel_size_m * _growth(preparation, stored_shape, shape, near_m is not None)
    if preparation.pixel_size_m is not None:
        size_m = preparation.pixel_size_m
    return Geometry(wavelength_m, distance_m, near_m, size_m)


def placed(
    preparation: Preparation, scan: Scan, stored_shape: tuple[int, ...], native_unit: Unit
) -> Scan:
    """A scan with positions in pixels of the frames as they are used.

    The file's object is left out where it is on another grid, and the probe is brought to the new
    one. Orientations change frames alone.

    Parameters
    ----------
    preparation : Preparation
        What to do.
    scan : Scan
        What the file tells. With a pixel size of NaN, its positions are numbers in ``native_unit``.
    stored_shape : tuple of int
        (h, w) of frames as they are stored.
    native_unit : str
        Unit of positions in files of this format.

    Raises
    ------
    ValueError
        If the size of an object pixel is unknown.
    """
    shape = preparation.crop or stored_shape
    found = geometry(preparation, scan, stored_shape, shape)
    near_field = found.near_field_distance_m is not None
    unit = preparation.position_units or native_unit
    if math.isnan(found.pixel_size_m):
        if unit != "px":
            raise ValueError(_unknown_size(scan, found, shape))
        found = found._replace(pixel_size_m=UNKNOWN_PIXEL_M)
    scan = dataclasses.replace(
        scan,
        wavelength_m=found.wavelength_m,
        detector_distance_m=found.detector_distance_m,
        free_space_propagation_distance_m=found.near_field_distance_m,
    )
    regridded = preparation.crop is not None or preparation.bin > 1
    unplaced = math.isnan(scan.pixel_size_m)
    if regridded and scan.probe.size and scan.probe.shape[-2:] == tuple(stored_shape):
        probe = regridded_probe(scan.probe, (shape[0], shape[1]), preparation.bin, near_field)
        scan = dataclasses.replace(scan, probe=probe)
    numbers = scan.positions_px
    if not unplaced and native_unit != "px":
        numbers = numbers * scan.pixel_size_m + np.asarray(scan.object_center_m)
    if unit == "px":
        growth = _growth(preparation, stored_shape, shape, near_field)
        positions_px = numbers / growth
    else:
        positions_px = numbers * (METRES[unit] / found.pixel_size_m)
    turn = preparation.turn_of_positions
    turned = not np.array_equal(turn, np.eye(2))
    same_center = not unplaced and unit == native_unit and not (regridded or turned)
    if same_center and native_unit != "px":
        positions_px = positions_px - np.asarray(scan.object_center_m) / found.pixel_size_m
    center_m = scan.object_center_m
    if not same_center:
        center = middle(positions_px)
        positions_px = positions_px - center
        y_m, x_m = center * found.pixel_size_m
        center_m = (float(y_m), float(x_m))
        scan = dataclasses.replace(scan, object=np.empty((0, 0, 0), dtype=np.complex64))
    if turned:
        positions_px = positions_px @ turn.T
    return dataclasses.replace(
        scan,
        positions_px=positions_px,
        pixel_size_m=found.pixel_size_m,
        object_center_m=center_m,
    )


def regridded_probe(
    probe: NDArray[np.complexfloating], shape: tuple[int, int], bin: int, near_field: bool
) -> NDArray[np.complexfloating]:
    """A (..., h, w) probe for frames that are cropped to ``shape`` and binned.

    In the far field, a smaller detector makes coarser pixels, and binning a smaller field of view.

    Examples
    --------
    >>> probe = np.zeros((1, 1, 8, 8), complex)
    >>> probe[..., 4, 4] = 1
    >>> small = regridded_probe(probe, (4, 4), 1, near_field=False)
    >>> bool(np.allclose(abs(np.fft.fft2(small)), 1))
    True
    """
    if near_field:
        probe = _central(probe, shape)
        height, width = probe.shape[-2] // bin, probe.shape[-1] // bin
        blocks = probe.reshape(*probe.shape[:-2], height, bin, width, bin)
        return (bin * blocks.mean(axis=(-3, -1))).astype(probe.dtype)
    axes = (-2, -1)
    waves = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=axes)), axes=axes)
    kept = _central(waves, shape)
    fine = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kept, axes=axes)), axes=axes)
    return (bin * _central(fine, (shape[0] // bin, shape[1] // bin))).astype(probe.dtype)


def _central(
    array: NDArray[np.complexfloating], shape: tuple[int, int]
) -> NDArray[np.complexfloating]:
    starts = [whole // 2 - side // 2 for whole, side in zip(array.shape[-2:], shape)]
    rows, columns = (slice(a, a + side) for a, side in zip(starts, shape))
    return array[..., rows, columns]


def _growth(
    preparation: Preparation,
    stored_shape: tuple[int, ...],
    shape: tuple[int, ...],
    near_field: bool,
) -> float:
    """How many times as large as before an object pixel is after cropping and binning."""
    if near_field:
        return float(preparation.bin)
    growths = [stored / side for stored, side in zip(stored_shape, shape)]
    if not math.isclose(*growths, rel_tol=1e-6):
        raise ValueError(
            f"frames of {tuple(stored_shape)} cropped to {list(shape)} pixels make object pixels "
            "that are not square; crop both sides in the same proportion, or give the detector's "
            "geometry and a square crop."
        )
    return growths[1]


def _far_field(wavelength_m: float, angle_rad: float, shape: tuple[int, ...]) -> float:
    if shape[0] != shape[1]:
        raise ValueError(
            f"frames of {shape[0]} x {shape[1]} detector pixels make object pixels that are not "
            f"square; set crop = [{min(shape)}, {min(shape)}]."
        )
    return wavelength_m / (shape[1] * angle_rad)


def _angle(scan: Scan) -> float | None:
    told = scan.attributes.get("detector_pixel_angle_rad")
    return float(told) if told else None


def _ask_for(**known: float | None) -> None:
    missing = [name for name, value in known.items() if value is None]
    if missing:
        raise ValueError(
            f"the geometry needs {', '.join(missing)} as well, which the file does not tell; set "
            f"{' and '.join(f'data.{name}' for name in missing)}, or data.pixel_size_m alone."
        )


def _unknown_size(scan: Scan, found: Geometry, shape: tuple[int, ...]) -> str:
    keys = (
        {"electron_energy_eV": None}
        if _angle(scan)
        else {
            "wavelength_m or photon_energy_eV": found.wavelength_m,
            "detector_distance_m": found.detector_distance_m,
            "detector_pixel_size_m": scan.attributes.get("detector_pixel_size_m"),
        }
    )
    missing = [name for name, value in keys.items() if not value]
    return (
        f"it lacks the pixel size of the object, and for it {', '.join(missing)}; set these keys "
        "of [data], or pixel_size_m, in metres."
    )
