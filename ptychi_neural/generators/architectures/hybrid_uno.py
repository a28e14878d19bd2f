"""Architecture B, the hybrid U-NO: spectral encoder and bottleneck, convolutional decoder.

At each level of the encoder a spectral block passes its output down, and the output of its local
path (or its own, or nothing) across to the decoder. Rahman et al., TMLR 2023 (U-NO), with a
convolutional decoder.
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
    level_shapes,
)
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.generators.unet import Decoder
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import (
    Blocks,
    Downsamplings,
    Fusions,
    SkipSources,
    SpectralLevels,
    Upsamplings,
)


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

    skips: SkipSources = SkipSources.LOCAL
    """What passes across from the encoder to the decoder."""

    spectral_levels: SpectralLevels = SpectralLevels.ALL
    """Which levels have spectral paths. The modes of the others have no effect."""

    channel_cap: int = PydanticField(default=128, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""

    def problems(self) -> Iterator[str]:
        """Tell what this architecture cannot do."""
        if self.downsampling == Downsamplings.MAX:
            yield "downsampling: 'strided' or 'mean'"
        if self.skips == SkipSources.OFF and self.fusion != Fusions.CONCATENATE:
            yield "fusion: has no effect without skips; leave it at 'concatenate'"


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
        Depth, bottleneck, resampling, skips, spectral levels and channel cap.
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
        self.code_channels = channels[-1]
        modes = modes_per_level(n_modes, level_shapes(patch_shape, depth))
        build = BLOCKS[block]
        self.skips = options.skips
        in_encoder = options.spectral_levels in (SpectralLevels.ALL, SpectralLevels.ENCODER)
        in_bottleneck = options.spectral_levels in (SpectralLevels.ALL, SpectralLevels.BOTTLENECK)
        code_modes = modes[-1] if in_bottleneck else None

        self.encoder = nn.ModuleList(
            [build(c, m if in_encoder else None) for c, m in zip(channels[:-1], modes)]
        )
        self.down = nn.ModuleList(
            [downsampling(a, b, options.downsampling) for a, b in pairwise(channels)]
        )
        self.bottleneck = nn.Sequential(
            *(build(channels[-1], code_modes) for _ in range(options.n_bottleneck_blocks))
        )
        fusion = None if options.skips is SkipSources.OFF else options.fusion
        self.decoder = Decoder(channels, options.upsampling, fusion)

    def forward(self, x: Tensor) -> Tensor:
        return apply_padded(self._forward_divisible, x, self.multiple)

    def _forward_divisible(self, x: Tensor) -> Tensor:
        code, skips = self.encode(x)
        return self.decoder(code, skips)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The code at the lowest resolution, and what may skip it, from the finest level down."""
        skips = []
        for block, down in zip(self.encoder, self.down):
            x, local = cast(SpectralBlock, block).forward_with_local(x)
            skips.append(local if self.skips is SkipSources.LOCAL else x)
            x = down(x)
        return self.bottleneck(x), skips


@register_operator("hybrid_uno", HybridUNOOptions, depth="depth")
def hybrid_uno(
    options: GeneratorOptions, own: HybridUNOOptions, patch_shape: tuple[int, int]
) -> nn.Module:
    """The hybrid U-NO."""
    return HybridUNO(options.width, patch_shape, options.block, options.n_modes, own)
