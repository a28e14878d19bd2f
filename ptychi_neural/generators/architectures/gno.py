"""B among its neighbours: the codes of neighbouring scan positions are mixed before decoding.

patterns -> encoder of B -> code z_j -> z_j + mix of the codes around position j -> decoder of B

The mix is neuraloperator's graph operator (Li et al., arXiv:2003.03485), or attention, both with
the distance between positions as it was measured: jittered and spiral scans are as good as rasters.
"""

import math
from typing import cast

import torch
from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ptychi_neural.generators.architectures.hybrid_uno import HybridUNO, HybridUNOOptions
from ptychi_neural.generators.convolution import apply_padded, check_depth
from ptychi_neural.generators.operator_network import OperatorNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import NeighbourMixings
from ptychi_neural.options.generator import own_options


@dataclass
class GNOOptions(Options):
    """Architecture B with a mix of the codes of neighbouring scan positions."""

    mixing: NeighbourMixings = NeighbourMixings.GNO
    """How the codes are mixed."""

    radius: float = PydanticField(default=0.25, gt=0)
    """Distance up to which positions are neighbours, in sides of a patch."""

    depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels of encoder and decoder below the input resolution."""

    channel_cap: int = PydanticField(default=128, ge=1, le=4096)
    """Largest number of channels: levels double the width up to this."""


class NeighbourAttention(nn.Module):
    """Attention of each place to those around it.

    ``softmax(q(x) . k(y) / sqrt(C) + b(y - x)) v(y)``, b a small network of the distance.

    Parameters
    ----------
    channels : int
        Channels C of the functions.
    radius : float
        Largest distance of what is attended to.
    """

    def __init__(self, channels: int, radius: float) -> None:
        super().__init__()
        self.radius = radius
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)  # A constant has no effect here.
        self.value = nn.Linear(channels, channels)
        self.bias = nn.Sequential(nn.Linear(2, 32), nn.GELU(), nn.Linear(32, 1, bias=False))

    def forward(self, y: Tensor, x: Tensor, f_y: Tensor) -> Tensor:
        """Map (B, n, C) functions of the places y to those of the first of them, x."""
        offsets = y[None] - x[:, None]
        key = self.key(f_y).transpose(1, 2) / math.sqrt(f_y.shape[-1])
        scores = self.query(f_y[:, : len(x)]) @ key
        too_far = offsets.norm(dim=-1) > self.radius
        scores = (scores + self.bias(offsets)[..., 0]).masked_fill(too_far, -torch.inf)
        mixed: Tensor = scores.softmax(dim=-1) @ self.value(f_y)
        return mixed


def _mixing(kind: NeighbourMixings, channels: int, radius: float) -> nn.Module:
    if kind is NeighbourMixings.ATTENTION:
        return NeighbourAttention(channels, radius)
    from ptychi_neural.generators.operators import NeighbourKernel

    return NeighbourKernel(channels, radius)


@register_architecture("gno", GNOOptions, unused=("grid_size",))
class GNO(OperatorNetwork):
    """Encoder and decoder of B, and the mix between them.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes``, ``head`` and ``gno``.
    n_patches : int
        Complex patches to predict (n_slices).
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    operator: HybridUNO

    @staticmethod
    def build(
        options: GeneratorOptions, own: GNOOptions, patch_shape: tuple[int, int]
    ) -> nn.Module:
        check_depth(own.depth, patch_shape, "generator.gno.depth")
        shape = HybridUNOOptions(depth=own.depth, channel_cap=own.channel_cap)
        return HybridUNO(options.width, patch_shape, options.block, options.n_modes, shape)

    def __init__(
        self, options: GeneratorOptions, n_patches: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__(options, n_patches, patch_shape)
        own = cast(GNOOptions, own_options(options))
        self.reach = own.radius
        self.mix = _mixing(own.mixing, self.operator.code_channels, own.radius)

    def forward(self, features: Tensor) -> Tensor:
        """Patches of patterns that have no neighbours."""
        places = torch.arange(2 * len(features), device=features.device).view(-1, 2)
        apart = 2 * (1 + self.reach) * places.to(features.dtype)
        return self.forward_among(features, apart, len(features))

    def forward_among(self, features: Tensor, places: Tensor, n_asked: int) -> Tensor:
        places = places.to(features.dtype)

        def among(padded: Tensor) -> Tensor:
            code, skips = self.operator.encode(padded)
            of_pixels = code.flatten(2).permute(2, 0, 1)
            mixed = self.mix(places, places[:n_asked], of_pixels).permute(1, 2, 0)
            asked = code[:n_asked] + mixed.unflatten(2, code.shape[-2:])
            decoded: Tensor = self.operator.decoder(asked, [skip[:n_asked] for skip in skips])
            return decoded

        # All patterns are encoded, and the patches that are asked for decoded.
        decoded = apply_padded(among, features, self.operator.multiple)
        return self.head(self.output(decoded))
