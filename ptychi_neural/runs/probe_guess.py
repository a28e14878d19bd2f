"""Probes to start from where a file has none, from the optics of the instrument."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ptychi_neural.scans import Scan, mean_pattern_probe


class MeanPattern(BaseModel):
    """The root of the mean pattern, in focus: what is taken where nothing else is known."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["mean_pattern"] = "mean_pattern"


class Aperture(BaseModel):
    """A round aperture in the pupil of a lens, as in an electron microscope."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["aperture"] = "aperture"

    semi_angle_rad: float = Field(gt=0)
    """Half the angle of the cone of light."""

    defocus_m: FiniteFloat = 0.0
    """Distance from the focus to the sample, positive where the sample is downstream."""

    def cone(self, wavelength_m: float) -> tuple[float, float]:
        """The cone's half angle in radian, and the part of it that a central stop takes."""
        return self.semi_angle_rad, 0.0


class ZonePlate(BaseModel):
    """A Fresnel zone plate with a central stop, in its first order."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["zone_plate"] = "zone_plate"

    diameter_m: float = Field(gt=0)
    """Diameter of the zone plate."""

    outermost_zone_width_m: float = Field(gt=0)
    """Width of its outermost zone."""

    central_stop_diameter_m: float = Field(default=0.0, ge=0)
    """Diameter of the central stop."""

    defocus_m: FiniteFloat = 0.0
    """Distance from the focus to the sample, positive where the sample is downstream."""

    def cone(self, wavelength_m: float) -> tuple[float, float]:
        """The cone's half angle in radian, lambda / (2 dr), and the part that the stop takes."""
        half_angle = wavelength_m / (2 * self.outermost_zone_width_m)
        return half_angle, self.central_stop_diameter_m / self.diameter_m


ProbeGuess = Annotated[MeanPattern | Aperture | ZonePlate, Field(discriminator="kind")]


def guessed_probe(guess: MeanPattern | Aperture | ZonePlate, scan: Scan) -> NDArray[np.complex64]:
    """The (1, 1, h, w) probe, as bright as the scan's patterns.

    Raises
    ------
    ValueError
        If the wavelength is unknown, the cone is wider than the detector, or the beam wider than
        the field of view.
    """
    near_field = scan.free_space_propagation_distance_m is not None
    if isinstance(guess, MeanPattern):
        return mean_pattern_probe(scan.patterns, scan.valid_pixel_mask, near_field)
    if scan.wavelength_m is None:
        raise ValueError(
            f"data.probe: a probe of the kind {guess.kind!r} needs the wavelength; set "
            "data.photon_energy_eV, data.electron_energy_eV or data.wavelength_m."
        )
    half_angle, stop = guess.cone(scan.wavelength_m)
    largest = scan.wavelength_m / (2 * scan.pixel_size_m)  # of the detector in the far field
    if half_angle > largest:
        raise ValueError(
            f"data.probe: a cone of {half_angle:.3g} rad is wider than the detector's half side, "
            f"{largest:.3g} rad; check {guess.kind} and pixel size ({scan.pixel_size_m:.4g} m)."
        )
    if stop >= 1:
        raise ValueError("data.probe: the central stop covers the zone plate; give diameters in m.")
    shape = scan.patterns.shape[1:]
    side_m = min(shape) * scan.pixel_size_m
    width_m = 2 * half_angle * abs(guess.defocus_m)
    if width_m > side_m:
        raise ValueError(
            f"data.probe: {guess.defocus_m:.3g} m from the focus the beam is {width_m:.3g} m wide, "
            f"the field of view {side_m:.3g} m; check the defocus."
        )
    from ptychi_neural.simulation import ZonePlate as SimulatedZonePlate  # imports pty-chi

    defocus = scan.wavelength_m * guess.defocus_m / (side_m * scan.pixel_size_m)
    optics = SimulatedZonePlate(outer=half_angle / largest, central_stop=stop, defocus=defocus)
    probe = optics.build((shape[0], shape[1]))[None]
    counts = scan.patterns.mean(axis=0, dtype=np.float64).sum(
        where=True if scan.valid_pixel_mask is None else scan.valid_pixel_mask
    )
    n_fourier = 1 if near_field else shape[0] * shape[1]  # pty-chi's transform is not normalised
    return (probe * np.sqrt(counts / n_fourier)).astype(np.complex64)
