"""Flat dilated convolutions: few parameters that see far."""

from functools import partial

import torch
from torch import Tensor, nn

from ptychi_neural.generators.convolution import DilatedConvolution, convolution
from ptychi_neural.generators.correcting_networks.network import (
    register_correcting_network,
    unrolled_options,
)
from ptychi_neural.options import GeneratorOptions


@register_correcting_network("dilated")
def dilated(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """A stack of blocks whose dilation doubles from 1 to 8 and begins again."""
    own = unrolled_options(options)
    return nn.Sequential(
        *(DilatedBlock(options.width, 2 ** (i % 4), own.residual_gain) for i in range(own.n_layers))
    )


class DilatedBlock(nn.Module):
    """x + conv3x3(act(dilated conv3x3(act(x))))."""

    def __init__(self, width: int, dilation: int, gain: float) -> None:
        super().__init__()
        self.reach = dilation + 1
        dilated = convolution(width, width, 3, kind=partial(DilatedConvolution, dilation=dilation))
        last = convolution(width, width, 3)
        with torch.no_grad():
            last.weight *= gain
        self.branch = nn.Sequential(nn.GELU(), dilated, nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) features to the same shape."""
        return x + self.branch(x)
