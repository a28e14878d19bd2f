"""What all lifters have in common, and their register.

A lifter is a fixed transform with its normalisation, followed by a shallow CNN (3x3 convolution,
GELU, 3x3 convolution) or a 1x1 convolution. Statistics of the scan are buffers, saved with it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ptychi_neural.generators.convolution import convolution
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.generator import add_lifter

CONSTANT_PIXEL_DEVIATION = 1e-3
"""Pixels that vary less than this, relative to the mean deviation, count as constant."""

_CLASSES: dict[str, type["Lifter"]] = {}


def amplitudes(patterns: Tensor) -> Tensor:
    """Square root of the counts; negative ones, as of a subtracted background, give 0."""
    return patterns.clamp_min(0).sqrt()


def log_counts(patterns: Tensor) -> Tensor:
    """log(1 + counts); negative counts give 0."""
    return patterns.clamp_min(0).log1p()


class Lifter(nn.Module):
    """Base of the lifters.

    Parameters
    ----------
    in_channels : int
        Channels after the transform.
    width : int
        Channels of the network.
    shallow_cnn : bool
        Two 3x3 convolutions with a GELU between, or one 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, shallow_cnn: bool) -> None:
        super().__init__()
        self.convolutions: nn.Module
        if shallow_cnn:
            self.convolutions = nn.Sequential(
                convolution(in_channels, width, 3), nn.GELU(), convolution(width, width, 3)
            )
        else:
            self.convolutions = convolution(in_channels, width, 1)

    sees_updates: bool = False
    """Whether it takes the update of the object by the counts, instead of the counts."""

    @classmethod
    def build(cls, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Self:
        """Build it as the options have it."""
        return cls(options.grid_size**2, options.width, options.shallow_cnn)

    def normalize(self, x: Tensor) -> Tensor:
        """The real (B, in_channels, H, W) channels that the convolutions see."""
        raise NotImplementedError

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take the statistics of a scan, where there are any; ``batches`` are its frames."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) features of the input."""
        return self.convolutions(self.normalize(x))


class FittedLifter(Lifter):
    """A lifter with statistics of the scan, ``center`` and ``scale``: ``(t - center) * scale``.

    They are NaN until ``fit`` or ``load_state_dict`` gives them.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, in_channels: int, width: int, shallow_cnn: bool, statistics_shape: tuple[int, ...]
    ) -> None:
        super().__init__(in_channels, width, shallow_cnn)
        self.register_buffer("center", torch.full(statistics_shape, torch.nan))
        self.register_buffer("scale", torch.full(statistics_shape, torch.nan))
        self.is_fitted = False

    def transform(self, x: Tensor) -> Tensor:
        """What is normalised; real (..., H, W)."""
        raise NotImplementedError

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Center and scale, in float64."""
        raise NotImplementedError

    def fit(self, batches: Iterable[Tensor]) -> None:
        center, scale = self.statistics(batches)
        if not (torch.isfinite(center).all() and torch.isfinite(scale).all()):
            raise ValueError(
                "The generator's input statistics are not finite: mask or remove NaN and infinite "
                "counts from the diffraction data."
            )
        self.center.copy_(center)
        self.scale.copy_(scale)
        self.is_fitted = True

    def normalize(self, x: Tensor) -> Tensor:
        if not self.is_fitted:
            raise RuntimeError(
                "The generator's input statistics are missing: call fit_normalization with the "
                "scan's patterns, or load a trained generator."
            )
        values = self.transform(x)
        if self.center.ndim == 2 and values.shape[-2:] != self.center.shape:
            raise ValueError(
                f"Patterns of {tuple(values.shape[-2:])} pixels do not fit the generator's input "
                f"statistics of {tuple(self.center.shape)}: crop or bin the patterns alike, or "
                "train a generator for this size."
            )
        return (values - self.center) * self.scale

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_fitted = bool(torch.isfinite(self.scale).all())


Class = TypeVar("Class", bound=type[Lifter])


def register_lifter(name: str) -> Callable[[Class], Class]:
    """Decorate a lifter so that ``generator.lifter = name`` builds it."""

    def registered(cls: Class) -> Class:
        if name in _CLASSES:
            raise ValueError(f"There is a lifter {name!r} already: choose another name.")
        add_lifter(name)
        _CLASSES[name] = cls
        return cls

    return registered


def build_lifter(options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Lifter:
    """The lifter that the options name.

    Raises
    ------
    ValueError
        If the CNN lifter is asked for without its CNN.
    """
    return _CLASSES[options.lifter].build(options, n_slices, patch_shape)
