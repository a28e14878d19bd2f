"""Losses between predicted and measured intensities, in counts."""

import copy
import functools
import math
from collections.abc import Callable

import numpy as np
import ptychi.maps
import torch
from numpy.typing import NDArray
from ptychi.api.enums import LossFunctions
from scipy.special import xlogy
from scipy.stats import poisson
from torch import Tensor

from ptychi_neural.options import FitLossOptions
from ptychi_neural.physics.ranks import part_of_mean, summed, summed_numbers
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


def amplitude_error(
    predicted: Tensor, measured: Tensor, counts_above: float | None = None
) -> Tensor:
    """Mean absolute error of amplitudes: ``mean |sqrt(predicted) - sqrt(measured)|``.

    Parameters
    ----------
    predicted, measured : Tensor
        Counts, of one shape; negative measured ones count as 0.
    counts_above : float, optional
        The mean is taken where more was measured; 0 where that is nowhere so. None: everywhere.

    Examples
    --------
    >>> round(amplitude_error(torch.tensor([4.0, 9.0]), torch.tensor([1.0, 0.0])).item(), 4)
    2.0
    >>> round(amplitude_error(torch.tensor([4.0, 9.0]), torch.tensor([1.0, 0.0]), 0.0).item(), 4)
    1.0
    """
    error = ((predicted + POISSON_EPS).sqrt() - measured.clamp_min(0).sqrt()).abs()
    if counts_above is None:
        return error.mean()
    above = measured > counts_above
    return torch.where(above, error, 0.0).sum() / above.sum().clamp_min(1)


def object_error(object_: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Squared relative error of an object: ``min over s of ||s O - T||^2 / ||T||^2``.

    Parameters
    ----------
    object_, truth : Tensor
        Complex (n_slices, H, W) objects O and T.
    weight : Tensor
        (H, W) weight of the pixels in the norms.

    Examples
    --------
    >>> truth = torch.tensor([[[1.0 + 1.0j, 2.0]]])
    >>> weight = torch.ones(1, 2)
    >>> round(object_error(3j * truth, truth, weight).item(), 6)
    0.0
    >>> round(object_error(torch.tensor([[[1.0 + 1.0j, 0.0]]]), truth, weight).item(), 6)
    0.666667
    """
    cross = (weight * object_.conj() * truth).sum().abs().square()
    power = (weight * object_.abs().square()).sum() * (weight * truth.abs().square()).sum()
    return 1 - cross / power


class FitLoss:
    """The weighted sum of the losses that count in an epoch.

    Parameters
    ----------
    options : FitLossOptions
        Weights and epochs.
    loss_function : torch.nn.Module
        Loss of (predicted, measured) counts, from ``build_loss_function``.
    truth : Tensor, optional
        (n_slices, H, W) true object.
    """

    def __init__(
        self,
        options: FitLossOptions,
        loss_function: torch.nn.Module,
        truth: Tensor | None = None,
    ) -> None:
        self.options, self.loss_function, self.truth = options, loss_function, truth
        self.epoch = 0
        """The epoch, counted from 0."""

    def __call__(
        self, predicted: Tensor, measured: Tensor, object_: Tensor, scan: ScanPhysics
    ) -> Tensor:
        """The sum for (k,) counts predicted of a (n_slices, H, W) object of a scan.

        Of several ranks each gets its part of it.

        Raises
        ------
        ValueError
            If the error of the object is asked for, and the truth is not known.
        """
        likelihood, amplitude, of_object = (
            getattr(self.options, name)
            for name in ("likelihood", "amplitude_error", "object_error")
        )
        total = torch.zeros(())
        if likelihood.is_enabled_on_this_epoch(self.epoch):
            mean = self.loss_function(predicted, measured)
            total = total + likelihood.weight * part_of_mean(mean, len(measured))
        if amplitude.is_enabled_on_this_epoch(self.epoch):
            least = amplitude.counts_above
            error = amplitude_error(predicted, measured, least)
            n_counted = len(measured) if least is None else int((measured > least).sum())
            total = total + amplitude.weight * part_of_mean(error, n_counted)
        if of_object.is_enabled_on_this_epoch(self.epoch):
            if self.truth is None:
                raise ValueError(
                    "fit_loss.object_error: this scan has no true object; train on simulated "
                    "scans, or disable it."
                )
            truth = self.truth.to(object_)
            total = total + of_object.weight * object_error(object_, truth, scan.coverage)
        return total


class LossOfAllRanks(torch.nn.Module):
    """A loss of (predicted, measured) counts of each rank, averaged over the pixels of all.

    Parameters
    ----------
    loss_function : torch.nn.Module
        From ``build_loss_function``.
    """

    def __init__(self, loss_function: torch.nn.Module) -> None:
        super().__init__()
        self.loss_function = loss_function

    def forward(self, predicted: Tensor, measured: Tensor) -> Tensor:
        """The mean over (k,) counts of all ranks."""
        return summed(part_of_mean(self.loss_function(predicted, measured), len(measured)))


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
    """Mean over chosen pixels of many batches, and of all ranks."""

    def __init__(self) -> None:
        self._total, self._n_pixels = 0.0, 0

    def add(self, losses: Tensor, pixels: Tensor) -> None:
        """Take in (n, h, w) losses at the chosen ones of (n, h, w) or (h, w) pixels."""
        self._total += float(torch.where(pixels, losses, 0.0).sum(dtype=torch.float64))
        self._n_pixels += int(pixels.sum()) * (losses.numel() // pixels.numel())

    @property
    def value(self) -> float:
        """The mean; nan where no pixel was chosen. All ranks have to ask for it."""
        total, n_pixels = summed_numbers(self._total, self._n_pixels)
        return total / n_pixels if n_pixels > 0 else float("nan")


def deviance_of_noise(mean: Tensor) -> Tensor:
    """Poisson deviance that noise makes on average of counts with the given means.

    It is 1 of many counts, up to 1.2 of one or two, and falls to 0 where there are none.

    Parameters
    ----------
    mean : Tensor
        Expected counts.

    Examples
    --------
    >>> deviance_of_noise(torch.tensor([0.0, 0.1, 1.5, 1e6])).round(decimals=2)
    tensor([0.0000, 0.4700, 1.1600, 1.0000])
    """
    logs, deviances = _deviances_of_noise()
    place = (mean.clamp(min=math.exp(logs[0])).log() - logs[0]) / (logs[1] - logs[0])
    place = place.clamp(max=len(logs) - 1.001)
    below, values = place.long(), torch.as_tensor(deviances).to(mean)
    return torch.lerp(values[below], values[below + 1], place - below)


@functools.cache
def _deviances_of_noise() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of means up to a hundred, evenly apart, and what noise makes of each."""
    means = np.geomspace(1e-7, 100.0, 400)
    counts = np.arange(250)[:, None]
    of_counts = 2 * (xlogy(counts, counts / means) - counts + means)
    return np.log(means), (poisson.pmf(counts, means) * of_counts).sum(0)


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


def least_loss(
    scan: ScanPhysics,
    loss_function: torch.nn.Module,
    pixels: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """Mean loss of the measured counts themselves over the frames in view.

    Parameters
    ----------
    scan : ScanPhysics
        The scan.
    loss_function : torch.nn.Module
        From ``build_loss_function``.
    pixels : callable
        Gives the (n, h, w) pixels that count, from (n,) frames and their (n, h, w) counts.
    """
    mean = MeanLoss()
    for batch in scan.batches:
        measured = scan.model.measured(batch)
        mean.add(losses_of_pixels(loss_function, measured, measured), pixels(batch, measured))
    return mean.value
