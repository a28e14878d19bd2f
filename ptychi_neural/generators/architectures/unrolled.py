"""Unrolled generator: data-consistency updates of the object, each corrected by a small network.

From the starting object O, K times, with u(O) the back-projected update of the measured counts,
a_k and m_k the learned step (from 1) and momentum (from 0):

    O_k+1 = O_k + a_k u(O_k) + m_k (O_k - O_k-1) + net_k(O_k, u(O_k)).

The network works on the stitched object, not on its patches: it sees across their borders, what
it makes is consistent as it is, and every pixel passes it once instead of once for each frame that
covers it. Architectures of this kind: Gregor & LeCun, ICML 2010; Aggarwal et al., IEEE TMI 38, 394
(2019).
"""

from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptychi_neural.generators.architectures.hybrid_uno import HybridUNO
from ptychi_neural.generators.blocks import BLOCKS, modes_per_level
from ptychi_neural.generators.convolution import apply_padded, convolution
from ptychi_neural.generators.saved_tensors import SavedTensors
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options.choices import UnrolledNetworks
from ptychi_neural.options.options import GeneratorOptions, HybridUNOOptions

ORIENTATIONS = (0, 7, 3, 4, 1, 2, 5, 6)
"""Of a square: bits for flips along x and y and the transposition that follows them. The first few
are as different as they can be."""

RESIDUAL_GAIN = 0.3
"""Of a residual branch's last convolution at first."""

CORRECTION_SCALE = 0.3
"""Of the network's output, in deviations of the object."""


class PhysicsOperators(Protocol):
    """The physics of a scan, or of some of its positions, on (1, H, W) complex objects."""

    def start(self) -> Tensor:
        """The object to start from."""

    def update(self, object_: Tensor) -> Tensor:
        """Step of the object to the measured counts, back-projected through the probe."""

    def coverage(self) -> Tensor:
        """(H, W) from 0, where the scan tells nothing, to 1."""


class Unrolled(SavedTensors):
    """The unrolled generator.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` and ``unrolled``.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels, from which spectral networks take their modes.
    """

    object_scale: Tensor
    update_scale: Tensor

    def __init__(self, options: GeneratorOptions, patch_shape: tuple[int, int]) -> None:
        super().__init__()
        self.n_slices = 1
        self.patch_shape = patch_shape
        unrolled = options.unrolled
        self.options = unrolled
        n_networks = 1 if unrolled.shared_weights else unrolled.n_iterations
        self.networks = nn.ModuleList(
            [CorrectingNetwork(options, patch_shape) for _ in range(n_networks)]
        )
        self.steps = nn.Parameter(torch.ones(unrolled.n_iterations))
        self.momenta = nn.Parameter(torch.zeros(unrolled.n_iterations))
        self.register_buffer("object_scale", torch.tensor(torch.nan))
        self.register_buffer("update_scale", torch.tensor(torch.nan))

    @torch.no_grad()
    def fit_normalization(self, operators: PhysicsOperators) -> None:
        """Take the deviation of the starting object and of its update, which become the units in
        which the network sees them."""
        covered = operators.coverage() > 0.5
        for scale, image in (
            (self.object_scale, operators.start()),
            (self.update_scale, operators.update(operators.start())),
        ):
            scale.copy_(image[0][covered].std().clamp_min(1e-3))

    def forward(self, operators: PhysicsOperators, orientation: int | None = None) -> Tensor:
        """The object after all iterations.

        Parameters
        ----------
        operators : PhysicsOperators
            The physics of the scan or of some of its positions.
        orientation : int, optional
            The one of ``ORIENTATIONS`` in which the network sees the object. None: as the options
            have it.

        Returns
        -------
        Tensor
            (1, H, W) complex object.
        """
        last = object_ = operators.start()
        n_free = self.options.n_iterations - (
            self.options.gradient_iterations or self.options.n_iterations
        )
        for k in range(self.options.n_iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= n_free):
                if self.options.activation_checkpointing and torch.is_grad_enabled():
                    new = checkpoint(
                        self._iterate,
                        *(k, object_, last, operators, orientation),
                        use_reentrant=False,
                    )
                else:
                    new = self._iterate(k, object_, last, operators, orientation)
            last, object_ = object_, new
        return object_

    def _iterate(
        self,
        k: int,
        object_: Tensor,
        last: Tensor,
        operators: PhysicsOperators,
        orientation: int | None,
    ) -> Tensor:
        update = operators.update(object_)
        coverage = operators.coverage()
        mean = (coverage * object_).sum() / coverage.sum()
        seen = coverage * (object_ - mean) / self.object_scale
        scaled = update / self.update_scale
        features = torch.cat([seen.real, seen.imag, scaled.real, scaled.imag])
        network = self.networks[min(k, len(self.networks) - 1)]
        if orientation is not None or not self.options.symmetric:
            orientations = [orientation or 0]
        elif torch.is_grad_enabled():
            orientations = [int(torch.randint(len(ORIENTATIONS), (1,), device="cpu"))]
        else:
            orientations = list(ORIENTATIONS[: self.options.averaged_orientations])
        correction = torch.stack(
            [_turned_back(network(_turned(features, o)[None])[0], o) for o in orientations]
        ).mean(0)
        correction = torch.complex(*correction.to(object_.real.dtype)[:, None].unbind())
        correction = CORRECTION_SCALE * self.object_scale * coverage * correction
        momentum = self.momenta[k] * (object_ - last)
        return object_ + self.steps[k] * update + momentum + correction


