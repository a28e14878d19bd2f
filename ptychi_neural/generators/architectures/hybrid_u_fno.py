"""Hybrid U-FNO: convolutions at high resolution, spectral blocks only at the lowest.

A U-Net with skips, whose bottleneck sees the whole patch at once by Fourier transforms that are
cheap there.
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import nn

from ptychi_neural.generators.blocks import spectral_stack
from ptychi_neural.generators.convolution import channels_per_level, check_depth, level_shapes
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options import GeneratorOptions


@dataclass
class HybridUFNOOptions(Options):
    """Convolutional U-Net with a spectral bottleneck."""

    depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels below the input resolution."""

    n_blocks: int = PydanticField(default=2, ge=1, le=100)
    """Number of spectral blocks at the lowest resolution."""

    channel_cap: int = PydanticField(default=128, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""


@register_operator("hybrid_u_fno", HybridUFNOOptions, depth="depth")
def hybrid_u_fno(
    options: GeneratorOptions, own: HybridUFNOOptions, patch_shape: tuple[int, int]
) -> nn.Module:
    """The U-Net with its spectral bottleneck."""
    check_depth(own.depth, patch_shape, "generator.hybrid_u_fno.depth")
    channels = channels_per_level(options.width, own.depth, own.channel_cap)
    coarse = level_shapes(patch_shape, own.depth)[-1]
    bottleneck = spectral_stack(options, own.n_blocks, coarse, channels[-1])
    return UNet(options.width, options.width, own.depth, own.channel_cap, bottleneck)
