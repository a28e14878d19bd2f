"""Options of the scale between predicted and measured intensities."""

import ptychi.api.enums as pty_enums
from ptychi.api.options.base import ParameterOptions
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass


@dataclass
class IntensityScaleOptions(ParameterOptions):
    """The scale between predicted and measured intensities."""

    optimizable: bool = True
    """Whether the scale is learned along with the generator. It is not after an initial
    reconstruction of the object alone, which has taken it up."""

    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = PydanticField(default=1e-3, gt=0)
    """Step size for the scale's logarithm."""

    start_from_data: bool = True
    """Start at the ratio of measured to predicted counts. False: trust the probe's power."""
