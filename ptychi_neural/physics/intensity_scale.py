"""The scale between the intensities of probe and object and the measured ones."""

import torch
from ptychi.data_structures.base import ReconstructParameter
from torch import Tensor

from ptychi_neural.options import IntensityScaleOptions


class IntensityScale(ReconstructParameter):
    """S = exp(tensor): measured intensities over those of probe and object."""

    options: IntensityScaleOptions
    tensor: Tensor  # type: ignore[assignment]

    def __init__(self, options: IntensityScaleOptions) -> None:
        super().__init__(data=torch.zeros(1), name="intensity_scale", options=options)

    @property
    def value(self) -> Tensor:
        """(1,) the scale S."""
        return self.tensor.exp()
