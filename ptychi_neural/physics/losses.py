"""Losses between predicted and measured intensities, in counts."""

import copy
from collections.abc import Callable

import ptychi.maps
import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor

from ptychi_neural.physics.scan_physics import ScanPhysics

POISSON_EPS = 1e-6
"""Counts that are added to predicted ones before their logarithm is taken."""

BRIGHT = 1e3
"""Largest count of patterns whose losses are computed in single precision: up to here the mean of
1e4 losses errs by less than 1e-5."""


def build_loss_function(choice: LossFunctions) -> torch.nn.Module:
    """Build a loss function of (predicted, measured) intensities, averaged over pixels.

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
    """(n, h, w) losses that a loss function averages. Those of bright patterns are computed in
    double precision, because one digit of a single is more than what is to be told apart."""
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


@torch.no_grad()
def add_losses(
    mean: MeanLoss,
    scan: ScanPhysics,
    object_: Tensor,
    loss_function: torch.nn.Module,
    pixels: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Add to a mean the losses of an object over the frames in view.

    Parameters
    ----------
    mean : MeanLoss
        The mean.
    scan : ScanPhysics
        The scan.
    object_ : Tensor
        (n_slices, H, W) object.
    loss_function : torch.nn.Module
        From ``build_loss_function``.
    pixels : callable
        Gives the (n, h, w) pixels that count, from (n,) frames and their (n, h, w) counts.
    """
    for batch in scan.batches:
        measured = scan.model.measured(batch)
        losses = losses_of_pixels(loss_function, scan.predict(object_, batch), measured)
        mean.add(losses, pixels(batch, measured))
