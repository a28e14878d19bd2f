"""The lifter of PtychoPINN: amplitudes through a shallow CNN."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from ptychi_neural.generators.lifters.lifter import FittedLifter, amplitudes, register_lifter
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.physics.ranks import summed, summed_numbers


@register_lifter("cnn")
class AmplitudeLifter(FittedLifter):
    """Amplitudes over their root mean square in the scan, as in PtychoPINN.

    Hoidn et al., Scientific Reports 13, 22789 (2023).
    """

    @classmethod
    def build(cls, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Self:
        if not options.shallow_cnn:
            raise ValueError(
                'generator.lifter = "cnn" is the shallow CNN: set generator.shallow_cnn to True, '
                'or generator.lifter to "sqrt" for amplitudes without it.'
            )
        return cls(options.grid_size**2, options.width, True, statistics_shape=())

    def transform(self, x: Tensor) -> Tensor:
        return amplitudes(x)

    def statistics(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        n_values, total = 0, torch.zeros((), dtype=torch.float64)
        for batch in batches:
            n_values += batch.numel()
            total += self.transform(batch.double()).square().sum().cpu()
        (n_all,), total = summed_numbers(n_values), summed(total)
        if total == 0:
            raise ValueError("The diffraction data are empty: no frame holds a count.")
        return torch.zeros_like(total), (n_all / total).sqrt()
