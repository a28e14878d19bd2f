"""What is done to the frames and positions of files: keys of the section ``[data]`` of a run file.

Frames are first shifted and cropped, then checked for defects, and then freed of the background,
oriented and binned. The geometry of the detector gives the size of an object pixel:

    far field  lambda z / (N d),   near field  d / M,   M = |(z - f) / f|,

with the detector at z from the sample, detector pixels d, N of them on a side after cropping, and
the focus of a cone beam at f from the sample, negative upstream.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.constants import c, e, h, m_e

from ptychi_neural.scans.frames import Frames

Unit = Literal["m", "mm", "um", "nm", "angstrom", "px"]
"""Units of positions."""

Named = Literal["patterns", "mask", "y", "x", "probe"]
"""Datasets of an HDF5 file that may be named."""


class RasterScan(BaseModel):
    """Positions of a raster, for files without any."""

    model_config = ConfigDict(extra="forbid")

    shape: tuple[int, int]
    """Rows and columns of the scan; the frames of a row follow each other."""

    step_m: float = Field(gt=0)
    """Step along rows and columns in metres."""

    snake: bool = False
    """Whether every second row runs backwards."""

    def positions_m(self) -> NDArray[np.float64]:
        """(n, 2) positions (y, x) in metres."""
        columns = np.tile(np.arange(self.shape[1]), (self.shape[0], 1))
        if self.snake:
            columns[1::2] = columns[1::2, ::-1]
        rows = np.repeat(np.arange(self.shape[0]), self.shape[1])
        return self.step_m * np.stack([rows, columns.ravel()], axis=1).astype(np.float64)


class Preparation(BaseModel):
    """Keys of ``[data]`` that say how frames and positions are stored."""

    model_config = ConfigDict(extra="forbid")

    datasets: dict[Named, str] = {}
    """Names of datasets in HDF5 files where they are unusual: ``patterns`` and ``mask`` in the file
    of patterns, ``y``, ``x`` (positions) and ``probe`` in that of positions."""

    entry: str | None = None
    """Which measurement of a CXI or NeXus file of several is taken, with its own positions, mask,
    beam and probe, such as ``"entry_2"``; None: the first that has patterns."""

    frames: Frames | None = None
    """Which frames of the scan are taken; None: all. ``{ stop = 500 }`` are the first 500,
    ``{ every = 2 }`` is every second one, ``{ window_px = 200 }`` those whose positions are in a
    square in the middle."""

    dc_at_corner: bool = False
    """Whether the direct beam is at the corner of stored frames, as a Fourier transform leaves it,
    instead of at their centre."""

    crop: tuple[int, int] | None = None
    """Height and width to cut out of every frame. Sides have to be even."""

    center: tuple[int, int] | None = None
    """Row and column of the direct beam in stored frames; None: their centre (h // 2, w // 2). It
    is what ``crop`` cuts around."""

    bin: int = Field(default=1, ge=1)
    """Side of the square of pixels that are added up to one, after cropping."""

    transpose: bool = False
    """Exchange rows and columns of every frame, before flips."""

    flip_y: bool = False
    """Turn the order of rows of every frame."""

    flip_x: bool = False
    """Turn the order of columns of every frame."""

    rotate_deg: Literal[0, 90, 180, 270] = 0
    """Turn every frame counterclockwise, after flips."""

    background: float | Path | None = None
    """Counts of every pixel without light, which are subtracted: a number, or a file of dark
    frames, whose mean is taken."""

    mask: Path | None = None
    """File of an (h, w) mask of stored frames: ``.npy``, TIFF, text, or HDF5 or NPZ with one image.
    Pixels are bad where it is not 0, or where it is 0 if its name has ``valid`` in it."""

    saturated_counts: float | None = Field(default=None, gt=0)
    """Pixels that reach so many stored counts in any frame are masked."""

    dark_counts: float | None = Field(default=None, ge=0)
    """Pixels that never exceed so many stored counts are masked."""

    position_units: Unit | None = None
    """Unit of the positions in their file; None: metres, or what the file tells."""

    transpose_positions: bool = False
    """Exchange rows and columns of all positions, before flips."""

    flip_positions_y: bool = False
    """Turn the direction of all positions along rows."""

    flip_positions_x: bool = False
    """Turn the direction of all positions along columns."""

    rotate_positions_deg: float = 0.0
    """Turn all positions counterclockwise (from x to -y, as frames are drawn), about the middle of
    the scan, after flips: the angle between scan and camera of an electron microscope."""

    raster: RasterScan | None = None
    """Positions of a raster, where no file has them."""

    pixel_size_m: float | None = Field(default=None, gt=0)
    """Size of an object pixel after cropping and binning, in place of what file and geometry
    tell."""

    wavelength_m: float | None = Field(default=None, gt=0)
    """Wavelength, in place of the file's."""

    photon_energy_eV: float | None = Field(default=None, gt=0)
    """Photon energy, in place of the wavelength."""

    electron_energy_eV: float | None = Field(default=None, gt=0)
    """Kinetic energy of electrons, in place of the wavelength."""

    detector_distance_m: float | None = Field(default=None, gt=0)
    """From the sample to the detector, in place of the file's."""

    detector_pixel_size_m: float | None = Field(default=None, gt=0)
    """Size of a stored detector pixel, in place of the file's."""

    detector_pixel_angle_rad: float | None = Field(default=None, gt=0)
    """Angle that a stored detector pixel covers, in place of its size and distance."""

    focus_object_distance_m: float | None = None
    """The scan is in the near field of a cone beam whose focus is at this distance from the sample,
    negative upstream."""

    free_space_propagation_distance_m: float | None = Field(default=None, gt=0)
    """The scan is in the near field at this distance, that of the equivalent parallel beam."""

    @property
    def told_entry(self) -> str | None:
        """The entry that these keys tell, be it that of a named dataset."""
        first, slash, _ = self.datasets.get("patterns", "").strip("/").partition("/")
        return self.entry or (first if slash and first.startswith("entry") else None)

    @property
    def moves_frames(self) -> bool:
        """Whether frames are stored in another orientation than they are used in."""
        return self.transpose or self.flip_y or self.flip_x or self.rotate_deg != 0

    @property
    def changes_frames(self) -> bool:
        """Whether frames are used in another way than they are stored."""
        is_cut = self.crop is not None or self.bin > 1 or self.dc_at_corner
        return self.moves_frames or is_cut or self.background is not None

    @property
    def turn_of_positions(self) -> NDArray[np.float64]:
        """(2, 2) matrix that brings positions (y, x) into the directions of rows and columns.

        Examples
        --------
        >>> Preparation(transpose_positions=True, flip_positions_x=True).turn_of_positions
        array([[ 0.,  1.],
               [-1.,  0.]])
        """
        angle = np.deg2rad(self.rotate_positions_deg)
        sine, cosine = np.sin(angle), np.cos(angle)
        turn = np.array([[cosine, -sine], [sine, cosine]])  # of (y, x), y pointing down
        flips = np.where([self.flip_positions_y, self.flip_positions_x], -1.0, 1.0)
        return turn @ (np.diag(flips) @ np.eye(2)[:: -1 if self.transpose_positions else 1])

    @property
    def told_wavelength_m(self) -> float | None:
        """The wavelength that these keys tell, if they do.

        Examples
        --------
        >>> f"{Preparation(electron_energy_eV=300e3).told_wavelength_m:.4g}"
        '1.969e-12'
        """
        if self.wavelength_m is not None:
            return self.wavelength_m
        if self.photon_energy_eV is not None:
            return h * c / (e * self.photon_energy_eV)
        if self.electron_energy_eV is not None:
            energy_J = e * self.electron_energy_eV
            momentum = np.sqrt(2 * m_e * energy_J * (1 + energy_J / (2 * m_e * c**2)))
            return float(h / momentum)
        return None

    @property
    def settled_keys(self) -> set[str]:
        """Keys of beam and detector that do not matter in files any more."""
        keys = ("pixel_size_m", "detector_pixel_size_m", "detector_distance_m")
        found = {key for key in keys if getattr(self, key) is not None}
        if "wavelength_m" in self.replaced_lengths:
            found.add("photon_energy_eV")
        return found | {*keys} if self.pixel_size_m is not None else found

    @property
    def replaced_lengths(self) -> set[str]:
        """Names of lengths of a scan for which these keys take the place of the file's.

        Examples
        --------
        >>> Preparation(photon_energy_eV=8e3).replaced_lengths
        {'wavelength_m'}
        """
        keys = {
            "pixel_size_m": ["pixel_size_m"],
            "wavelength_m": ["wavelength_m", "photon_energy_eV", "electron_energy_eV"],
            "detector_distance_m": ["detector_distance_m"],
            "free_space_propagation_distance_m": [
                "free_space_propagation_distance_m",
                "focus_object_distance_m",
            ],
        }
        return {
            length
            for length, names in keys.items()
            if any(getattr(self, name) is not None for name in names)
        }

    def problems(self) -> list[str]:
        """Keys that contradict each other, a line each."""
        found = []
        for names in (
            ("wavelength_m", "photon_energy_eV", "electron_energy_eV"),
            ("focus_object_distance_m", "free_space_propagation_distance_m"),
            ("detector_pixel_size_m", "detector_pixel_angle_rad"),
        ):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                found.append(f"{', '.join(given)}: give one of them")
        if self.focus_object_distance_m == 0:
            found.append("focus_object_distance_m: a focus on the sample makes no near field")
        if self.center is not None and self.crop is None:
            found.append("center: give crop too, which is cut around it")
        if self.dc_at_corner and self.center is not None:
            found.append("center: with dc_at_corner the direct beam is known to be at the corner")
        return found
