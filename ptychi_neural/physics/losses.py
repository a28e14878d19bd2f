"""Losses between predicted and measured intensities, in counts."""

import ptychi.maps
import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor

POISSON_EPS = 1e-6


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


class MeanLoss:
    """Mean of a loss function over chosen pixels of many batches, in double precision: of bright
    patterns, one digit of a single is more than what is to be told apart.

    Parameters
    ----------
    loss_function : torch.nn.Module
        Of predicted and measured counts, averaged over pixels.
    """

    def __init__(self, loss_function: torch.nn.Module) -> None:
        self.loss_function = loss_function
        self._total, self._n_pixels = 0.0, 0

    def add(self, predicted: Tensor, measured: Tensor, pixels: Tensor) -> None:
        """Take in the chosen pixels of (n, h, w) counts."""
        n_pixels = int(pixels.sum())
        if n_pixels > 0:
            loss = self.loss_function(predicted[pixels].double(), measured[pixels].double())
            self._total += n_pixels * float(loss)
            self._n_pixels += n_pixels

    @property
    def value(self) -> float:
        """The mean; nan where no pixel was chosen."""
        return self._total / self._n_pixels if self._n_pixels > 0 else float("nan")
