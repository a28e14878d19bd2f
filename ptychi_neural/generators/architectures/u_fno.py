"""U-FNO: spectral blocks, of which the last have a small U-Net beside their local path.

Wen et al., Advances in Water Resources 163, 104180 (2022), Eqs. 7 to 9.
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ptychi_neural.generators.blocks import SpectralBlock, spectral_stack
from ptychi_neural.generators.convolution import check_depth
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options import GeneratorOptions


@dataclass
class UFNOOptions(Options):
    """U-FNO: Wen et al., Advances in Water Resources 163, 104180 (2022)."""

    n_fourier_blocks: int = PydanticField(default=2, ge=0, le=100)
    """Number of spectral blocks in front of those with a U-Net."""

    n_blocks: int = PydanticField(default=2, ge=1, le=100)
    """Number of spectral blocks with a U-Net."""

    unet_depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels of the U-Nets below the input resolution."""

    channel_cap: int = PydanticField(default=32, ge=1, le=4096)
    """Largest number of channels of the U-Nets, whose levels double the width."""


class BesideUNet(nn.Module):
    """A local path and a U-Net, added up."""

    def __init__(self, local: nn.Module, unet: UNet) -> None:
        super().__init__()
        self.local, self.unet = local, unet

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) features to features of the same shape."""
        added: Tensor = self.local(x) + self.unet(x)
        return added


@register_operator("u_fno", UFNOOptions, depth="n_blocks")
def u_fno(options: GeneratorOptions, own: UFNOOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """Plain blocks, then blocks with a U-Net."""
    check_depth(own.unet_depth, patch_shape, "generator.u_fno.unet_depth")
    blocks = spectral_stack(options, own.n_fourier_blocks + own.n_blocks, patch_shape)
    for block in blocks[own.n_fourier_blocks :]:
        assert isinstance(block, SpectralBlock)
        unet = UNet(options.width, options.width, own.unet_depth, own.channel_cap)
        block.local = BesideUNet(block.local, unet)
    return blocks
