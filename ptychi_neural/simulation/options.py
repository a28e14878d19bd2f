"""Options of a simulation: what a ``[simulation]`` table of a run file may say."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, model_validator

from ptychi_neural.simulation import objects, probes, scans


def _default(function: Callable[..., Any], parameter: str) -> Any:
    """The default of a function's parameter: the one place where it stands."""
    return inspect.signature(function).parameters[parameter].default


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)

    def _arguments(self) -> dict[str, Any]:
        return self.model_dump(exclude={"kind"})


class _Ranges(_Model):
    amplitude_range: tuple[
        Annotated[FiniteFloat, Field(ge=0)], Annotated[FiniteFloat, Field(gt=0)]
    ] = _default(objects.lines, "amplitude_range")
    """Smallest and largest amplitude."""

    phase_range: tuple[FiniteFloat, FiniteFloat] = _default(objects.lines, "phase_range")
    """Smallest and largest phase in radians."""

    @model_validator(mode="after")
    def _ordered(self) -> "_Ranges":
        for name in ("amplitude_range", "phase_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} = ({low}, {high}) must be (smallest, largest).")
        return self


class Lines(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.lines`."""

    kind: Literal["lines"] = "lines"

    n_lines: PositiveInt | None = _default(objects.lines, "n_lines")
    """Number of lines on a canvas of twice the size. None: the published density."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.lines(shape, seed, **self._arguments())


class PublishedLines(_Model):
    """:func:`~ptychi_neural.simulation.objects.published_lines`, to recreate that benchmark."""

    kind: Literal["published_lines"] = "published_lines"

    patch_shape: tuple[PositiveInt, PositiveInt] = _default(objects.published_lines, "patch_shape")
    """(h, w) of the diffraction patterns, in which the amplitude is normalised."""

    n_lines: PositiveInt | None = _default(objects.published_lines, "n_lines")
    """Number of lines on a canvas of twice the size. None: the published density."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.published_lines(shape, seed, **self._arguments())


class DeadLeaves(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.dead_leaves`."""

    kind: Literal["dead_leaves"] = "dead_leaves"

    smallest_radius_px: float = Field(
        default=_default(objects.dead_leaves, "smallest_radius_px"), gt=0
    )
    """Smallest radius of a disc."""

    largest_radius_px: float = Field(
        default=_default(objects.dead_leaves, "largest_radius_px"), gt=0
    )
    """Largest radius of a disc."""

    smoothing_px: float = Field(default=_default(objects.dead_leaves, "smoothing_px"), ge=0)
    """Sigma of the Gaussian that softens the edges."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.dead_leaves(shape, seed, **self._arguments())


class SiemensStar(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.siemens_star`."""

    kind: Literal["siemens_star"] = "siemens_star"

    n_spokes: PositiveInt = _default(objects.siemens_star, "n_spokes")
    """Number of spokes."""

    smoothing_px: float = Field(default=_default(objects.siemens_star, "smoothing_px"), ge=0)
    """Sigma of the Gaussian that softens the edges."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.siemens_star(shape, seed, **self._arguments())


class Cells(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.cells`."""

    kind: Literal["cells"] = "cells"

    radius_px: float = Field(default=_default(objects.cells, "radius_px"), ge=3)
    """Mean radius of a cell."""

    coverage: float = Field(default=_default(objects.cells, "coverage"), gt=0)
    """Sum of the cells' areas over the area of the object."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.cells(shape, seed, **self._arguments())


class ImagePair(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.image_pair`."""

    kind: Literal["image_pair"] = "image_pair"

    amplitude_image: Path
    """Image file that becomes the amplitude."""

    phase_image: Path
    """Image file that becomes the phase."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        """The images leave nothing to the seed."""
        return objects.image_pair(shape, **self._arguments())


class Natural(_Ranges):
    """:func:`~ptychi_neural.simulation.objects.natural`."""

    kind: Literal["natural"] = "natural"

    amplitude_image: objects.SampleImage = _default(objects.natural, "amplitude_image")
    """Sample image of scikit-image of which a part becomes the amplitude."""

    phase_image: objects.SampleImage = _default(objects.natural, "phase_image")
    """Sample image of which a part becomes the phase."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        return objects.natural(shape, seed, **self._arguments())


class ObjectFile(_Model):
    """:func:`~ptychi_neural.simulation.objects.from_file`."""

    kind: Literal["file"] = "file"

    path: Path
    """NumPy or HDF5 file of the object."""

    dataset: str = _default(objects.from_file, "dataset")
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        """The file leaves nothing to the seed."""
        return objects.from_file(shape, **self._arguments())


class Gaussian(_Model):
    """:func:`~ptychi_neural.simulation.probes.gaussian`."""

    kind: Literal["gaussian"] = "gaussian"

    sigma_px: float = Field(default=_default(probes.gaussian, "sigma_px"), gt=0)
    """Standard deviation of the intensity at the waist."""

    defocus: FiniteFloat = _default(probes.gaussian, "defocus")
    """Distance from the waist, times wavelength / (N pixel_size^2)."""

    def build(self, shape: tuple[int, int]) -> probes.Probe:
        return probes.gaussian(shape, **self._arguments())


class ZonePlate(_Model):
    """:func:`~ptychi_neural.simulation.probes.zone_plate`."""

    kind: Literal["zone_plate"] = "zone_plate"

    outer: float = Field(default=_default(probes.zone_plate, "outer"), gt=0, le=1)
    """Radius of the cone on the detector, as a fraction of its half side."""

    central_stop: float = Field(default=_default(probes.zone_plate, "central_stop"), ge=0, lt=1)
    """Radius of the central stop, as a fraction of the zone plate's."""

    defocus: FiniteFloat = _default(probes.zone_plate, "defocus")
    """Distance from the focus, times wavelength / (N pixel_size^2)."""

    def build(self, shape: tuple[int, int]) -> probes.Probe:
        return probes.zone_plate(shape, **self._arguments())


class Aperture(_Model):
    """:func:`~ptychi_neural.simulation.probes.aperture`."""

    kind: Literal["aperture"] = "aperture"

    radius: float = Field(default=_default(probes.aperture, "radius"), gt=0, lt=0.5)
    """Radius of the aperture, as a fraction of the frame's shorter side."""

    defocus: FiniteFloat = _default(probes.aperture, "defocus")
    """Distance from the aperture to the specimen, times wavelength / (N pixel_size^2)."""

    def build(self, shape: tuple[int, int]) -> probes.Probe:
        return probes.aperture(shape, **self._arguments())


class ProbeFile(_Model):
    """:func:`~ptychi_neural.simulation.probes.from_file`."""

    kind: Literal["file"] = "file"

    path: Path
    """NumPy or HDF5 file of the probe."""

    dataset: str = _default(probes.from_file, "dataset")
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int]) -> probes.Probe:
        """The file's probe.

        Raises
        ------
        ValueError
            If it has another shape than the frames.
        """
        probe = probes.from_file(**self._arguments())
        if probe.shape[-2:] != shape:
            raise ValueError(
                f"The probe in {self.path} is {probe.shape[-2:]}, the frames are {shape}: set "
                f"frame_shape = {list(probe.shape[-2:])}."
            )
        return probe


class PublishedProbe(_Model):
    """:func:`~ptychi_neural.simulation.probes.published`, to recreate that benchmark."""

    kind: Literal["published"] = "published"

    path: Path
    """NumPy or HDF5 file of the measured probe."""

    dataset: str = _default(probes.published, "dataset")
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int]) -> probes.Probe:
        return probes.published(shape, **self._arguments())


class Raster(_Model):
    """:func:`~ptychi_neural.simulation.scans.raster`."""

    kind: Literal["raster"] = "raster"

    n_y: PositiveInt = 20
    """Number of rows."""

    n_x: PositiveInt = 20
    """Number of points in a row."""

    step_px: float = Field(default=4.0, gt=0)
    """Distance of neighbouring points before jitter."""

    jitter_px: float = Field(default=1.0, ge=0)
    """Largest random displacement along an axis. 0 gives a perfect raster, whose
    reconstructions have artefacts of the period of the step."""

    def build(self, seed: objects.Seed) -> scans.Positions:
        return scans.raster(seed=seed, **self._arguments())


class FermatSpiral(_Model):
    """:func:`~ptychi_neural.simulation.scans.fermat_spiral`."""

    kind: Literal["fermat_spiral"] = "fermat_spiral"

    n: PositiveInt = 400
    """Number of points."""

    step_px: float = Field(default=4.0, gt=0)
    """Side of the square that has a point's share of the area."""

    def build(self, seed: objects.Seed) -> scans.Positions:
        """The spiral leaves nothing to the seed."""
        return scans.fermat_spiral(**self._arguments())


class Concentric(_Model):
    """:func:`~ptychi_neural.simulation.scans.concentric`."""

    kind: Literal["concentric"] = "concentric"

    n_rings: PositiveInt = 11
    """Number of rings around the centre point."""

    step_px: float = Field(default=4.0, gt=0)
    """Distance of neighbouring rings."""

    n_first_ring: PositiveInt = 6
    """Number of points on the innermost ring; ring j has j times as many."""

    def build(self, seed: objects.Seed) -> scans.Positions:
        """The rings leave nothing to the seed."""
        return scans.concentric(**self._arguments())


class Line(_Model):
    """:func:`~ptychi_neural.simulation.scans.line`."""

    kind: Literal["line"] = "line"

    n: PositiveInt = 100
    """Number of points."""

    step_px: float = Field(default=2.0, gt=0)
    """Distance of neighbouring points."""

    angle_deg: FiniteFloat = 0.0
    """Direction, from the x axis towards the y axis."""

    def build(self, seed: objects.Seed) -> scans.Positions:
        """The line leaves nothing to the seed."""
        return scans.line(**self._arguments())


AnyObject = Annotated[
    Lines | PublishedLines | DeadLeaves | SiemensStar | Cells | ImagePair | Natural | ObjectFile,
    Field(discriminator="kind"),
]
AnyProbe = Annotated[
    Gaussian | ZonePlate | Aperture | ProbeFile | PublishedProbe, Field(discriminator="kind")
]
AnyScan = Annotated[Raster | FermatSpiral | Concentric | Line, Field(discriminator="kind")]


class SimulationOptions(_Model):
    """A simulated scan; the defaults are a small one that reconstructs well.

    >>> SimulationOptions(object={"kind": "cells", "radius_px": 10}, photons_per_frame=1e4).object
    Cells(amplitude_range=(0.6, 1.0), phase_range=(-1.0, 1.0), kind='cells', radius_px=10.0,
          coverage=0.9)
    """

    seed: int = Field(default=0, ge=0)
    """Everything random follows from it. Object, scan, position errors and detector draw from
    separate streams: another dose leaves the object as it is."""

    noise_seed: int | None = Field(default=None, ge=0)
    """Seed of the counts alone: the same scan of the same object, exposed again. None: they follow
    from ``seed``."""

    name: str = "simulation"
    """Name of the scan in its files."""

    frame_shape: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = (32, 32)
    """(h, w) of probe and diffraction patterns in pixels."""

    object: AnyObject = DeadLeaves()

    probe: AnyProbe = Gaussian()

    scan: AnyScan = Raster()

    n_probe_modes: PositiveInt | None = None
    """Number of incoherent modes, made from the probe's first by pty-chi. None: as the probe
    comes."""

    secondary_mode_fraction: float = Field(default=0.05, gt=0, lt=1)
    """Share of the power in each mode but the first, with ``n_probe_modes``."""

    photons_per_frame: float = Field(default=1e5, gt=0, le=1e15)
    """Dose: expected counts per frame on a detector without faults, averaged over the scan."""

    read_noise_counts: float = Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise added to each pixel. The sum is cut off at 0, as by a
    detector's threshold, because a negative count is none."""

    dead_pixel_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the detector's pixels that read 0 in all frames and are masked as invalid."""

    position_error_px: float = Field(default=0.0, ge=0)
    """Standard deviation, along each axis, of the nominal positions around the true ones."""

    probe_defocus_error: FiniteFloat = 0.0
    """Relative error of the defocus of the probe that a reconstruction starts from. 0: it starts
    from the true probe."""

    pixel_size_m: float = Field(default=1e-8, gt=0)
    """Object pixel size in metres."""

    wavelength_m: float = Field(default=1.24e-10, gt=0)
    """Wavelength in metres."""

    detector_distance_m: float = Field(default=0.2, gt=0)
    """Distance from specimen to detector in metres."""

    @model_validator(mode="after")
    def _defocus_error_has_an_effect(self) -> "SimulationOptions":
        if self.probe_defocus_error and not getattr(self.probe, "defocus", 0.0):
            raise ValueError(
                f"probe_defocus_error = {self.probe_defocus_error} needs a probe with a defocus: "
                f'this one, of kind "{self.probe.kind}", has none. Choose another or leave it at 0.'
            )
        return self

    def build_probe(self) -> probes.Probe:
        """The true probe, (n_modes, h, w) of unit power."""
        return self._with_modes(self.probe.build(self.frame_shape))

    def build_probe_guess(self) -> probes.Probe:
        """The probe that a reconstruction starts from, (n_modes, h, w) of unit power."""
        guess = self.probe
        if not isinstance(guess, ProbeFile | PublishedProbe):
            wrong = guess.defocus * (1 + self.probe_defocus_error)
            guess = guess.model_copy(update={"defocus": wrong})
        return self._with_modes(guess.build(self.frame_shape))

    def build_positions(self, seed: objects.Seed) -> scans.Positions:
        """The true positions, (n, 2) in pixels."""
        return self.scan.build(seed)

    def build_object(self, shape: tuple[int, int], seed: objects.Seed) -> objects.ComplexObject:
        """The true object, (H, W)."""
        return self.object.build(shape, seed)

    def _with_modes(self, probe: probes.Probe) -> probes.Probe:
        if self.n_probe_modes is None:
            return probe
        return probes.mixed_states(
            probe, n_modes=self.n_probe_modes, secondary_fraction=self.secondary_mode_fraction
        )
