"""One scan in memory: what every reader returns and every engine is started from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


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

    attributes: dict[str, float] = field(default_factory=dict)
    """What else a product file tells of the measurement, such as ``exposure_time_s``."""

    name: str = ""

    comments: str = ""


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
