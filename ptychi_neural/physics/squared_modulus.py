"""The squared modulus of waves, and a gradient that takes one product."""

from typing import Any, cast

import torch
from torch import Tensor


class _SquaredModulus(torch.autograd.Function):
    """|Psi|^2 with the gradient 2 g Psi, which autograd would put together from the modulus, its
    square and the wave's sign in four times the time."""

    @staticmethod
    def forward(ctx: Any, wave: Tensor) -> Tensor:
        ctx.save_for_backward(wave)
        return wave.real.square() + wave.imag.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (wave,) = ctx.saved_tensors
        return 2 * gradient * wave


def squared_modulus(wave: Tensor) -> Tensor:
    """|Psi|^2 of complex waves of any shape, without the root that ``abs`` takes."""
    return cast(Tensor, _SquaredModulus.apply(wave))


def summed_over_modes(of_modes: Tensor) -> Tensor:
    """(n, h, w) sum over the modes of (n, n_modes, h, w), without a copy of a single one."""
    return of_modes[:, 0] if of_modes.shape[1] == 1 else of_modes.sum(1)
