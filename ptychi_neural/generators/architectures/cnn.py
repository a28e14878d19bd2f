"""Architecture C, PtychoPINN's network: a convolutional encoder and two decoders.

Hoidn et al., Scientific Reports 13, 22789 (2023), with GELU in place of ReLU, whose units died in
published runs, and interpolation without skips as published.
"""

from collections.abc import Sequence
from typing import cast

import torch
from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ptychi_neural.generators.convolution import (
    apply_padded,
    channels_per_level,
    check_depth,
    convolution,
    convolution_pair,
    downsampling,
    upsampling,
)
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.one_shot import OneShotNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import Downsamplings, Upsamplings
from ptychi_neural.options.generator import own_options


@dataclass
class CNNOptions(Options):
    """Architecture C: PtychoPINN's encoder with an amplitude and a phase decoder.

    Hoidn et al., Scientific Reports 13, 22789 (2023).
    """

    depth: int = PydanticField(default=3, ge=1, le=12)
    """Number of levels below the input resolution."""

    downsampling: Downsamplings = Downsamplings.MAX
    """Max pooling as published, mean pooling or strided convolution."""

    channel_cap: int = PydanticField(default=256, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""


def _decoder(channels: Sequence[int], n_out: int) -> nn.Sequential:
    """From the coarsest level to ``n_out`` channels at the finest."""
    layers: list[nn.Module] = [convolution_pair(channels[-1], channels[-1])]
    for fine, coarse in zip(reversed(channels[:-1]), reversed(channels)):
        layers += [
            upsampling(coarse, fine, Upsamplings.BILINEAR),
            nn.GELU(),
            convolution(fine, fine, 3),
            nn.GELU(),
        ]
    return nn.Sequential(*layers, output_convolution(channels[0], n_out))


@register_architecture("cnn", CNNOptions, unused=("block", "n_modes"))
class CNN(OneShotNetwork):
    """One encoder, one decoder for amplitudes (real parts), one for phases (imaginary parts).

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``head`` and ``cnn``.
    n_patches : int
        Complex patches to predict (grid_size**2 * n_slices).
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    def __init__(
        self, options: GeneratorOptions, n_patches: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        own = cast(CNNOptions, own_options(options))
        depth = own.depth
        check_depth(depth, patch_shape, "generator.cnn.depth")
        channels = channels_per_level(options.width, depth - 1, own.channel_cap)
        self.multiple = 2**depth
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(convolution_pair(a, b), downsampling(b, b, own.downsampling))
                for a, b in zip([options.width, *channels], channels)
            )
        )
        levels = [*channels, channels[-1]]
        self.amplitude_decoder = _decoder(levels, n_patches)
        self.phase_decoder = _decoder(levels, n_patches)
        self.head = build_head(options.head, options.maximum_amplitude)

    def forward(self, features: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from (B, width, H, W) features."""
        return self.head(apply_padded(self._forward_divisible, features, self.multiple))

    def _forward_divisible(self, features: Tensor) -> Tensor:
        code = self.encoder(features)
        return torch.cat([self.amplitude_decoder(code), self.phase_decoder(code)], dim=1)
