"""Losses between predicted and measured intensities, in counts."""

import ptychi.maps
import torch
from ptychi.api.enums import LossFunctions

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
