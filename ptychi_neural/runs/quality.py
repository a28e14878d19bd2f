"""How close reconstructed objects come to the ground truth or to a reference."""

import numpy as np
from numpy.typing import NDArray

from ptychi_neural import evaluation


def in_register(
    object: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    positions_px: NDArray[np.float64],
    free: bool,
) -> tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.bool_]]:
    """Bring the product of the slices of one object into register with that of another.

    Parameters
    ----------
    object, reference : ndarray
        (n_slices, H, W) objects; the first is aligned with the second.
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels that bound the scanned area.
    free : bool
        Whether a phase ramp and a translation are removed, besides one complex scale.

    Returns
    -------
    ndarray
        (H, W) product of the slices of the object, aligned.
    ndarray
        (H, W) product of the slices of the reference.
    ndarray
        (H, W) True inside the scanned area.
    """
    ours, theirs = object.prod(axis=0), reference.prod(axis=0)
    area = evaluation.scanned_area(positions_px, theirs.shape)
    ours = evaluation.align(ours, theirs, ramp=free, shift=free, mask=area).aligned
    return ours, theirs, area


def object_metrics(
    object: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    area: NDArray[np.bool_],
    free: bool,
) -> dict[str, float]:
    """Compare two objects inside the scanned area; parameters are what ``in_register`` returns.

    Where probe and positions are not known, a phase ramp and a translation are ambiguous, and
    ``free`` must be set.
    """
    return {
        "complex_error": evaluation.complex_error(object, reference, area),
        "amplitude_correlation": evaluation.amplitude_correlation(object, reference, area),
        "phase_correlation": evaluation.phase_correlation(
            object, reference, area, ramp=free, shift=free
        ),
    }
