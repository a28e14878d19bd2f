"""The lifter that standardises each detector pixel over the scan."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from ptychi_neural.generators.lifters.lifter import (
    CONSTANT_PIXEL_DEVIATION,
    FittedLifter,
    log_counts,
    register_lifter,
)
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.physics.ranks import summed, summed_numbers


@register_lifter("standardized")
class StandardizedLifter(FittedLifter):
    """log(1 + counts), each detector pixel standardised over the scan.

    A pixel that is (almost) constant in the scan, as a dead one, is always 0. Mean and deviation
    are accumulated batch by batch: Chan, Golub & LeVeque, COMPSTAT 1982, Eqs. 2.1.
    """

    @classmethod
    def build(cls, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Self:
        n_patterns = options.grid_size**2
        return cls(n_patterns, options.width, options.shallow_cnn, statistics_shape=patch_shape)

    def transform(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        n_own, mean = 0, torch.zeros_like(self.center).double()
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
            squares += difference.square() * n_own * n_new / (n_own + n_new)
            mean += difference * n_new / (n_own + n_new)
            n_own += n_new
        (n,) = summed_numbers(n_own)
        if n == 0:
            raise ValueError("No patterns to take the generator's input statistics from.")
        shift = (summed(n_own * mean) - n * mean) / n
        mean, squares = mean + shift, summed(squares + n_own * shift.square())
        deviation = (squares / n).sqrt()
        constant = deviation <= CONSTANT_PIXEL_DEVIATION * deviation.mean()
        return mean, torch.where(constant, 0.0, 1.0 / deviation.masked_fill(constant, 1.0))
