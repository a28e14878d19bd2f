"""The factorised Fourier operator: spectral layers along rows and columns, deep and narrow.

Tran et al., ICLR 2023, Eqs. 5 to 7, with GELU:

    y = x + 1/sqrt(n) * MLP(Spectral_rows(x) + Spectral_columns(x)).
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ptychi_neural.generators.blocks import modes_per_level
from ptychi_neural.generators.convolution import convolution
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.options import GeneratorOptions


@dataclass
class FFNOOptions(Options):
    """Factorised Fourier operator: Tran et al., ICLR 2023."""

    n_blocks: int = PydanticField(default=8, ge=1, le=100)
    """Number of blocks."""

    shared_weights: bool = False
    """One spectral layer for all blocks, or one for each."""

    expansion: int = PydanticField(default=4, ge=1, le=64)
    """Channels between the two layers of the MLP, over the width."""


class FFNO(nn.Module):
    """Residual blocks of a factorised spectral layer and an MLP that acts on each pixel.

    Parameters
    ----------
    width : int
        Number of channels.
    n_modes : tuple[int, int]
        Retained modes along rows and columns, both signs counted.
    options : FFNOOptions
        Number of blocks, sharing and expansion.
    """

    def __init__(self, width: int, n_modes: tuple[int, int], options: FFNOOptions) -> None:
        super().__init__()
        from ptychi_neural.generators.spectral import FactorizedSpectralConv2d

        n_layers = 1 if options.shared_weights else options.n_blocks
        self.spectral = nn.ModuleList(
            [FactorizedSpectralConv2d(width, n_modes) for _ in range(n_layers)]
        )
        self.mlps = nn.ModuleList(
            [
                nn.Sequential(
                    convolution(width, options.expansion * width, 1),
                    nn.GELU(),
                    convolution(options.expansion * width, width, 1, nonlinearity="linear"),
                )
                for _ in range(options.n_blocks)
            ]
        )
        self.gain = options.n_blocks**-0.5
        """The power of the features grows by a constant, whatever the depth."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) features to features of the same shape."""
        for i, mlp in enumerate(self.mlps):
            x = x + self.gain * mlp(self.spectral[i % len(self.spectral)](x))
        return x


@register_operator("ffno", FFNOOptions, depth="n_blocks", unused=("block",))
def ffno(options: GeneratorOptions, own: FFNOOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """The operator with the modes of a patch."""
    return FFNO(options.width, modes_per_level(options.n_modes, [patch_shape])[0], own)
