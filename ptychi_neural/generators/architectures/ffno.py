"""The factorised Fourier operator: spectral layers along rows and columns, deep and narrow.

Tran et al., ICLR 2023, Eqs. 5 to 7, with GELU:

    y = x + 1/sqrt(n) * MLP(Spectral_rows(x) + Spectral_columns(x)).
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import nn

from ptychi_neural.generators.blocks import modes_per_level
from ptychi_neural.generators.convolution import convolution
from ptychi_neural.generators.correcting_networks.network import Residual
from ptychi_neural.generators.operator_network import register_operator
from ptychi_neural.options import GeneratorOptions


@dataclass
class FFNOOptions(Options):
    """Factorised Fourier operator: Tran et al., ICLR 2023."""

    n_blocks: int = PydanticField(default=8, ge=1)
    """Number of blocks."""

    shared_weights: bool = False
    """One spectral layer for all blocks, or one for each."""

    expansion: int = PydanticField(default=4, ge=1)
    """Channels between the two layers of the MLP, over the width."""


@register_operator("ffno", FFNOOptions, depth="n_blocks", unused=("block",))
def ffno(options: GeneratorOptions, own: FFNOOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """A stack of factorised blocks."""
    from ptychi_neural.generators.spectral import FactorizedSpectralConv2d

    modes = modes_per_level(options.n_modes, [patch_shape])[0]
    n_layers = 1 if own.shared_weights else own.n_blocks
    gain = own.n_blocks**-0.5  # The power grows by a constant, whatever the depth.
    layers = [FactorizedSpectralConv2d(options.width, modes) for _ in range(n_layers)]
    return nn.Sequential(
        *(
            Residual(_factorized(options.width, layers[i % n_layers], own.expansion), gain)
            for i in range(own.n_blocks)
        )
    )


def _factorized(width: int, spectral: nn.Module, expansion: int) -> nn.Module:
    """The spectral layer, and an MLP that acts on each pixel."""
    return nn.Sequential(
        spectral,
        convolution(width, expansion * width, 1),
        nn.GELU(),
        convolution(expansion * width, width, 1, nonlinearity="linear"),
    )
