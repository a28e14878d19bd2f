"""The Fourier neural operator: spectral blocks at constant resolution.

Li et al., ICLR 2021. It is the first stage of the cascade alone; in the unrolled generator the
same stack is the network ``spectral``.
"""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import nn

from ptychi_neural.generators.blocks import spectral_stack
from ptychi_neural.generators.operator_network import OperatorNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.options import GeneratorOptions


@dataclass
class FNOOptions(Options):
    """Fourier neural operator: spectral blocks at constant resolution."""

    n_blocks: int = PydanticField(default=4, ge=1, le=100)
    """Number of blocks."""


@register_architecture("fno", FNOOptions)
class FNO(OperatorNetwork):
    """A stack of spectral blocks, and its head."""

    @staticmethod
    def build(
        options: GeneratorOptions, own: FNOOptions, patch_shape: tuple[int, int]
    ) -> nn.Module:
        return spectral_stack(options, own.n_blocks, patch_shape)
