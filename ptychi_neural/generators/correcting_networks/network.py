"""The network of an unrolled generator, and the register of its bodies."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from ptychi_neural.generators.convolution import apply_padded, convolution
from ptychi_neural.generators.unrolled_options import UnrolledOptions
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import UnrolledNetworks
from ptychi_neural.options.generator import own_options
from ptychi_neural.options.open_choices import add_choice, make_anew
from ptychi_neural.physics.ranks import n_ranks, rank, summed

BodyBuilder = Callable[[GeneratorOptions, tuple[int, int]], nn.Module]
"""Builds a map from (B, width, H, W) to (B, width, H, W) features for patches of a shape."""

_BUILDERS: dict[str, BodyBuilder] = {}


def register_correcting_network(name: str) -> Callable[[BodyBuilder], BodyBuilder]:
    """Decorate a function so that ``generator.unrolled.network = name`` builds its network."""

    def registered(build: BodyBuilder) -> BodyBuilder:
        if name in _BUILDERS:
            raise ValueError(f"There is a network {name!r} already: choose another name.")
        add_choice(UnrolledNetworks, name)
        make_anew(UnrolledOptions)
        _BUILDERS[name] = build
        return build

    return registered


def build_body(options: GeneratorOptions, patch_shape: tuple[int, int]) -> nn.Module:
    """The body that the option ``network`` of the chosen architecture names."""
    return _BUILDERS[unrolled_options(options).network](options, patch_shape)


def unrolled_options(options: GeneratorOptions) -> UnrolledOptions:
    """The group of options of the chosen architecture, which has a correcting network."""
    return cast(UnrolledOptions, own_options(options))


class CorrectingNetwork(nn.Module):
    """Four real channels a slice to two: a linear path, and a body that departs from it.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` and ``unrolled``.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    def __init__(
        self, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        self.lift = convolution(4 * n_slices, options.width, 3, nonlinearity="linear")
        self.body = build_body(options, patch_shape)
        self.project = convolution(options.width, 2 * n_slices, 3)
        nn.init.zeros_(cast(Tensor, self.project.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4 n_slices, H, W) to (B, 2 n_slices, H, W), which is zero before training."""
        # Spectral layers want even sides.
        return apply_padded(lambda padded: self.project(self.body(self.lift(padded))), x, 2)

    @property
    def reach(self) -> int | None:
        """Pixels that an output sees on either side; None if it may see all."""
        blocks = self.body if isinstance(self.body, nn.Sequential) else [self.body]
        reaches = [getattr(block, "reach", None) for block in blocks]
        known = [reach for reach in reaches if reach is not None]
        return 2 + sum(known) if len(known) == len(reaches) else None

    def of_object(self, features: Tensor) -> Tensor:
        """Map (4 n_slices, H, W) features of the object to (2 n_slices, H, W).

        Each of several ranks does some rows, with those beside them that the network sees.
        """
        n, height, reach = n_ranks(), features.shape[-2], self.reach
        if n == 1 or reach is None or height <= n * reach:
            return cast(Tensor, self(features[None]))[0]
        first, last = (height * k // n for k in (rank(), rank() + 1))
        top = max(first - reach, 0) // 2 * 2  # Padding to even sides is that of the whole then.
        made = self(features[None, :, top : last + reach])[0, :, first - top : last - top]
        return summed(nn.functional.pad(made, (0, 0, first, height - last)))


class Residual(nn.Module):
    """x + gain * body(x)."""

    def __init__(self, body: nn.Module, gain: float) -> None:
        super().__init__()
        self.body = body
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) features to the same shape."""
        return x + self.gain * self.body(x)
