"""Simulated probes: complex (n_modes, h, w) wavefields whose intensities sum to one.

Each kind is a class that has the options of a run file and computes the probe in ``build``. A new
kind needs a class here and a place in ``AnyProbe``.

Distances along the beam are given without wavelength or pixel size, as

    defocus = wavelength * distance / (N pixel_size^2),    N = min(h, w),

so that a probe keeps its share of the frame when the frame grows. Free space is pty-chi's
angular spectrum; a beam stays in the frame if its angles stay below 1 / |defocus| of Nyquist.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.propagate import (
    AngularSpectrumPropagator,
    FourierPropagator,
    WavefieldPropagatorParameters,
)
from ptychi.utils import orthogonalize_initial_probe
from pydantic import Field, FiniteFloat
from scipy import ndimage
from skimage.restoration import unwrap_phase

from ptychi_neural.simulation.files import read_array
from ptychi_neural.simulation.precision import double_precision_on_cpu
from ptychi_neural.simulation.sections import Section

Probe = NDArray[np.complex128]

PUBLISHED_SMOOTHING_PX = 0.5

PARAXIAL_PIXEL_WAVELENGTHS = 100.0
"""Pixel size in wavelengths at which probes are propagated: large enough to be paraxial."""


class Gaussian(Section):
    """Gaussian beam at a distance from its waist."""

    kind: Literal["gaussian"] = "gaussian"

    sigma_px: float = Field(default=0.8, gt=0)
    """Standard deviation of the intensity at the waist."""

    defocus: FiniteFloat = 1.35
    """Distance from the waist, times wavelength / (N pixel_size^2); 0 is the flat waist itself.
    The standard deviation grows to sigma_px sqrt(1 + (N defocus / (4 pi sigma_px^2))^2)."""

    def build(self, shape: tuple[int, int]) -> Probe:
        """Compute the (1, h, w) probe."""
        y, x = coordinates(shape)
        waist = np.exp(-(y**2 + x**2) / (4 * self.sigma_px**2)).astype(complex)
        return _unit_power(propagate(waist[None], self.defocus))


class ZonePlate(Section):
    """Beam of a Fresnel zone plate with a central stop, at a distance from its focus.

    The footprint is a ring of outer diameter outer |defocus| N.
    """

    kind: Literal["zone_plate"] = "zone_plate"

    outer: float = Field(default=0.5, gt=0, le=1)
    """Radius of the zone plate's cone on the detector, as a fraction of the detector's half
    side."""

    central_stop: float = Field(default=0.35, ge=0, lt=1)
    """Radius of the central stop, as a fraction of the zone plate's."""

    defocus: FiniteFloat = 0.9
    """Distance from the focus, times wavelength / (N pixel_size^2)."""

    def build(self, shape: tuple[int, int]) -> Probe:
        """Compute the (1, h, w) probe."""
        y, x = coordinates(shape)
        radius = np.hypot(y / shape[0], x / shape[1]) * 2  # 1 at the edge of the detector
        edge = 1 / min(shape)
        stop = _disc(radius, self.outer * self.central_stop, edge)
        pupil = _disc(radius, self.outer, edge) - stop
        with double_precision_on_cpu():
            pupil_at_corner = torch.fft.ifftshift(torch.from_numpy(pupil.astype(complex)))
            focus = torch.fft.fftshift(FourierPropagator().propagate_backward(pupil_at_corner))
        return _unit_power(propagate(focus.numpy()[None], self.defocus))


class Aperture(Section):
    """Round aperture, Fresnel-propagated to the specimen."""

    kind: Literal["aperture"] = "aperture"

    radius: float = Field(default=0.2, gt=0, lt=0.5)
    """Radius of the aperture, as a fraction of the frame's shorter side."""

    defocus: FiniteFloat = 0.3
    """Distance from the aperture to the specimen, times wavelength / (N pixel_size^2)."""

    def build(self, shape: tuple[int, int]) -> Probe:
        """Compute the (1, h, w) probe."""
        y, x = coordinates(shape)
        opening = _disc(np.hypot(y, x), self.radius * min(shape), 0.5)
        return _unit_power(propagate(opening[None].astype(complex), self.defocus))


class ProbeFile(Section):
    """A probe in a NumPy file or an HDF5 file such as a ptychodus product."""

    kind: Literal["file"] = "file"

    path: Path
    """``.npy`` file, or HDF5 file of any other suffix, of an (h, w), (n_modes, h, w) or
    (n_opr_modes, n_modes, h, w) probe, of which the first OPR mode is taken."""

    dataset: str = "probe"
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int]) -> Probe:
        """Read the (n_modes, h, w) probe.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            If there is no such file or dataset, or if it is no probe of the frames' shape.
        """
        probe = _read_probe(self.path, self.dataset)
        if probe.shape[-2:] != shape:
            raise ValueError(
                f"The probe in {self.path} is {probe.shape[-2:]}, the frames are {shape}: set "
                f"frame_shape = {list(probe.shape[-2:])}."
            )
        return probe


