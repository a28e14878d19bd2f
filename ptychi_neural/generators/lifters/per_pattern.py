"""Lifters that standardise each pattern by itself."""

import torch
from torch import Tensor

from ptychi_neural.generators.lifters.lifter import (
    CONSTANT_PIXEL_DEVIATION,
    Lifter,
    amplitudes,
    log_counts,
    register_lifter,
)


class PerPatternLifter(Lifter):
    """``(t - mean(t)) / std(t)`` over each pattern, t its amplitudes or log(1 + counts)."""

    def transform(self, x: Tensor) -> Tensor:
        """What is standardised; real (..., H, W)."""
        raise NotImplementedError

    def normalize(self, x: Tensor) -> Tensor:
        values = self.transform(x)
        mean = values.mean(dim=(-2, -1), keepdim=True)
        deviation = values.std(dim=(-2, -1), keepdim=True, correction=0)
        constant = deviation <= CONSTANT_PIXEL_DEVIATION * mean
        return torch.where(constant, 0.0, (values - mean) / deviation.masked_fill(constant, 1.0))


@register_lifter("log")
class LogLifter(PerPatternLifter):
    """log(1 + counts), standardised over each pattern."""

    def transform(self, x: Tensor) -> Tensor:
        return log_counts(x)


@register_lifter("sqrt")
class SqrtLifter(PerPatternLifter):
    """Amplitudes, standardised over each pattern."""

    def transform(self, x: Tensor) -> Tensor:
        return amplitudes(x)
