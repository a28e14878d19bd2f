"""Architecture B, the hybrid U-NO: spectral encoder and bottleneck, convolutional decoder.

At each level of the encoder a spectral block passes its output down, and the output of its local
path across to the decoder. Rahman et al., TMLR 2023 (U-NO), with a convolutional decoder.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ptychi_neural.generators.blocks import BLOCKS, SpectralBlock, modes_per_level
from ptychi_neural.generators.convolution import (
    apply_padded,
    channels_per_level,
    check_depth,
    downsampling,
)
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.one_shot import OneShotNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.generators.unet import Decoder
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import Blocks, Downsamplings, Fusions, Upsamplings
from ptychi_neural.options.generator import own_options


@dataclass
class HybridUNOOptions(Options):
    """Architecture B: spectral encoder with skips from its local path, convolutional decoder."""

    depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels below the input resolution."""

    n_bottleneck_blocks: int = PydanticField(default=1, ge=1, le=100)
    """Number of spectral blocks at the lowest resolution."""

    downsampling: Downsamplings = Downsamplings.STRIDED
    """Strided convolution or mean pooling."""

    upsampling: Upsamplings = Upsamplings.TRANSPOSED
    """Transposed convolution or bilinear interpolation and a convolution."""

    fusion: Fusions = Fusions.CONCATENATE
    """How the decoder takes in a skip."""

    channel_cap: int = PydanticField(default=128, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""

    def problems(self) -> Iterator[str]:
        """Tell what this architecture cannot do."""
        if self.downsampling == Downsamplings.MAX:
            yield "downsampling: 'strided' or 'mean'"


class HybridUNO(nn.Module):
    """The U-shaped operator, from (B, width, H, W) to (B, width, H, W) features.

    Features are padded inside so that every level has an even number of pixels.

    Parameters
    ----------
    width : int
        Channels at the input resolution.
    patch_shape : tuple[int, int]
        Height and width of the features.
    block : Blocks
        Block of the encoder and the bottleneck.
    n_modes : int, list of int or None
        Retained modes of the ``depth + 1`` levels (see ``modes_per_level``).
    options : HybridUNOOptions
        Depth, bottleneck, resampling, fusion and channel cap.
    """

    def __init__(
        self,
        width: int,
        patch_shape: tuple[int, int],
        block: Blocks,
        n_modes: int | list[int] | None,
        options: HybridUNOOptions,
    ) -> None:
        super().__init__()
        depth = options.depth
        check_depth(depth, patch_shape, "generator.hybrid_uno.depth")
        channels = channels_per_level(width, depth, options.channel_cap)
        self.multiple = 2 ** (depth + 1)
        rows, columns = (-(-size // self.multiple) * self.multiple for size in patch_shape)
        shapes = [(rows // 2**level, columns // 2**level) for level in range(depth + 1)]
        modes = modes_per_level(n_modes, shapes)
        build = BLOCKS[block]

        self.encoder = nn.ModuleList([build(c, m) for c, m in zip(channels[:-1], modes)])
        self.down = nn.ModuleList(
            [downsampling(a, b, options.downsampling) for a, b in pairwise(channels)]
        )
        self.bottleneck = nn.Sequential(
            *(build(channels[-1], modes[-1]) for _ in range(options.n_bottleneck_blocks))
        )
        self.decoder = Decoder(channels, options.upsampling, options.fusion)

    def forward(self, x: Tensor) -> Tensor:
        return apply_padded(self._forward_divisible, x, self.multiple)

    def _forward_divisible(self, x: Tensor) -> Tensor:
        skips = []
        for block, down in zip(self.encoder, self.down):
            x, local = cast(SpectralBlock, block).forward_with_local(x)
            skips.append(local)
            x = down(x)
        return self.decoder(self.bottleneck(x), skips)


@register_architecture("hybrid_uno", HybridUNOOptions)
class HybridUNONetwork(OneShotNetwork):
    """The hybrid U-NO and its head: (B, width, H, W) features to complex patches.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes``, ``head`` and ``hybrid_uno``.
    n_patches : int
        Complex patches to predict (grid_size**2 * n_slices).
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    def __init__(
        self, options: GeneratorOptions, n_patches: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        own = cast(HybridUNOOptions, own_options(options))
        self.operator = HybridUNO(options.width, patch_shape, options.block, options.n_modes, own)
        self.output = output_convolution(options.width, 2 * n_patches)
        self.head = build_head(options.head, options.maximum_amplitude)

    def forward(self, features: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from (B, width, H, W) features."""
        return self.head(self.output(self.operator(features)))
