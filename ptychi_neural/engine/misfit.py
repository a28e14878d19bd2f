"""How far predicted counts are from the measured ones, and whether a run has made it far worse."""

import math
from typing import Any

import torch
from ptychi.api.task import PtychographyTask
from torch import Tensor

from ptychi_neural.physics.ranks import summed_numbers
from ptychi_neural.physics.scan_physics import ScanPhysics

LARGEST_SHARE = 0.1
"""Share of a misfit by which it may grow, beside once its noise, before all is given up: how
closely counts are followed that a model cannot explain is a matter of the engine."""


class Misfit:
    """Squared difference of amplitudes at the best common scale, in units of its noise.

    ``min over a of mean (a sqrt(predicted) - sqrt(measured))^2 / (1/4)`` over the pixels of many
    batches and of all ranks: about 1 where only the noise of many counts is left, and no more than
    four times the mean count whatever is predicted.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64)

    def add(self, predicted: Tensor, measured: Tensor, pixels: Tensor) -> None:
        """Take in (n, h, w) counts at the chosen ones of (n, h, w) or (h, w) pixels."""
        pixels = pixels.expand(measured.shape)
        p, y = predicted[pixels].double(), measured[pixels].double().clamp_min(0)
        sums = p.sum(), y.sum(), (p * y).sqrt().sum(), torch.tensor(float(y.numel()))
        self._sums += torch.stack([each.detach().cpu().double() for each in sums])

    @property
    def value(self) -> float:
        """The misfit; nan where predictions are. All ranks have to ask for it.

        Examples
        --------
        >>> misfit = Misfit()
        >>> measured = torch.tensor([[4.0, 9.0]])
        >>> misfit.add(25 * measured, measured, torch.ones(1, 2, dtype=torch.bool))
        >>> misfit.value
        0.0
        >>> misfit.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0, 0.0]]), torch.ones(1, 2) > 0)
        >>> round(misfit.value, 3)
        4.04
        """
        predicted, measured, cross, n_pixels = summed_numbers(*self._sums.tolist())
        if n_pixels == 0 or math.isnan(predicted):
            return math.nan
        explained = cross**2 / predicted if 0 < predicted < math.inf else 0.0
        return 4 * (measured - explained) / n_pixels


def is_far_worse(misfit: float, first: float) -> bool:
    """Whether a misfit tells that a run has scattered what it began with.

    Examples
    --------
    >>> [is_far_worse(now, 1.0) for now in (0.9, 2.0, 2.2, float("nan"))]
    [False, False, True, True]
    >>> is_far_worse(480.0, 450.0)
    False
    """
    return not misfit <= first + LARGEST_SHARE * first + min(first, 1.0)


@torch.no_grad()
def misfit_of_object(scan: ScanPhysics, object_: Tensor) -> float:
    """The misfit of a (n_slices, H, W) object at all pixels that tell of it, held out or not."""
    misfit = Misfit()
    for batch in scan.batches:
        measured = scan.model.measured(batch)
        misfit.add(scan.predict(object_, batch), measured, scan.counted(batch, measured))
    return misfit.value


@torch.no_grad()
def misfit_of_task(task: PtychographyTask) -> float:
    """The misfit of what a task of pty-chi's own engines holds, by its forward model."""
    reconstructor: Any = task.reconstructor
    model, dataset, misfit = reconstructor.forward_model, reconstructor.dataset, Misfit()
    for batch in torch.arange(len(dataset)).split(reconstructor.batch_size):
        predicted = model(batch)
        measured = dataset.patterns[batch.to(dataset.patterns.device)].to(predicted.device)
        misfit.add(predicted, measured, dataset.valid_pixel_mask.to(predicted.device))
    return misfit.value