class CorrectingNetwork(nn.Module):
    """Four real channels to two: a linear path, and a body that departs from it.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` and ``unrolled``.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    def __init__(self, options: GeneratorOptions, patch_shape: tuple[int, int]) -> None:
        super().__init__()
        self.lift = convolution(4, options.width, 3, nonlinearity="linear")
        self.body = _body(options, patch_shape)
        self.project = convolution(options.width, 2, 3)
        nn.init.zeros_(cast(Tensor, self.project.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) to (B, 2, H, W), zero before training."""
        # Spectral layers want even sides.
        return apply_padded(lambda padded: self.project(self.body(self.lift(padded))), x, 2)


class DilatedBlock(nn.Module):
    """x + conv3x3(act(dilated conv3x3(act(x))))."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        dilated = convolution(width, width, 3)
        dilated.dilation = dilated.padding = (dilation, dilation)
        last = convolution(width, width, 3)
        with torch.no_grad():
            last.weight *= RESIDUAL_GAIN
        self.branch = nn.Sequential(nn.GELU(), dilated, nn.GELU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return x + self.branch(x)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return x + RESIDUAL_GAIN * self.body(x)


def _turned(x: Tensor, orientation: int) -> Tensor:
    x = x.flip(-1) if orientation & 1 else x
    x = x.flip(-2) if orientation & 2 else x
    return x.transpose(-1, -2) if orientation & 4 else x


def _turned_back(x: Tensor, orientation: int) -> Tensor:
    x = x.transpose(-1, -2) if orientation & 4 else x
    x = x.flip(-2) if orientation & 2 else x
    return x.flip(-1) if orientation & 1 else x


def _body(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    width, n_layers = options.width, options.unrolled.n_layers
    match options.unrolled.network:
        case UnrolledNetworks.DILATED:
            return nn.Sequential(*(DilatedBlock(width, 2 ** (i % 4)) for i in range(n_layers)))
        case UnrolledNetworks.UNET:
            return Residual(UNet(width, width, n_layers))
        case UnrolledNetworks.HYBRID_UNO:
            shape = HybridUNOOptions(depth=n_layers)
            return Residual(HybridUNO(width, patch_shape, options.block, options.n_modes, shape))
        case UnrolledNetworks.SPECTRAL:
            modes = modes_per_level(options.n_modes, [patch_shape])[0]
            return nn.Sequential(*(BLOCKS[options.block](width, modes) for _ in range(n_layers)))
    raise AssertionError(cast(str, options.unrolled.network))
