"""How far scan positions are from the true ones."""

import numpy as np
from numpy.typing import NDArray


def position_rms(
    positions_px: NDArray[np.floating], true_px: NDArray[np.floating], affine: bool = False
) -> float:
    """Root mean square error of positions along an axis.

    A translation is removed, because an object that moves with all positions gives the same
    patterns.

    Parameters
    ----------
    positions_px, true_px : ndarray
        (n, 2) positions (y, x) in pixels.
    affine : bool
        Remove an affine map, which is what is left of a wrong pixel size, rotation or shear.

    Returns
    -------
    float
        In pixels.

    Examples
    --------
    >>> true = np.array([[0.0, 0.0], [0.0, 4.0], [4.0, 0.0], [4.0, 4.0]])
    >>> position_rms(true + [5, 0], true)
    0.0
    >>> [round(position_rms(1.1 * true, true, affine), 9) for affine in (False, True)]
    [0.2, 0.0]
    """
    error = np.asarray(positions_px, np.float64) - true_px
    known = (
        np.column_stack([np.ones(len(true_px)), true_px]) if affine else np.ones_like(error[:, :1])
    )
    fit, *_ = np.linalg.lstsq(known, error, rcond=None)
    return float(np.sqrt(np.mean((error - known @ fit) ** 2)))
