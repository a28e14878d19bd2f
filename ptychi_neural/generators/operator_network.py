"""Operators, which serve as one-shot networks and in the unrolled generator alike.

An operator maps (B, width, H, W) features to features of the same shape. One function builds it,
and one registration makes it both an architecture and a correcting network.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ptychi.api.options.base import Options
from torch import Tensor, nn

from ptychi_neural.generators.correcting_networks.network import (
    Residual,
    register_correcting_network,
    unrolled_options,
)
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.one_shot import OneShotNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.generator import own_options

Builder = TypeVar("Builder", bound=Callable[[GeneratorOptions, Any, tuple[int, int]], nn.Module])
"""Builds an operator from the generator's options, the operator's own, and (h, w) of a patch."""


class OperatorNetwork(OneShotNetwork):
    """An operator, an output convolution and a head.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``head`` and what the operator needs.
    n_patches : int
        Complex patches to predict (grid_size**2 * n_slices).
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    only_finer: bool = False
    """Whether frames that are sampled more coarsely have too few pixels for its inner levels."""

    @staticmethod
    def build(options: GeneratorOptions, own: Any, patch_shape: tuple[int, int]) -> nn.Module:
        """Build the operator."""
        raise NotImplementedError

    def __init__(
        self, options: GeneratorOptions, n_patches: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.operator = self.build(options, own_options(options), patch_shape)
        self.output = output_convolution(options.width, 2 * n_patches)
        self.head = build_head(options.head, options.maximum_amplitude)

    def forward(self, features: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from (B, width, H, W) features."""
        return self.head(self.output(self.operator(features)))

    def why_not_resized(self, options: GeneratorOptions, coarser: bool) -> str | None:
        kinds = nn.Conv2d | nn.ConvTranspose2d
        layers = [layer for layer in self.operator.modules() if isinstance(layer, kinds)]
        if options.shallow_cnn or any(max(layer.kernel_size) > 1 for layer in layers):
            return super().why_not_resized(options, coarser)
        if coarser and self.only_finer:
            return "its inner levels have too few pixels where frames are sampled more coarsely"
        return None


def register_operator(
    name: str,
    group: type[Options],
    depth: str,
    unused: tuple[str, ...] = (),
    only_finer: bool = False,
) -> Callable[[Builder], Builder]:
    """Decorate a function so that it builds an architecture and a correcting network of a name.

    Parameters
    ----------
    name : str
        Name of both.
    group : type
        Class of the architecture's own options.
    depth : str
        The one of them which ``generator.unrolled.n_layers`` takes the place of in the unrolled
        generator, where the others keep their defaults.
    unused : tuple of str
        Names of the options of ``GeneratorOptions`` that have no effect with the architecture.
    only_finer : bool
        See ``OperatorNetwork.only_finer``.
    """

    def registered(builder: Builder) -> Builder:
        @register_architecture(name, group, unused)
        class Network(OperatorNetwork):
            @staticmethod
            def build(
                options: GeneratorOptions, own: Any, patch_shape: tuple[int, int]
            ) -> nn.Module:
                return builder(options, own, patch_shape)

        Network.only_finer = only_finer

        @register_correcting_network(name)
        def correcting(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
            unrolled = unrolled_options(options)
            own = group(**{depth: unrolled.n_layers})
            return Residual(builder(options, own, patch_shape), unrolled.residual_gain)

        return builder

    return registered
