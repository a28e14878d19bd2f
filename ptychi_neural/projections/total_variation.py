"""Total-variation denoising of a projected object, on the device where it is."""

import torch
from torch import Tensor

STEP = 0.25
"""Length of the steps of the dual field: the largest for which they are known to converge."""

MOST_STEPS = 200

SMALLEST_WEIGHT = 1e-6
"""Weight, in units of the object, that is none: single precision has no step for much less."""

SMALLEST_CHANGE = 2e-4
"""Change of the cost in a step, relative to the first cost, at which an image is left as it is."""


@torch.no_grad()
def denoised(object_: Tensor, weight: float) -> Tensor:
    """Lower the total variation of a complex image, of real and imaginary part each by itself.

    With p the dual field, Chambolle's projection (J. Math. Imaging Vis. 20, 89 (2004)) is

        u = f + div p,     p' = (p - t grad u) / (1 + (t / weight) |grad u|),

    which minimises weight * sum |grad u| + sum (u - f)^2 / 2.

    Parameters
    ----------
    object_ : Tensor
        (n_slices, H, W) complex.
    weight : float
        Weight of the total variation, in units of the object. With 0, or next to nothing, the
        image is returned as it is.
    """
    if weight < SMALLEST_WEIGHT:
        return object_
    images = torch.view_as_real(object_).movedim(-1, 0).contiguous()
    height, width = images.shape[-2:]
    fields = [torch.zeros_like(images) for _ in range(2)]
    slopes = [torch.zeros_like(images) for _ in range(2)]
    divergence, present, smooth = (torch.zeros_like(images) for _ in range(3))
    first_cost = last_cost = torch.zeros(())
    goes_on = torch.ones(images.shape[:2], dtype=torch.bool, device=images.device)
    for step in range(MOST_STEPS):
        torch.add(images, divergence, out=present)
        smooth = torch.where(goes_on[..., None, None], present, smooth)
        for axis, slope in zip((-2, -1), slopes):
            n = (height, width)[axis] - 1
            torch.sub(
                *(present.narrow(axis, 1, n), present.narrow(axis, 0, n)),
                out=slope.narrow(axis, 0, n),
            )
        steepness = torch.hypot(*slopes)
        cost = divergence.square().sum((-2, -1)) + weight * steepness.sum((-2, -1))
        if step == 0:
            first_cost = cost
        else:
            goes_on = goes_on & ((last_cost - cost).abs() >= SMALLEST_CHANGE * first_cost)
            if not goes_on.any():
                break
        last_cost = cost
        steepness.mul_(STEP / weight).add_(1.0)
        divergence.zero_()
        for axis, slope, field in zip((-2, -1), slopes, fields):
            n = (height, width)[axis] - 1
            field.sub_(slope, alpha=STEP).div_(steepness)
            divergence.sub_(field)
            divergence.narrow(axis, 1, n).add_(field.narrow(axis, 0, n))
    return torch.complex(*smooth)