class PublishedProbe(Section):
    """A measured probe enlarged as in PtychoPINN's benchmark.

    The amplitude of its first mode is padded with its edges; the phase is the parabola
    a r^2 + b that fits its unwrapped phase; the wavefield is smoothed. Published is Run1084 of
    LCLS, (64, 64), enlarged to frames of (128, 128).

    References
    ----------
    Repository PtychoPINN (Hoidn et al., Scientific Reports 13, 22789 (2023)).
    """

    kind: Literal["published"] = "published"

    path: Path
    """NumPy or HDF5 file of the measured probe, see ``ProbeFile``."""

    dataset: str = "probe"
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int]) -> Probe:
        """Read the measured probe and enlarge it to (1, h, w).

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            If there is no such file or dataset, or if it is no probe, or larger than the frames.
        """
        measured = _read_probe(self.path, self.dataset)[0]
        margins = [side - own for side, own in zip(shape, measured.shape)]
        if min(margins) < 0:
            raise ValueError(
                f"path: the probe in {self.path} is {measured.shape}, the frames are {shape}."
            )
        y, x = coordinates(measured.shape)
        phase = unwrap_phase(np.angle(measured))
        parabola = np.polynomial.Polynomial.fit((y**2 + x**2).ravel(), phase.ravel(), 1)
        # The image centre n // 2 stays the image centre.
        before = [side // 2 - own // 2 for side, own in zip(shape, measured.shape)]
        padding = [(start, margin - start) for start, margin in zip(before, margins)]
        y, x = coordinates(shape)
        amplitude = np.pad(np.abs(measured), padding, mode="edge")
        enlarged = amplitude * np.exp(1j * parabola(y**2 + x**2))
        return _unit_power(ndimage.gaussian_filter(enlarged, PUBLISHED_SMOOTHING_PX)[None])


AnyProbe = Annotated[
    Gaussian | ZonePlate | Aperture | ProbeFile | PublishedProbe, Field(discriminator="kind")
]


def mixed_states(probe: Probe, *, n_modes: int, secondary_fraction: float) -> Probe:
    """Make mutually incoherent modes of Hermite form from a probe's first mode, by pty-chi.

    Parameters
    ----------
    probe : ndarray
        (n, h, w) complex probe.
    n_modes : int
        Number of modes of the result.
    secondary_fraction : float
        Share of the power in each mode but the first.

    Returns
    -------
    ndarray
        (n_modes, h, w) complex probe of unit power.

    Raises
    ------
    ValueError
        If no power is left for the first mode.
    """
    if (n_modes - 1) * secondary_fraction >= 1:
        raise ValueError(
            f"secondary_fraction = {secondary_fraction} in each of {n_modes - 1} modes leaves no "
            "power for the first: reduce it, or n_modes."
        )
    modes = np.zeros((1, n_modes, *probe.shape[-2:]), dtype=complex)
    modes[0, 0] = probe[0]
    with double_precision_on_cpu():
        mixed = orthogonalize_initial_probe(
            torch.from_numpy(modes), secondary_mode_energy=secondary_fraction
        )
    return _unit_power(mixed[0].numpy())


def propagate(probe: Probe, defocus: float) -> Probe:
    """Carry a probe through free space with pty-chi's angular spectrum.

    Parameters
    ----------
    probe : ndarray
        (n_modes, h, w) complex wavefield.
    defocus : float
        Distance (see the module's head).

    Returns
    -------
    ndarray
        (n_modes, h, w) complex wavefield.
    """
    if defocus == 0:
        return probe
    height, width = probe.shape[-2:]
    with double_precision_on_cpu():
        propagator = AngularSpectrumPropagator(
            WavefieldPropagatorParameters(
                width_px=width,
                height_px=height,
                wavelength_m=1.0,
                pixel_width_wlu=PARAXIAL_PIXEL_WAVELENGTHS,
                pixel_aspect_ratio=1.0,
                propagation_distance_wlu=(
                    defocus * min(height, width) * PARAXIAL_PIXEL_WAVELENGTHS**2
                ),
            )
        )
        return propagator.propagate_forward(torch.from_numpy(probe)).numpy()


def _read_probe(path: Path, dataset: str) -> Probe:
    """Read the (n_modes, h, w) probe of unit power in a file."""
    probe = read_array(path, dataset, "probe")
    if probe.ndim == 4:
        probe = probe[0]
    if probe.ndim not in (2, 3):
        raise ValueError(
            f"path: a probe has 2 to 4 axes, (n_opr_modes, n_modes, h, w), not {probe.shape}."
        )
    if not probe.any():
        raise ValueError(f"path: the probe in {path} carries no light.")
    return _unit_power(probe.reshape(-1, *probe.shape[-2:]))


def coordinates(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(h, 1) and (1, w) pixel coordinates, 0 at the image centre (h // 2, w // 2)."""
    y, x = (np.arange(side, dtype=float) - side // 2 for side in shape)
    return y[:, None], x[None, :]


def _disc(distance: NDArray[np.float64], radius: float, edge: float) -> NDArray[np.float64]:
    """1 inside ``radius``, 0 outside, linear over ``edge`` to both sides of it."""
    return np.clip((radius - distance) / (2 * edge) + 0.5, 0, 1)


def _unit_power(probe: Probe) -> Probe:
    return probe / np.linalg.norm(probe)
