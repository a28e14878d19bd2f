"""Numbers of the beamline in HDF5 files: lengths with units, and the wavelength."""

import h5py
import numpy as np
from scipy.constants import c, e, h

from ptychi_neural.scans.hdf5 import find, read, text, where
from ptychi_neural.scans.scan import Scan

METRES = {
    "m": 1.0,
    "mm": 1e-3,
    "um": 1e-6,
    "µm": 1e-6,
    "micron": 1e-6,
    "microns": 1e-6,
    "nm": 1e-9,
    "angstrom": 1e-10,
    "Angstrom": 1e-10,
    "a": 1e-10,
    "Å": 1e-10,
    "A": 1e-10,
}
"""Units of length, as files spell them, in metres."""


def length_in_metres(data: h5py.Dataset) -> float:
    """The unit of a dataset, from its attribute ``units``; metres where there is none."""
    unit = text(data.attrs.get("units", "m")).strip() or "m"
    if unit not in METRES:
        raise ValueError(f"{where(data)} is in {unit!r}; write it in metres.")
    return METRES[unit]


def number(file: h5py.File, *names: str) -> float | None:
    """A length in metres, or another number; the mean where it was taken for each frame.

    None where the file does not have it.
    """
    data = find(file, *names)
    if data is None or data.dtype.kind not in "uif" or data.size in (0, None):
        return None
    unit = text(data.attrs.get("units", "")).strip()
    return float(np.mean(read(data))) * METRES.get(unit, 1.0)


def wavelength(file: h5py.File, wavelength_name: str, energy_name: str) -> float | None:
    """The wavelength in metres, from itself or from the photon energy in joules or electronvolts.

    No photon of an experiment has 1e-10 J (600 MeV), so that larger numbers are electronvolts.
    """
    wavelength_m = number(file, wavelength_name)
    if wavelength_m:
        return wavelength_m
    energy = find(file, energy_name)
    if energy is None or energy.size in (0, None):
        return None
    joules = float(np.mean(read(energy)))
    unit = text(energy.attrs.get("units", "")).strip().lower()
    joules *= {"ev": e, "kev": 1e3 * e, "mev": 1e6 * e}.get(unit, e if joules > 1e-10 else 1.0)
    return h * c / joules if joules > 0 else None


def detector_pixel_sizes(scan: Scan) -> tuple[float, ...]:
    """(height, width) of a detector pixel in metres, lambda z / (N d); empty where unknown."""
    near_field = scan.free_space_propagation_distance_m is not None
    if near_field or not scan.wavelength_m or not scan.detector_distance_m:
        return ()
    far_field_m2 = scan.wavelength_m * scan.detector_distance_m
    return tuple(far_field_m2 / (n * scan.pixel_size_m) for n in scan.probe.shape[-2:])
