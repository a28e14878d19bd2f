"""Deep image prior: a network makes the whole object of fixed noise, and only its weights learn.

    O = O_start * head(network(noise))

Ulyanov et al., CVPR 2018. What the network makes first is smooth, and the noise of the counts comes
late: the held-out pixels tell when to stop.
"""

from collections.abc import Iterable
from typing import cast

import torch
from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor

from ptychi_neural.generators.contract import Generator
from ptychi_neural.generators.convolution import apply_padded, convolution
from ptychi_neural.generators.correcting_networks.network import build_body
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.generators.unrolled_options import UnrolledOptions
from ptychi_neural.options import GeneratorOptions, StartOptions
from ptychi_neural.options.choices import PriorInputs, UnrolledNetworks
from ptychi_neural.options.generator import own_options
from ptychi_neural.options.open_choices import contains
from ptychi_neural.physics.scan_physics import ScanPhysics


@contains(UnrolledOptions)  # Its choice of networks is the same, and grows with it.
@dataclass
class DIPOptions(Options):
    """Deep image prior: Ulyanov et al., CVPR 2018."""

    network: UnrolledNetworks = UnrolledNetworks.UNET
    """The network, one of the correcting networks of the unrolled generator."""

    n_layers: int = PydanticField(default=4, ge=1, le=100)
    """Blocks or levels of the network."""

    residual_gain: float = PydanticField(default=1.0, gt=0)
    """Gain of a residual branch of the network at first."""

    input: PriorInputs = PriorInputs.NOISE
    """What the object is made of."""

    noise_seed: int = PydanticField(default=0, ge=0)
    """Seed of the noise, which is the same in every run and after loading."""


@register_architecture("dip", DIPOptions, unused=("lifter", "shallow_cnn", "grid_size"))
class DeepImagePrior(Generator):
    """The prior of one object.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes``, ``head`` and ``dip``.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels, from which spectral networks take their modes.
    """

    object_shape: Tensor
    fixed_input: Tensor

    def __init__(
        self, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__(options, n_slices, patch_shape)
        self.dip = dip = cast(DIPOptions, own_options(options))
        n_channels = options.width if dip.input is PriorInputs.NOISE else 2
        self.lift = convolution(n_channels, options.width, 3, nonlinearity="linear")
        self.body = build_body(options, patch_shape)
        self.output = output_convolution(options.width, 2 * n_slices)
        self.head = build_head(options.head, options.maximum_amplitude)
        self.register_buffer("object_shape", torch.full((2,), torch.nan))
        self.register_buffer("fixed_input", torch.empty(0), persistent=False)

    def fit_normalization(self, scans: Iterable[ScanPhysics]) -> None:
        """Take the shape of the object."""
        shape = next(iter(scans)).start.shape[-2:]
        self.object_shape.copy_(torch.tensor(shape))

    def forward(self, scan: ScanPhysics) -> Tensor:
        self.check_scan(scan)
        noise = self._input(scan.start)[None]
        features = apply_padded(lambda padded: self.body(self.lift(padded)), noise, 2)
        factor: Tensor = self.head(self.output(features))[0]
        return scan.start * factor

    def check_scan(self, scan: ScanPhysics) -> None:
        """Refuse objects of another shape than that which it was fitted to."""
        shape, own = list(scan.start.shape[-2:]), self.object_shape.tolist()
        is_fitted = bool(self.object_shape.isfinite().all())
        if is_fitted and own != shape:
            raise ValueError(
                f"This deep image prior holds one object of {own[0]:.0f} x {own[1]:.0f} pixels, "
                f"not of {shape[0]} x {shape[1]}: fit a new one, without generator.checkpoint."
            )

    def _input(self, start: Tensor) -> Tensor:
        """(n_channels, H, W) noise of unit deviation, or coordinates of -1 to 1, made once."""
        if self.fixed_input.shape[-2:] != start.shape[-2:]:
            self.fixed_input = self._made_input(*start.shape[-2:]).to(start.device)
        return self.fixed_input.to(start.real)

    def _made_input(self, height: int, width: int) -> Tensor:
        if self.dip.input is PriorInputs.COORDINATES:
            axes = [torch.linspace(-1, 1, side, device="cpu") for side in (height, width)]
            return torch.stack(torch.meshgrid(*axes, indexing="ij"))
        random = torch.Generator("cpu").manual_seed(self.dip.noise_seed)
        shape = (self.options.width, height, width)
        return torch.randn(shape, generator=random, device="cpu", dtype=torch.float32)

    def deviation(self, scan: ScanPhysics) -> Tensor:
        return torch.full_like(scan.coverage, torch.nan)  # It makes a single object.

    def why_not_frame_by_frame(self, start: StartOptions) -> str | None:
        return "a deep image prior holds the one object that it was fitted to"

    def sums(self, scan: ScanPhysics, n_counted: int | None = None) -> None:
        raise NotImplementedError

    def object_of_sums(self, scan: ScanPhysics, sums: None) -> Tensor:
        raise NotImplementedError

    def deviation_of_sums(self, scan: ScanPhysics, sums: None) -> Tensor:
        raise NotImplementedError
