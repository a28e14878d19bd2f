"""Numbers of the beamline in HDF5 files: lengths with units, the wavelength, the detector."""

from collections.abc import Mapping
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
    return Instrument(
        number(file, *wavelengths) or _wavelength_of_energy(file, energies),
        number(file, f"{detector}/distance", f"{detector}/detector_distance"),
        {"detector_pixel_size_m": size_m} if size_m else {},
    )


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
