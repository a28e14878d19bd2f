"""neuraloperator's U-NO: spectral layers that halve and double the resolution, with skips.

Rahman et al., TMLR 2023, Fig. 1. The network is ``neuralop.models.UNO``.
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import nn

from ptychi_neural.generators.convolution import check_depth
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.options import GeneratorOptions


@dataclass
class UNOOptions(Options):
    """neuraloperator's U-NO: Rahman et al., TMLR 2023."""

    depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels below the input resolution."""

    n_bottleneck_blocks: int = PydanticField(default=1, ge=1, le=100)
    """Number of layers at the lowest resolution."""

    channel_cap: int = PydanticField(default=64, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""


@register_operator("uno", UNOOptions, depth="depth", unused=("block",), only_finer=True)
def uno(options: GeneratorOptions, own: UNOOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """The U-shaped operator."""
    from ptychi_neural.generators.operators import UNO

    check_depth(own.depth, patch_shape, "generator.uno.depth")
    return UNO(
        *(options.width, patch_shape, options.n_modes),
        *(own.depth, own.n_bottleneck_blocks, own.channel_cap),
    )
