"""Options of a simulation: what a ``[simulation]`` section of a run file may say."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from ptychi_neural.scans import mean_pattern_probe
from ptychi_neural.simulation.objects import AnyObject, DeadLeaves
from ptychi_neural.simulation.probes import AnyProbe, Gaussian, Probe, mixed_states
from ptychi_neural.simulation.scans import AnyScan, Positions, Raster
from ptychi_neural.simulation.sections import Section, Seed
from ptychi_neural.simulation.textures import ComplexObject
from ptychi_neural.simulation.variation import ProbeVariation


class SimulationOptions(Section):
    """A simulated scan; the defaults describe a small one that reconstructs well.

    >>> SimulationOptions(object={"kind": "cells", "radius_px": 10}, photons_per_frame=1e4).object
    Cells(amplitude_range=(0.6, 1.0), phase_range=(-1.0, 1.0), kind='cells', radius_px=10.0,
          coverage=0.9)
    """

    seed: int = Field(default=0, ge=0)
    """Seed of everything random. Object, scan, position errors, detector, beam and probe draw from
    separate streams, so that another dose leaves the object as it is."""

    noise_seed: int | None = Field(default=None, ge=0)
    """Seed of the counts alone, with which the same scan of the same object is exposed again.
    None: the counts follow from ``seed``."""

    name: str = "simulation"
    """Name of the scan in its files."""

    frame_shape: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = (32, 32)
    """(h, w) of probe and diffraction patterns in pixels."""

    object: AnyObject = DeadLeaves()

    n_slices: PositiveInt = 1
    """Number of slices of the object. Each is drawn anew. Amplitudes multiply and phases add up:
    reduce ``amplitude_range`` and ``phase_range`` of the object accordingly."""

    slice_spacing_m: float = Field(default=1e-5, gt=0)
    """Distance of neighbouring slices in metres."""

    probe: AnyProbe = Gaussian()

    scan: AnyScan = Raster()

    n_probe_modes: PositiveInt | None = None
    """Number of incoherent modes, which pty-chi makes from the probe's first. None: the probe keeps
    its own modes."""

    secondary_mode_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the power in each mode but the first, with ``n_probe_modes``."""

    probe_variation: ProbeVariation | None = None
    """How the probe changes from frame to frame. A reconstruction starts from pty-chi's guess of
    OPR modes and weights, which knows nothing of it. None: it does not change."""

    beam_variation: float = Field(default=0.0, ge=0)
    """Standard deviation of the beam's intensity from frame to frame, relative to its mean. It has
    a log-normal distribution, and a reconstruction is not told."""

    photons_per_frame: float = Field(default=1e5, gt=0, le=1e15)
    """Dose: expected counts per frame on a detector without faults, averaged over the scan."""

    read_noise_counts: float = Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise added to each pixel. The sum is cut off at 0, as by a
    detector's threshold, because there are no negative counts."""

    dead_pixel_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the detector's pixels that read 0 in all frames and are masked as invalid."""

    position_error_px: float = Field(default=0.0, ge=0)
    """Standard deviation, along each axis, of the nominal positions around the true ones."""

    probe_guess: Literal["optics", "mean_pattern"] = "optics"
    """What a reconstruction starts from: the true probe, with ``probe_defocus_error``; or the root
    of the mean pattern, in focus, as where nothing is known of the optics."""

    probe_defocus_error: FiniteFloat = 0.0
    """Relative error of the defocus of the probe that a reconstruction starts from. With 0 it
    starts from the true probe."""

    pixel_size_m: float = Field(default=1e-8, gt=0)
    """Object pixel size in metres."""

    wavelength_m: float = Field(default=1.24e-10, gt=0)
    """Wavelength in metres."""

    detector_distance_m: float = Field(default=0.2, gt=0)
    """Distance from specimen to detector in metres."""

    @model_validator(mode="after")
    def _defocus_error_has_an_effect(self) -> "SimulationOptions":
        if self.probe_defocus_error and self.probe_guess == "mean_pattern":
            raise ValueError(
                f"probe_defocus_error = {self.probe_defocus_error} has no effect on the root "
                'of the mean pattern: leave it at 0, or set probe_guess = "optics".'
            )
        if self.probe_defocus_error and not getattr(self.probe, "defocus", 0.0):
            raise ValueError(
                f"probe_defocus_error = {self.probe_defocus_error} needs a probe with a defocus: "
                f'this one, of kind "{self.probe.kind}", has none. Choose another or leave it at 0.'
            )
        return self

    def build_probe(self) -> Probe:
        """Compute the true probe, (n_modes, h, w) of unit power."""
        return self._with_modes(self.probe.build(self.frame_shape))

    def build_probe_guess(
        self, patterns: NDArray[np.generic], valid_pixel_mask: NDArray[np.bool_] | None
    ) -> Probe:
        """Compute the probe that a reconstruction starts from, (n_modes, h, w) of unit power.

        Parameters
        ----------
        patterns : ndarray
            (n, h, w) measured counts, of which a guess may be made.
        valid_pixel_mask : ndarray, optional
            (h, w) True where the detector works.
        """
        if self.probe_guess == "mean_pattern":
            return mixed_states(
                mean_pattern_probe(patterns, valid_pixel_mask)[0].astype(complex),
                n_modes=len(self.build_probe()),
                secondary_fraction=self.secondary_mode_fraction,
            )
        guess = self.probe
        if self.probe_defocus_error:
            wrong = getattr(guess, "defocus", 0.0) * (1 + self.probe_defocus_error)
            guess = guess.model_copy(update={"defocus": wrong})
        return self._with_modes(guess.build(self.frame_shape))

    def build_positions(self, seed: Seed) -> Positions:
        """Place the true positions, (n, 2) in pixels."""
        return self.scan.build(seed)

    def build_object(self, shape: tuple[int, int], rng: np.random.Generator) -> ComplexObject:
        """Make the true object, (n_slices, H, W)."""
        return np.stack([self.object.build(shape, rng) for _ in range(self.n_slices)])

    def build_beam(self, n_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the (n_frames,) intensities of the beam, relative to their mean."""
        spread = np.log1p(self.beam_variation**2)
        beam = np.exp(rng.normal(0, np.sqrt(spread), n_frames))
        return beam / beam.mean()

    def _with_modes(self, probe: Probe) -> Probe:
        if self.n_probe_modes is None:
            return probe
        return mixed_states(
            probe, n_modes=self.n_probe_modes, secondary_fraction=self.secondary_mode_fraction
        )
