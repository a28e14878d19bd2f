"""Unrolled generator: data-consistency updates, each corrected by a small network.

From the starting patches o, K times, with u(o) the back-projected modulus update, C the
stitch-and-extract layer and a the learned step (from 1):

    o <- C[o + a_k u(o) + net_k(o, u(o))]

Architectures of this kind: Gregor & LeCun, ICML 2010; Aggarwal et al., IEEE TMI 38, 394 (2019).
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptychi_neural.api.enums import UnrolledNetworks
from ptychi_neural.api.options import GeneratorOptions, HybridUNOOptions
from ptychi_neural.generators.blocks import BLOCKS, modes_per_level
from ptychi_neural.generators.convolution import convolution
from ptychi_neural.generators.heads import output_convolution
from ptychi_neural.generators.hybrid_uno import HybridUNO
from ptychi_neural.generators.saved_tensors import SavedTensors
from ptychi_neural.generators.unet import UNet

CHUNK_SIZE = 128
"""Patches that the network takes at a time where no gradient is needed, to bound the memory."""


class PhysicsOperators(Protocol):
    """The physics of the positions under a set of patches, all (n, n_slices, h, w) complex."""

    def start_patches(self) -> Tensor:
        """Patches of the object to start from."""

    def data_update(self, patches: Tensor) -> Tensor:
        """Step of each patch to its measured modulus, back-projected through the probe."""

    def consistency(self, patches: Tensor) -> Tensor:
        """The patches, stitched into one object and cut out again."""


class Unrolled(SavedTensors):
    """The unrolled generator.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` and ``unrolled``.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    update_scale: Tensor

    def __init__(self, options: GeneratorOptions, patch_shape: tuple[int, int]) -> None:
        super().__init__()
        self.n_slices = 1
        unrolled = options.unrolled
        self.options = unrolled
        n_networks = 1 if unrolled.shared_weights else unrolled.n_iterations
        self.networks = nn.ModuleList(
            [
                nn.Sequential(
                    convolution(4, options.width, 3),
                    _body(options, patch_shape),
                    output_convolution(options.width, 2),
                )
                for _ in range(n_networks)
            ]
        )
        self.steps = nn.Parameter(torch.ones(unrolled.n_iterations))
        self.register_buffer("update_scale", torch.tensor(torch.nan))

    def fit_normalization(self, operators: PhysicsOperators) -> None:
        """Take the size of the starting patches' updates, by which the network sees updates."""
        with torch.no_grad():
            update = operators.data_update(operators.start_patches())
            self.update_scale.copy_(update.abs().square().mean().sqrt().clamp_min(1e-6))

    def forward(self, operators: PhysicsOperators) -> Tensor:
        """Patches after all iterations.

        Parameters
        ----------
        operators : PhysicsOperators
            The physics of n positions.

        Returns
        -------
        Tensor
            (n, 1, h, w) complex patches, consistent with each other.
        """
        patches = operators.start_patches()
        n_free = self.options.n_iterations - (
            self.options.gradient_iterations or self.options.n_iterations
        )
        for k in range(self.options.n_iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= n_free):
                if self.options.activation_checkpointing and torch.is_grad_enabled():
                    patches = checkpoint(self._iterate, k, patches, operators, use_reentrant=False)
                else:
                    patches = self._iterate(k, patches, operators)
        return patches

    def _iterate(self, k: int, patches: Tensor, operators: PhysicsOperators) -> Tensor:
        update = operators.data_update(patches)
        network = self.networks[min(k, len(self.networks) - 1)]
        scaled = update / self.update_scale
        features = torch.cat([patches.real - 1, patches.imag, scaled.real, scaled.imag], dim=1)
        chunks = [features] if torch.is_grad_enabled() else features.split(CHUNK_SIZE)
        correction = torch.cat([network(chunk) for chunk in chunks])
        correction = torch.complex(*correction.to(patches.real.dtype).chunk(2, dim=1))
        correction = correction * self.update_scale
        return operators.consistency(patches + self.steps[k] * update + correction)


def _body(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    width, n_layers = options.width, options.unrolled.n_layers
    match options.unrolled.network:
        case UnrolledNetworks.DILATED:
            layers: list[nn.Module] = []
            for layer in range(n_layers):
                dilation = 2 ** (layer % 4)
                dilated = convolution(width, width, 3)
                dilated.dilation = dilated.padding = (dilation, dilation)
                layers += [nn.GELU(), dilated]
            return nn.Sequential(*layers, nn.GELU())
        case UnrolledNetworks.UNET:
            return UNet(width, width, n_layers)
        case UnrolledNetworks.HYBRID_UNO:
            shape = HybridUNOOptions(depth=n_layers)
            return HybridUNO(width, patch_shape, options.block, options.n_modes, shape)
        case UnrolledNetworks.SPECTRAL:
            modes = modes_per_level(options.n_modes, [patch_shape])[0]
            return nn.Sequential(*(BLOCKS[options.block](width, modes) for _ in range(n_layers)))
    raise AssertionError(cast(str, options.unrolled.network))
