"""Scans of electron microscopes: four axes, two of the scan and two of the camera, with units."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ptychi_neural.scans.beamline import METRES, Instrument
from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.scan import Scan, scan_of_positions

ANGLES = {"rad": 1.0, "mrad": 1e-3, "urad": 1e-6, "µrad": 1e-6, "deg": math.pi / 180}


class Axis(NamedTuple):
    """An axis of an array."""

    size: int
    scale: float
    units: str

    @property
    def is_calibrated(self) -> bool:
        """Whether its step is known in any unit of measurement."""
        return {self.step_m, self.step_per_m, self.step_rad} != {None}

    @property
    def step_m(self) -> float | None:
        """Its step, if it is a length."""
        unit = METRES.get(self.units.strip())
        return None if unit is None or self.scale == 0 else abs(self.scale) * unit

    @property
    def step_per_m(self) -> float | None:
        """Its step, if it is a spatial frequency."""
        found = re.fullmatch(r"1\s*/\s*(\S+)|(\S+?)\^?[-⁻][1¹]", self.units.strip())
        unit = METRES.get((found[1] or found[2]).strip("()")) if found else None
        return None if unit is None or self.scale == 0 else abs(self.scale) / unit

    @property
    def step_rad(self) -> float | None:
        """Its step, if it is an angle."""
        unit = ANGLES.get(self.units.strip())
        return None if unit is None or self.scale == 0 else abs(self.scale) * unit


def scan_axes(axes: Sequence[Axis]) -> tuple[int, ...]:
    """Which axes of an array are those of the scan.

    The first ones are, unless units tell that the camera's come first.

    Examples
    --------
    >>> scan_axes([Axis(8, 0.1, "1/nm"), Axis(8, 0.1, "1/nm"), Axis(4, 1, "nm"), Axis(5, 1, "nm")])
    (2, 3)
    """
    first, last = axes[:-2], axes[-2:]
    camera_first = len(axes) == 4 and all(axis.step_m is None for axis in first)
    if camera_first and all(axis.step_m is not None for axis in last):
        return (2, 3)
    return tuple(range(len(axes) - 2))


def scan_of_axes(
    path: StrPath, scan: Sequence[Axis], camera: Sequence[Axis], electron_energy_eV: float | None
) -> Scan:
    """A scan whose positions and pixel size follow from calibrated axes.

    Raises
    ------
    ValueError
        If the axes of the scan have no unit of length.
    """
    steps = [axis.step_m for axis in scan]
    if len(scan) != 2 or None in steps:
        shape = [axis.size for axis in scan]
        raise ValueError(
            f"{path} has frames of a scan of {' x '.join(map(str, shape))} and no step of the scan "
            "in units of length; tell it: raster = { shape = [rows, columns], step_m = ... } in "
            "[data]."
        )
    rows, columns = np.indices([axis.size for axis in scan]).reshape(2, -1)
    positions_m = np.stack([rows * (steps[0] or 0), columns * (steps[1] or 0)], axis=1)
    found = scan_of_positions(positions_m)
    found.wavelength_m, _, attributes = instrument_of_axes(camera, electron_energy_eV)
    found.attributes = dict(attributes)
    return found


def instrument_of_axes(camera: Sequence[Axis], electron_energy_eV: float | None) -> Instrument:
    """The wavelength, and what calibrated axes of the camera tell of its pixels."""
    angle, frequency = camera[-1].step_rad, camera[-1].step_per_m
    attributes: dict[str, float | str] = {}
    if frequency is not None:
        attributes["detector_pixel_per_m"] = frequency
    elif angle is not None:
        attributes["detector_pixel_angle_rad"] = angle
    wavelength_m = None
    if electron_energy_eV:
        wavelength_m = Preparation(electron_energy_eV=electron_energy_eV).told_wavelength_m
    return Instrument(wavelength_m, None, attributes)
