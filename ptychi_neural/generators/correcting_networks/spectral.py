"""A stack of spectral blocks."""

from torch import nn

from ptychi_neural.generators.blocks import spectral_stack
from ptychi_neural.generators.correcting_networks.network import (
    register_correcting_network,
    unrolled_options,
)
from ptychi_neural.options import GeneratorOptions


@register_correcting_network("spectral")
def spectral(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """Blocks that keep the modes of a patch."""
    return spectral_stack(options, unrolled_options(options).n_layers, patch_shape)
