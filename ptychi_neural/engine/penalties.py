"""pty-chi's penalties on the object, added to the loss."""

import torch
from ptychi.api.options.ad_ptychography import AutodiffPtychographyObjectOptions
from ptychi.metrics import TotalVariationLoss
from torch import Tensor


def penalties(object_: Tensor, options: AutodiffPtychographyObjectOptions, epoch: int) -> Tensor:
    """The weighted penalties that the options enable in an epoch.

    Parameters
    ----------
    object_ : Tensor
        (n_slices, H, W) stitched object.
    options : AutodiffPtychographyObjectOptions
        Weights and plans of the l1 norm, the l2 norm and the total variation.
    epoch : int
        The epoch.
    """
    total = torch.zeros(())
    if options.l1_norm_constraint.is_enabled_on_this_epoch(epoch):
        total = total + options.l1_norm_constraint.weight * object_.abs().mean()
    if options.l2_norm_constraint.is_enabled_on_this_epoch(epoch):
        total = total + options.l2_norm_constraint.weight * object_.abs().square().mean()
    if options.total_variation.is_enabled_on_this_epoch(epoch):
        total = total + options.total_variation.weight * TotalVariationLoss()(object_)
    return total
