"""What a trained generator predicts, and where to distrust it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass
class PredictedObject:
    """A prediction, and where to distrust it."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) stitched object, 1 + 0i where no frame lies."""

    weight: NDArray[np.floating]
    """(H, W) sum of the weights with which patches were stitched; 1 at a probe's maximum."""

    reprojection_error: NDArray[np.floating]
    """(k,) relative error of the amplitudes that the object predicts, of every frame of a whole
    scan, or of the latest batch of a stream; inf for frames without counts. A network that is out
    of its depth shows here."""

    probe: NDArray[np.complexfloating]
    """(n_opr_modes, n_modes, h, w) probe at the intensity of the measured counts."""

    compute_deviation: Callable[[], NDArray[np.floating]] = field(repr=False, compare=False)
    """Computes ``standard_deviation``, which takes longer than the object."""

    def __post_init__(self) -> None:
        """Refuse what is no object.

        Raises
        ------
        FloatingPointError
            If the object is not finite, or what it predicts is NaN.
        """
        if not np.isfinite(self.object).all() or np.isnan(self.reprojection_error).any():
            raise FloatingPointError(
                "The generator predicts NaN or Inf: its weights are too large, or the counts are "
                "far from those of its training. Train it anew, or take another."
            )

    @property
    def mean_reprojection_error(self) -> float:
        """Mean error of the frames that have counts; nan where none has."""
        errors = self.reprojection_error[np.isfinite(self.reprojection_error)]
        return float(errors.mean()) if len(errors) else math.nan

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(H, W) True where the weight is more than a twentieth of its maximum."""
        return self.weight > 0.05 * self.weight.max()

    @cached_property
    def standard_deviation(self) -> NDArray[np.floating]:
        """(H, W) disagreement of the predictions that make up the object, computed when it is first
        asked for; see ``ptychi_neural.prediction.deviation``."""
        return self.compute_deviation()
