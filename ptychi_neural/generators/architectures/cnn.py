"""Architecture C, PtychoPINN's network: a convolutional encoder and two decoders.

Hoidn et al., Scientific Reports 13, 22789 (2023), with GELU in place of ReLU, whose units died in
published runs, and interpolation without skips as published.
"""

from collections.abc import Sequence

import torch
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
from ptychi_neural.options.choices import Upsamplings
from ptychi_neural.options.options import GeneratorOptions


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


class CNN(nn.Module):
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
        depth = options.cnn.depth
        check_depth(depth, patch_shape, "generator.cnn.depth")
        channels = channels_per_level(options.width, depth - 1, options.cnn.channel_cap)
        self.multiple = 2**depth
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(convolution_pair(a, b), downsampling(b, b, options.cnn.downsampling))
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
