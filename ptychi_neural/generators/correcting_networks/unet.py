"""The convolutional U-Net."""

from torch import nn

from ptychi_neural.generators.correcting_networks.network import (
    Residual,
    register_correcting_network,
    unrolled_options,
)
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options import GeneratorOptions


@register_correcting_network("unet")
def unet(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """A convolutional U-Net as a residual."""
    own = unrolled_options(options)
    return Residual(UNet(options.width, options.width, own.n_layers), own.residual_gain)
