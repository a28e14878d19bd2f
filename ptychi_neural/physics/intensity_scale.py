"""The scale between the intensities of probe and object and the measured ones."""

import math

import torch
from ptychi.data_structures.base import ReconstructParameter
from torch import Tensor

from ptychi_neural.options import IntensityScaleOptions


class IntensityScale(ReconstructParameter):
    """S = exp(tensor): measured counts over the intensities of probe and object.

    Parameters
    ----------
    options : IntensityScaleOptions
        Whether and how it is refined.
    count_unit : float
        Intensity of one count in the unit that probe and object have outside of a run.
    """

    options: IntensityScaleOptions
    tensor: Tensor  # type: ignore[assignment]

    def __init__(self, options: IntensityScaleOptions, count_unit: float = 1.0) -> None:
        data = torch.tensor([-math.log(count_unit)])
        super().__init__(data=data, name="intensity_scale", options=options)
        self.count_unit = count_unit

    def reset(self) -> None:
        """Let probe and object have the unit again that they have outside of a run."""
        self.set_data(torch.tensor([-math.log(self.count_unit)]))

    @property
    def value(self) -> Tensor:
        """(1,) the scale S."""
        return self.tensor.exp()
