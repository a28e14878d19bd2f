"""Which detector pixels of which pattern may be seen when.

A few pixels of every pattern, drawn at random, are held out: no input, update or loss sees them,
and their likelihood tells when a fit begins to follow the noise. The others are dealt into splits,
so that a network can be taught to predict the pixels of one split from those of the others
(Batson & Royer, ICML 2019; Yaman et al., Magn. Reson. Med. 84, 3172 (2020)).
"""

from functools import cached_property

import torch
from ptychi.io_handles import PtychographyDataset
from torch import Tensor

from ptychi_neural.physics.ranks import Share

HELD_OUT = 255


def deal_pixels(
    dataset: PtychographyDataset, n_splits: int, held_out: float, seed: int
) -> "PixelSplits | None":
    """Deal the pixels of the patterns; None where nothing is split or held out."""
    if n_splits == 1 and held_out == 0:
        return None
    h, w = dataset.patterns.shape[-2:]
    share: Share | None = getattr(dataset, "share", None)
    shape = len(dataset), int(h), int(w)
    return PixelSplits(shape, n_splits, held_out, seed, dataset.patterns.device, share)


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
    share : Share, optional
        The frames of which labels are kept; None: all. Those of a frame are the same either way.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_splits: int,
        held_out: float,
        seed: int,
        device: torch.device,
        share: Share | None = None,
    ) -> None:
        self.shape, self.seed, self.device, self.share = shape, seed, device, share
        self.n_splits, self.share_held_out = n_splits, held_out

    @cached_property
    def labels(self) -> Tensor:
        """(n, h, w) split of every pixel, or ``HELD_OUT``; drawn when something is to be hidden."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        frames = torch.arange(self.shape[0], device="cpu")
        own = frames if self.share is None else self.share.of(frames)
        labels = torch.empty((len(own), *self.shape[1:]), dtype=torch.uint8, device="cpu")
        patterns = dict(zip(own.tolist(), labels))
        for frame in range(self.shape[0]):
            draw = torch.rand(self.shape[1:], generator=generator, device="cpu")
            if frame not in patterns:
                continue
            kept = (draw - self.share_held_out) / (1 - self.share_held_out) * self.n_splits
            patterns[frame][:] = torch.where(
                draw < self.share_held_out, HELD_OUT, kept.clamp(0, self.n_splits - 1)
            )
        return labels.to(self.device)

    def _of(self, indices: Tensor) -> Tensor:
        places = indices if self.share is None else self.share.places(indices)
        return self.labels[places.to(self.labels.device)]

    def hide_any(self, split: int | None) -> bool:
        """Whether anything is hidden while a split is to be predicted; None: while none is."""
        return split is not None or self.share_held_out > 0

    def seen(self, indices: Tensor, split: int | None) -> Tensor:
        """(n, h, w) what may be seen to predict a split; None: all that is not held out."""
        labels = self._of(indices)
        seen = labels != HELD_OUT
        return seen if split is None else seen & (labels != split)

    def predicted(self, indices: Tensor, split: int | None) -> Tensor:
        """(n, h, w) what is to be predicted; None: all that is not held out."""
        labels = self._of(indices)
        return labels != HELD_OUT if split is None else labels == split

    def held_out(self, indices: Tensor) -> Tensor:
        """(n, h, w) what is held out."""
        return self._of(indices) == HELD_OUT
