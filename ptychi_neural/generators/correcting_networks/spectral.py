"""A stack of spectral blocks."""

from torch import nn

from ptychi_neural.generators.blocks import BLOCKS, modes_per_level
from ptychi_neural.generators.correcting_networks.network import (
    register_correcting_network,
    unrolled_options,
)
from ptychi_neural.options import GeneratorOptions


@register_correcting_network("spectral")
def spectral(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """Blocks that keep the modes of a patch."""
    modes = modes_per_level(options.n_modes, [patch_shape])[0]
    n_layers = unrolled_options(options).n_layers
    return nn.Sequential(*(BLOCKS[options.block](options.width, modes) for _ in range(n_layers)))
