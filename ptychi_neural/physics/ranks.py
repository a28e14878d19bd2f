"""Several processes of one reconstruction, its ranks: each has the patterns of some frames.

Object, probe, positions and weights are whole on each rank and the same on all. What is summed over
frames is summed over ranks too, and what each frame has of its own is put together by the same sum:
all ranks but one have zeros there. In one process nothing of this changes anything.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from ptychi.io_handles import PtychographyDataset
from torch import Tensor

_has_left = False


class RankLostError(RuntimeError):
    """Another rank has ended, so that sums over all ranks cannot be had any more."""


class StoppedTogether(Exception):
    """All ranks stop alike, and may ask for sums once more."""


def n_ranks() -> int:
    """Number of processes that reconstruct together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


@torch.no_grad()
def summed(tensor: Tensor) -> Tensor:
    """Give the sum of a tensor over ranks, all of which have to ask for it.

    Complex numbers are summed as pairs of real ones, which every backend can. In one process it is
    the tensor itself.

    Raises
    ------
    RankLostError
        If another rank has ended. After that, sums are those of this rank alone, so that what was
        found can still be put away.
    """
    if n_ranks() == 1:
        return tensor
    total = tensor.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
    try:
        dist.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
    except RuntimeError as error:
        leave()
        raise RankLostError("Another process of this reconstruction has ended.") from error
    return total


def summed_numbers(*numbers: float) -> Sequence[float]:
    """Give the sums of numbers over ranks, in double precision."""
    if n_ranks() == 1:
        return numbers
    sums: list[float] = summed(torch.tensor(numbers, dtype=torch.float64)).tolist()
    return sums


def leave() -> None:
    """Go on alone: sums are those of this process from now on, and other ranks learn of it."""
    global _has_left
    if n_ranks() > 1:
        dist.destroy_process_group()
        _has_left = True


def has_left() -> bool:
    """Whether this process has gone on alone."""
    return _has_left


@contextmanager
def left_on_failure() -> Iterator[None]:
    """Leave the other ranks when a block fails: they would wait for sums with this one."""
    try:
        yield
    except StoppedTogether:
        raise
    except BaseException:
        leave()
        raise


def shares(positions: Tensor, n: int) -> list[Tensor]:
    """Deal the frames to ``n`` ranks so that neighbours stay together.

    The scan is cut across its longer side, and its parts in turn.

    Parameters
    ----------
    positions : Tensor
        (n_frames, 2) positions in pixels.
    n : int
        Number of ranks, at most that of the frames.

    Returns
    -------
    list of Tensor
        Indices of the frames of each rank, in ascending order.
    """

    def dealt(frames: Tensor, n: int) -> list[Tensor]:
        if n == 1:
            return [frames.sort().values]
        where = positions[frames]
        axis = int((where.amax(0) - where.amin(0)).argmax())
        ordered = frames[where[:, axis].argsort(stable=True)]
        n_first = n // 2
        cut = len(frames) * n_first // n
        return dealt(ordered[:cut], n_first) + dealt(ordered[cut:], n - n_first)

    positions = positions.detach().cpu()
    return dealt(torch.arange(len(positions), device="cpu"), n)


class Share:
    """The frames of one rank.

    Parameters
    ----------
    frames : Tensor
        (m,) their indices in the scan, in ascending order.
    n_frames : int
        Number of frames of the scan.
    """

    def __init__(self, frames: Tensor, n_frames: int) -> None:
        self.n_frames = n_frames
        self._places = torch.full((n_frames,), -1, dtype=torch.long, device="cpu")
        self._places[frames] = torch.arange(len(frames), device="cpu")

    def of(self, frames: Tensor) -> Tensor:
        """Those of some frames that are the rank's own."""
        return frames[(self._places[frames.cpu()] >= 0).to(frames.device)]

    def places(self, frames: Tensor) -> Tensor:
        """Places of some of the rank's frames among its patterns, on the CPU.

        Raises
        ------
        IndexError
            If the patterns of a frame are another rank's.
        """
        places = self._places[frames.cpu()]
        if (places < 0).any():
            raise IndexError("Patterns of frames were asked for that another rank has.")
        return places


class SharedDataset(PtychographyDataset):
    """The patterns of one rank's frames, which are asked for by their indices in the scan.

    Parameters
    ----------
    dataset : PtychographyDataset
        pty-chi's dataset of these patterns alone.
    share : Share
        Which frames they are of.
    """

    def __init__(self, dataset: PtychographyDataset, share: Share) -> None:
        vars(self).update(vars(dataset))
        self.share = share
        (self.counts,) = summed_numbers(float(dataset.patterns.sum(dtype=torch.float64)))
        """Sum of the counts of the whole scan."""

    def __len__(self) -> int:
        return self.share.n_frames

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(index, device=self.patterns.device)
        return index, self.patterns[self.share.places(index)]
