"""Convolutional U-Net, and the decoder that it shares with the hybrid operator.

Ronneberger et al., MICCAI 2015, Fig. 1, with GELU, no normalisation and padded convolutions.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ptychi_neural.generators.convolution import (
    apply_padded,
    channels_per_level,
    convolution_pair,
    downsampling,
    upsampling,
)
from ptychi_neural.options.choices import Downsamplings, Fusions, Upsamplings


class Decoder(nn.Module):
    """Levels of upsampling, fusion with a skip, and a pair of convolutions.

    Parameters
    ----------
    channels : sequence of int
        Channels of the levels from the finest down; the last is the input's.
    kind : Upsamplings
        How the resolution is doubled.
    fusion : Fusions, optional
        How a skip is taken in. None: there are no skips.
    """

    def __init__(self, channels: Sequence[int], kind: Upsamplings, fusion: Fusions | None) -> None:
        super().__init__()
        self.fusion = fusion
        pairs = list(pairwise(channels))
        n_fused = 2 if fusion is Fusions.CONCATENATE else 1
        self.up = nn.ModuleList([upsampling(coarse, fine, kind) for fine, coarse in pairs])
        self.fuse = nn.ModuleList([convolution_pair(n_fused * fine, fine) for fine, _ in pairs])

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Decode the coarsest features (B, C, H, W) with one skip a level, finest first."""
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
            if self.fusion is Fusions.CONCATENATE:
                x = torch.cat([x, skips[level]], dim=1)
            elif self.fusion is Fusions.ADD:
                x = x + skips[level]
            x = self.fuse[level](x)
        return x


class UNet(nn.Module):
    """Convolutional U-Net from (B, in_channels, H, W) to (B, width, H, W) features.

    Any H and W work: the image is padded inside to a multiple of ``2**depth``.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    width : int
        Channels at the input resolution, and of the output.
    depth : int
        Number of levels below the input resolution.
    channel_cap : int
        Largest number of channels: levels double the width up to this.
    bottleneck : Module, optional
        What takes the place of the pair of convolutions at the lowest resolution. Sides are even
        there, as spectral layers need them.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        depth: int,
        channel_cap: int = 128,
        bottleneck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        channels = channels_per_level(width, depth, channel_cap)
        self.multiple = 2 ** (depth if bottleneck is None else depth + 1)
        self.encoder = nn.ModuleList(
            [convolution_pair(a, b) for a, b in zip([in_channels, *channels[1:-1]], channels[:-1])]
        )
        self.down = nn.ModuleList(
            [downsampling(a, b, Downsamplings.STRIDED) for a, b in pairwise(channels)]
        )
        self.bottleneck = bottleneck or convolution_pair(channels[-1], channels[-1])
        self.decoder = Decoder(channels, Upsamplings.TRANSPOSED, Fusions.CONCATENATE)

    def forward(self, x: Tensor) -> Tensor:
        return apply_padded(self._forward_divisible, x, self.multiple)

    def _forward_divisible(self, x: Tensor) -> Tensor:
        skips = []
        for encode, down in zip(self.encoder, self.down):
            x = encode(x)
            skips.append(x)
            x = down(x)
        return self.decoder(self.bottleneck(x), skips)
