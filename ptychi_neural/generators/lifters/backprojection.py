"""The lifter that sees the update of the object by the counts, in real space."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from ptychi_neural.generators.lifters.lifter import FittedLifter, register_lifter
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.physics.ranks import summed, summed_numbers


@register_lifter("backprojection")
class BackprojectionLifter(FittedLifter):
    """Real and imaginary parts of complex features over their root mean square in the scan."""

    sees_updates = True

    @classmethod
    def build(cls, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Self:
        n_channels = 2 * options.grid_size**2 * n_slices
        return cls(n_channels, options.width, options.shallow_cnn, statistics_shape=())

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
        (n_all,), total = summed_numbers(n_values), summed(total)
        if total == 0:
            raise ValueError("The back-projected features are all zero.")
        return torch.zeros_like(total), (n_all / total).sqrt()
