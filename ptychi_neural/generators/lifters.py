"""Lifters: what a generator sees of its input, brought to the width of the network.

A lifter is a fixed transform with its normalisation, followed by a shallow CNN (3x3 convolution,
GELU, 3x3 convolution) or a 1x1 convolution. Statistics of the scan are buffers, saved with it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ptychi_neural.generators.convolution import convolution
from ptychi_neural.options.choices import Lifters
from ptychi_neural.options.options import GeneratorOptions

CONSTANT_PIXEL_DEVIATION = 1e-3
"""Pixels that vary less than this, relative to the mean deviation, count as constant."""


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

    def normalize(self, x: Tensor) -> Tensor:
        """The real (B, in_channels, H, W) channels that the convolutions see."""
        raise NotImplementedError

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Take the statistics of a scan, where there are any; ``batches`` are its frames."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) features of the input."""
        return self.convolutions(self.normalize(x))


class PerPatternLifter(Lifter):
    """``(t - mean(t)) / std(t)`` over each pattern, t its amplitudes or log(1 + counts)."""

    def __init__(self, in_channels: int, width: int, shallow_cnn: bool, logarithm: bool) -> None:
        super().__init__(in_channels, width, shallow_cnn)
        self.transform = log_counts if logarithm else amplitudes

    def normalize(self, x: Tensor) -> Tensor:
        values = self.transform(x)
        mean = values.mean(dim=(-2, -1), keepdim=True)
        deviation = values.std(dim=(-2, -1), keepdim=True, correction=0)
        constant = deviation <= CONSTANT_PIXEL_DEVIATION * mean
        return torch.where(constant, 0.0, (values - mean) / deviation.masked_fill(constant, 1.0))


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


class AmplitudeLifter(FittedLifter):
    """Amplitudes over their root mean square in the scan, as in PtychoPINN.

    Hoidn et al., Scientific Reports 13, 22789 (2023).
    """

    def transform(self, x: Tensor) -> Tensor:
        return amplitudes(x)

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        n_values, total = 0, torch.zeros((), dtype=torch.float64)
        for batch in batches:
            n_values += batch.numel()
            total += self.transform(batch.double()).square().sum().cpu()
        if total == 0:
            raise ValueError("The diffraction data are empty: no frame holds a count.")
        return torch.zeros_like(total), (n_values / total).sqrt()


class BackprojectionLifter(FittedLifter):
    """Real and imaginary parts of complex features over their root mean square in the scan."""

    def transform(self, x: Tensor) -> Tensor:
        if not x.is_complex():
            raise TypeError(
                f"The backprojection lifter needs complex features, got {x.dtype}: pass the "
                "back-projected update, not the patterns."
            )
        parts = torch.view_as_real(x.flatten(1, 2))
        return torch.cat([parts[..., 0], parts[..., 1]], dim=1)

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        n_values, total = 0, torch.zeros((), dtype=torch.float64)
        for batch in batches:
            parts = torch.view_as_real(batch).double()
            n_values += parts.numel()
            total += parts.square().sum().cpu()
        if total == 0:
            raise ValueError("The back-projected features are all zero.")
        return torch.zeros_like(total), (n_values / total).sqrt()


class StandardizedLifter(FittedLifter):
    """log(1 + counts), each detector pixel standardised over the scan.

    A pixel that is (almost) constant in the scan, as a dead one, is always 0. Mean and deviation
    are accumulated batch by batch: Chan, Golub & LeVeque, COMPSTAT 1982, Eqs. 2.1.
    """

    def transform(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        n, mean = 0, torch.zeros_like(self.center).double()
        squares = torch.zeros_like(mean)
        for batch in batches:
            values = self.transform(batch.to(mean))
            if values.shape[-2:] != mean.shape:
                raise ValueError(
                    f"Patterns of {tuple(values.shape[-2:])} pixels, but the generator was built "
                    f"for patches of {tuple(mean.shape)}."
                )
            n_new, mean_new = len(values), values.mean(dim=0)
            difference = mean_new - mean
            squares += (values - mean_new).square().sum(dim=0)
            squares += difference.square() * n * n_new / (n + n_new)
            mean += difference * n_new / (n + n_new)
            n += n_new
        if n == 0:
            raise ValueError("No patterns to take the generator's input statistics from.")
        deviation = (squares / n).sqrt()
        constant = deviation <= CONSTANT_PIXEL_DEVIATION * deviation.mean()
        return mean, torch.where(constant, 0.0, 1.0 / deviation.masked_fill(constant, 1.0))


def build_lifter(options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Lifter:
    """The lifter that the options name.

    Raises
    ------
    ValueError
        If the CNN lifter is asked for without its CNN.
    """
    n_patterns, kind = options.grid_size**2, options.lifter
    width, shallow_cnn = options.width, options.shallow_cnn
    if kind is Lifters.CNN:
        if not shallow_cnn:
            raise ValueError(
                'generator.lifter = "cnn" is the shallow CNN: set generator.shallow_cnn to True, '
                'or generator.lifter to "sqrt" for amplitudes without it.'
            )
        return AmplitudeLifter(n_patterns, width, shallow_cnn, statistics_shape=())
    if kind is Lifters.STANDARDIZED:
        return StandardizedLifter(n_patterns, width, shallow_cnn, statistics_shape=patch_shape)
    if kind is Lifters.BACKPROJECTION:
        n_channels = 2 * n_patterns * n_slices
        return BackprojectionLifter(n_channels, width, shallow_cnn, statistics_shape=())
    return PerPatternLifter(n_patterns, width, shallow_cnn, logarithm=kind is Lifters.LOG)
