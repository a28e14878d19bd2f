"""Numbers of the beamline in HDF5 files: lengths with units, the wavelength, the detector."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import h5py
import numpy as np
from scipy.constants import c, e, h

from ptychi_neural.scans.hdf5 import find, read, text, where
from ptychi_neural.scans.scan import Scan

METRES = {
    spelling: unit
    for unit, spellings in {
        1.0: "m meter meters metre metres",
        1e-3: "mm millimeter millimeters millimetre millimetres",
        1e-6: "um µm \u03bcm micron microns micrometer micrometers micrometre micrometres",
        1e-9: "nm nanometer nanometers nanometre nanometres",
        1e-10: "angstrom Angstrom angstroms a Å A",
        1e-12: "pm picometer picometers picometre picometres",
    }.items()
    for spelling in spellings.split()
}
"""Units of length, as files spell them, in metres."""


DETECTOR_PIXEL_M = (1e-7, 1e-2)
"""Bounds of the sides of detector pixels in metres, beyond which they have another unit."""

FARTHEST_M = 500.0
"""Largest distance of a detector in metres, beyond which it has another unit."""

SOFTEST_EV = 20.0
"""Numbers up to it, in files that tell no unit, may be an energy in kiloelectronvolts, too."""

PHOTON_J = (e, 1e6 * e)
"""Least and largest energy of a photon of an experiment: that of a machine is larger."""


class Instrument(NamedTuple):
    """What a file of patterns tells of beam and detector."""

    wavelength_m: float | None = None
    detector_distance_m: float | None = None
    attributes: Mapping[str, float | str] = MappingProxyType({})
    """Those of a scan that tell the size of a detector pixel."""


def instrument(
    file: h5py.File, detector: str, wavelengths: tuple[str, ...], energies: tuple[str, ...]
) -> Instrument:
    """Beam and detector of an HDF5 file.

    Parameters
    ----------
    file : h5py.File
        The file.
    detector : str
        Pattern of the names of the detector's group.
    wavelengths, energies : tuple of str
        Patterns of the names of wavelengths and photon energies, in the order of trust.
    """
    size_m = number(file, f"{detector}/x_pixel_size", f"{detector}/y_pixel_size")
    if size_m and not DETECTOR_PIXEL_M[0] < size_m < DETECTOR_PIXEL_M[1]:
        _doubt(file, "detector pixels", size_m, "detector_pixel_size_m", "pixel_size_m")
    distance_m = number(file, f"{detector}/distance", f"{detector}/detector_distance")
    if distance_m and abs(distance_m) > FARTHEST_M:
        _doubt(file, "the detector's distance", distance_m, "detector_distance_m")
    return Instrument(
        number(file, *wavelengths) or _wavelength_of_energy(file, energies),
        abs(distance_m) if distance_m else None,  # NeXus counts it along the beam, others against.
        {"detector_pixel_size_m": size_m} if size_m else {},
    )


def _doubt(file: h5py.File, what: str, length_m: float, *keys: str) -> None:
    """Tell that a length without a unit is hardly in metres."""
    warnings.warn(
        f"{file.filename}: {what}: {length_m:.4g} m: the file has another unit and does not tell "
        f"it; set {' or '.join(keys)} of [data].",
        stacklevel=1,
    )


@contextmanager
def settled(keys: Collection[str]) -> Iterator[None]:
    """Do not doubt what a run file tells by these keys in place of the file."""
    with warnings.catch_warnings():
        for key in keys:
            warnings.filterwarnings("ignore", rf".*; set (\w+ or )?{key}\b")
        yield


def length_in_metres(data: h5py.Dataset) -> float:
    """The unit of a dataset, from its attribute ``units``; metres where there is none."""
    unit = told_unit(data) or "m"
    if unit not in METRES:
        raise ValueError(f"{where(data)} is in {unit!r}; write it in metres.")
    return METRES[unit]


def told_unit(data: h5py.Dataset) -> str:
    """What a dataset tells of its unit, by the attribute ``units`` or ``unit``; or nothing."""
    return text(data.attrs.get("units", data.attrs.get("unit", ""))).strip()


def number(file: h5py.File, *names: str) -> float | None:
    """A length in metres, or another number; the mean where it was taken for each frame.

    None where the file does not have it.
    """
    data = find(file, *names)
    if data is None or data.dtype.kind not in "uif" or data.size in (0, None):
        return None
    return float(np.mean(read(data))) * METRES.get(told_unit(data), 1.0)


def _wavelength_of_energy(file: h5py.File, names: tuple[str, ...]) -> float | None:
    """The wavelength in metres of the first energy that is a photon's, in joules or electronvolts.

    Without a unit, numbers that are no photon's energy in joules are electronvolts.
    """
    for name in names:
        energy = find(file, name)
        if energy is None or energy.dtype.kind not in "uif" or energy.size in (0, None):
            continue
        told = float(np.mean(read(energy)))
        unit = told_unit(energy).lower()
        units = {"ev": (e,), "kev": (1e3 * e,), "mev": (1e6 * e,), "j": (1.0,)}.get(unit, (1.0, e))
        for joules in (told * unit_J for unit_J in units):
            if PHOTON_J[0] < joules < PHOTON_J[1]:
                if not unit and 1 < told < SOFTEST_EV:
                    warnings.warn(
                        f"{where(energy)} is taken for {told:.4g} eV, as it has no unit; set "
                        f"photon_energy_eV = {1e3 * told:.6g} of [data] if it is in keV.",
                        stacklevel=1,
                    )
                return h * c / joules
    return None


def detector_pixel_sizes(scan: Scan) -> tuple[float, ...]:
    """(height, width) of a detector pixel in metres, lambda z / (N d); empty where unknown."""
    near_field = scan.free_space_propagation_distance_m is not None
    size_m = scan.known_pixel_size_m
    if near_field or not (size_m and scan.wavelength_m and scan.detector_distance_m):
        return ()
    far_field_m2 = scan.wavelength_m * scan.detector_distance_m
    return tuple(far_field_m2 / (n * size_m) for n in scan.probe.shape[-2:])
