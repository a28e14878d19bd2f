"""One scan in memory: what every reader returns and every engine is started from."""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

UNKNOWN_PIXEL_M = 1.0
"""Size of an object pixel that nothing tells, as in pty-chi. Pictures are in pixels then."""


@dataclass
class Scan:
    """A ptychographic scan: measured patterns and the current knowledge of everything else."""

    patterns: NDArray[np.generic]
    """(n, h, w) measured counts, DC at the image centre (h // 2, w // 2)."""

    positions_px: NDArray[np.float64]
    """(n, 2) scan positions in object pixels, (y, x); the origin is pty-chi's (position 0, 0)."""

    probe: NDArray[np.complexfloating]
    """(n_opr_modes, n_modes, h, w) probe."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) object guess."""

    pixel_size_m: float
    """Object pixel size in metres (square pixels)."""

    wavelength_m: float | None = None
    """None where the file does not tell (needed for multislice and near field only)."""

    detector_distance_m: float | None = None
    """From the sample to the detector in metres; None where the file does not tell."""

    free_space_propagation_distance_m: float | None = None
    """Distance of near-field propagation in metres, that of the equivalent parallel beam, which is
    pty-chi's ``data_options.free_space_propagation_distance_m``; None in the far field."""

    valid_pixel_mask: NDArray[np.bool_] | None = None
    """(h, w), True where the detector works, DC at the image centre."""

    slice_spacings_m: NDArray[np.float64] | None = None
    """(n_slices - 1,) distances between slices in metres."""

    opr_mode_weights: NDArray[np.float64] | None = None
    """(n, n_opr_modes) weights; pty-chi asks for them where ``n_opr_modes`` is above 1."""

    frame_indexes: NDArray[np.int64] | None = None
    """(n,) number of each frame in its diffraction file; None: 0 ... n - 1."""

    object_center_m: tuple[float, float] = (0.0, 0.0)
    """(y, x) stage coordinates of position 0, 0 in metres."""

    probe_photon_counts: NDArray[np.float64] | None = None
    """(n,) photons of each frame before the sample, where they were measured."""

    attributes: dict[str, float | str] = field(default_factory=dict)
    """What else a product file tells of the measurement, such as ``exposure_time_s``."""

    name: str = ""

    comments: str = ""

    @property
    def known_pixel_size_m(self) -> float | None:
        """Object pixel size in metres; None where nothing tells it."""
        return None if self.pixel_size_m == UNKNOWN_PIXEL_M else self.pixel_size_m


def scan_of_positions(positions: NDArray[np.floating], pixel_size_m: float = math.nan) -> Scan:
    """A scan of which only positions are known; the rest is of size 0.

    Parameters
    ----------
    positions : ndarray
        (n, 2) positions (y, x) in object pixels, or in metres where the pixel size is NaN.
    pixel_size_m : float
        Size of an object pixel; NaN where it is unknown.
    """
    return Scan(
        patterns=np.empty((0, 0, 0), dtype=np.float32),
        positions_px=np.array(positions, dtype=np.float64),
        probe=np.empty((0, 0, 0, 0), dtype=np.complex64),
        object=np.empty((0, 0, 0), dtype=np.complex64),
        pixel_size_m=pixel_size_m,
        frame_indexes=np.arange(len(positions)),
    )


def middle(positions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Middle of the box around the finite ones of (n, 2) positions; 0, 0 if there are none."""
    finite = positions[np.isfinite(positions).all(axis=1)]
    return np.asarray((finite.min(axis=0) + finite.max(axis=0)) / 2 if len(finite) else np.zeros(2))


def recentred(scan: Scan) -> Scan:
    """A scan of known pixel size, without an object, with position 0, 0 in its middle."""
    center = middle(scan.positions_px)
    y_m, x_m = np.asarray(scan.object_center_m) + center * scan.pixel_size_m
    return dataclasses.replace(
        scan, positions_px=scan.positions_px - center, object_center_m=(float(y_m), float(x_m))
    )


def position_origin(object_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Where pty-chi puts position 0, 0 in the object array.

    The default (``SUPPORT``) of ``object_options.determine_position_origin_coords_by``, see
    ``ptychi.data_structures.object.PlanarObject.update_pos_origin_coordinates``. A patch of shape
    (h, w) at position (y, x) covers the rows ``origin + y - (h - 1) / 2`` to
    ``origin + y + (h - 1) / 2``.

    Parameters
    ----------
    object_shape : tuple
        Shape of the object array, of which the last two are (H, W).

    Returns
    -------
    ndarray
        (2,) array indices (y, x) of the origin, pixel centres being at whole numbers.

    Examples
    --------
    >>> position_origin((1, 500, 497))
    array([249.5, 247.5])
    """
    return np.round(np.asarray(object_shape[-2:]) / 2.0) - 0.5


def array_center(object_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Position, in pixels from position 0, 0, of the middle of the object array.

    ptychodus counts positions from the middle of the array. pty-chi's origin is half a pixel
    beside it along sides of an odd number of pixels.

    Parameters
    ----------
    object_shape : tuple
        Shape of the object array, of which the last two are (H, W).

    Returns
    -------
    ndarray
        (2,) position (y, x) in pixels.

    Examples
    --------
    >>> array_center((1, 500, 497))
    array([0. , 0.5])
    """
    return (np.asarray(object_shape[-2:]) - 1) / 2 - position_origin(object_shape)


def select_frames(scan: Scan, frames: slice | NDArray[np.generic]) -> Scan:
    """Part of a scan.

    Parameters
    ----------
    scan : Scan
        The scan; one that was read from a product alone has no patterns to select from.
    frames : slice or ndarray
        Indexes of the frames, or a boolean for each.

    Returns
    -------
    Scan
        Frames with their positions, numbers, OPR weights and photons; the rest is shared.
    """
    indexes = (
        np.arange(len(scan.positions_px)) if scan.frame_indexes is None else scan.frame_indexes
    )
    weights, photons = scan.opr_mode_weights, scan.probe_photon_counts
    return dataclasses.replace(
        scan,
        patterns=scan.patterns[frames] if len(scan.patterns) else scan.patterns,
        positions_px=scan.positions_px[frames],
        frame_indexes=indexes[frames],
        opr_mode_weights=None if weights is None else weights[frames],
        probe_photon_counts=None if photons is None else photons[frames],
    )
