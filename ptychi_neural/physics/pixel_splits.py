"""Which detector pixels of which pattern may be seen when.

A few pixels of every pattern, drawn at random, are held out: no input, update or loss sees them,
and their likelihood tells when a fit begins to follow the noise. The others are dealt into splits,
so that a network can be taught to predict the pixels of one split from those of the others
(Batson & Royer, ICML 2019; Yaman et al., Magn. Reson. Med. 84, 3172 (2020)).
"""

from functools import cached_property

import torch
from torch import Tensor

HELD_OUT = 255


def deal_pixels(
    patterns: Tensor, n_splits: int, held_out: float, seed: int
) -> "PixelSplits | None":
    """Deal the pixels of (n, h, w) patterns; None where nothing is split or held out."""
    if n_splits == 1 and held_out == 0:
        return None
    n, h, w = patterns.shape
    return PixelSplits((n, h, w), n_splits, held_out, seed, patterns.device)


class PixelSplits:
    """A label for each detector pixel of each pattern.

    Parameters
    ----------
    shape : tuple of int
        (n, h, w) of the patterns.
    n_splits : int
        Number of splits.
    held_out : float
        Share of pixels that are held out.
    seed : int
        Of the draw.
    device : torch.device
        Where the labels are kept.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_splits: int,
        held_out: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.shape, self.seed, self.device = shape, seed, device
        self.n_splits, self.share_held_out = n_splits, held_out

    @cached_property
    def labels(self) -> Tensor:
        """(n, h, w) split of every pixel, or ``HELD_OUT``; drawn when something is to be hidden."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        labels = torch.empty(self.shape, dtype=torch.uint8, device="cpu")
        for pattern in labels:
            draw = torch.rand(pattern.shape, generator=generator, device="cpu")
            kept = (draw - self.share_held_out) / (1 - self.share_held_out) * self.n_splits
            pattern[:] = torch.where(
                draw < self.share_held_out, HELD_OUT, kept.clamp(0, self.n_splits - 1)
            )
        return labels.to(self.device)

    def hide_any(self, split: int | None) -> bool:
        """Whether anything is hidden while a split is to be predicted; None: while none is."""
        return split is not None or self.share_held_out > 0

    def seen(self, indices: Tensor, split: int | None) -> Tensor:
        """(n, h, w) what may be seen to predict a split; None: all that is not held out."""
        labels = self.labels[indices.to(self.labels.device)]
        seen = labels != HELD_OUT
        return seen if split is None else seen & (labels != split)

    def predicted(self, indices: Tensor, split: int | None) -> Tensor:
        """(n, h, w) what is to be predicted; None: all that is not held out."""
        labels = self.labels[indices.to(self.labels.device)]
        return labels != HELD_OUT if split is None else labels == split

    def held_out(self, indices: Tensor) -> Tensor:
        """(n, h, w) what is held out."""
        return self.labels[indices.to(self.labels.device)] == HELD_OUT
