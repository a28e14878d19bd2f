"""Losses between predicted and measured intensities, in counts."""

import copy

import ptychi.maps
import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor

POISSON_EPS = 1e-6

BRIGHT = 1e3
"""Counts: up to here, the mean of 1e4 losses in single precision errs by less than 1e-5."""


def build_loss_function(choice: LossFunctions) -> torch.nn.Module:
    """Loss function of (predicted, measured) intensities, averaged over pixels.

    pty-chi's own, except for the Poisson likelihood, which pty-chi builds for predictions that
    are logarithms of intensities (``log_input=True``).

    >>> loss = build_loss_function(LossFunctions.POISSON)
    >>> round(float(loss(torch.tensor([2.0]), torch.tensor([3.0]))), 4)
    -0.0794
    """
    if choice == LossFunctions.POISSON:
        return torch.nn.PoissonNLLLoss(log_input=False, eps=POISSON_EPS)
    return ptychi.maps.get_loss_function_by_enum(choice)()


def losses_of_pixels(loss_function: torch.nn.Module, predicted: Tensor, measured: Tensor) -> Tensor:
    """(n, h, w) losses that a loss function averages; of bright patterns in double precision, where
    one digit of a single is more than what is to be told apart."""
    of_pixels = copy.copy(loss_function)
    of_pixels.reduction = "none"  # type: ignore[assignment]
    if measured.max() > BRIGHT:
        predicted, measured = predicted.double(), measured.double()
    losses: Tensor = of_pixels(predicted, measured)
    return losses


class MeanLoss:
    """Mean over chosen pixels of many batches."""

    def __init__(self) -> None:
        self._total, self._n_pixels = 0.0, 0

    def add(self, losses: Tensor, pixels: Tensor) -> None:
        """Take in (n, h, w) losses at the chosen ones of (n, h, w) or (h, w) pixels."""
        self._total += float(torch.where(pixels, losses, 0.0).sum(dtype=torch.float64))
        self._n_pixels += int(pixels.sum()) * (losses.numel() // pixels.numel())

    @property
    def value(self) -> float:
        """The mean; nan where no pixel was chosen."""
        return self._total / self._n_pixels if self._n_pixels > 0 else float("nan")
