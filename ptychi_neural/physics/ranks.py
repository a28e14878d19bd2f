"""Several processes of one reconstruction, its ranks: each has the patterns of some frames.

Object, probe, positions, weights and the generator are whole on each rank and the same on all.
What is summed over frames is summed over ranks too, and what each frame has of its own is put
together by the same sum: all ranks but one have zeros there. In one process nothing of this changes
anything.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from ptychi.io_handles import PtychographyDataset
from torch import Tensor
from torch.utils.data import DataLoader

_has_left = False
_n_blocks_alone = 0


class RankLostError(RuntimeError):
    """Another rank has ended, so that sums over all ranks cannot be had any more."""


LOST = "Another of the processes that work together has ended."


class StoppedTogether(Exception):
    """All ranks stop alike, and may ask for sums once more."""


def n_ranks() -> int:
    """Number of processes that reconstruct together."""
    together = dist.is_available() and dist.is_initialized() and _n_blocks_alone == 0
    return dist.get_world_size() if together else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if n_ranks() > 1 else 0


def summed(tensor: Tensor) -> Tensor:
    """Give the sum of a tensor over ranks, all of which have to ask for it.

    Complex numbers are summed as pairs of real ones, which every backend can. In one process it is
    the tensor itself. A gradient goes through it where all ranks ask for one: each differentiates
    its part of the loss, and the gradient by its term is that of all parts.

    Raises
    ------
    RankLostError
        If another rank has ended. After that, sums are those of this rank alone, so that what was
        found can still be put away.
    """
    if n_ranks() == 1:
        return tensor
    total: Tensor = _Sum.apply(tensor)
    return total


class _Sum(torch.autograd.Function):
    """s = sum_r x_r, so that dL / dx_r = sum_r' dL_r' / ds for a loss L = sum_r L_r."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _all_reduced(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _all_reduced(gradient)


def _all_reduced(tensor: Tensor) -> Tensor:
    total = (
        tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    )
    try:
        dist.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
    except RuntimeError as error:
        leave()
        raise RankLostError(LOST) from error
    return total


def summed_numbers(*numbers: float) -> Sequence[float]:
    """Give the sums of numbers over ranks, in double precision."""
    if n_ranks() == 1:
        return numbers
    sums: list[float] = summed(torch.tensor(numbers, dtype=torch.float64)).tolist()
    return sums


def of_first(value: Any) -> Any:
    """Give all ranks what the first of them has, which can be pickled; all have to ask for it.

    Raises
    ------
    RankLostError
        If another rank has ended.
    """
    if n_ranks() == 1:
        return value
    values = [value]
    try:
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    except RuntimeError as error:
        leave()
        raise RankLostError(LOST) from error
    return values[0]


def of_all_frames(own: Tensor, frames: Tensor, n_frames: int) -> Tensor:
    """Put together what each frame has of its own.

    Parameters
    ----------
    own : Tensor
        (m, ...) what the frames of this rank have.
    frames : Tensor
        (m,) their indices among those of all ranks.
    n_frames : int
        Number of frames of all ranks.

    Returns
    -------
    Tensor
        (n_frames, ...) what all have.
    """
    whole = own.new_zeros(n_frames, *own.shape[1:])
    whole[frames] = own
    return summed(whole)


@contextmanager
def alone() -> Iterator[None]:
    """Sum nothing over ranks in a block, which each may enter as often as it likes."""
    global _n_blocks_alone
    _n_blocks_alone += 1
    try:
        yield
    finally:
        _n_blocks_alone -= 1


def part_of_mean(mean: Tensor, n_own: int) -> Tensor:
    """Give what this rank adds to the mean over all ranks.

    Parameters
    ----------
    mean : Tensor
        () mean over what is this rank's own; nan or 0 if that is nothing.
    n_own : int
        Number of what is its own.
    """
    (n,) = summed_numbers(n_own)
    if n_own == n:
        return mean
    return n_own / n * (mean if n_own > 0 else mean.nan_to_num())


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum gradients over ranks, where any of them has one.

    Every rank differentiates its part of the loss. ``DistributedDataParallel`` would average, and
    wait for parameters that a rank without a frame of a batch has no use for.
    """
    if n_ranks() == 1:
        return
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    is_known = [parameter.grad is not None for parameter in wanted]
    n_known = summed(torch.tensor(is_known, dtype=torch.float32)).tolist()
    for parameter, n in zip(wanted, n_known):
        if n > 0:
            own = parameter.grad
            parameter.grad = summed(torch.zeros_like(parameter) if own is None else own)


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
    """Leave the other ranks when a block fails: they would wait for sums with this one.

    What is not finite comes of sums, and fails on all of them alike.
    """
    try:
        yield
    except (StoppedTogether, FloatingPointError):
        raise
    except BaseException:
        leave()
        raise


def shares(n_frames: int, n: int) -> list[Tensor]:
    """Deal the frames to ``n`` ranks: of every n in succession each gets one, in turning order.

    The frames of a batch are mostly neighbours, or every other frame of a scan: all ranks have
    some of them, so that none waits for another.

    Parameters
    ----------
    n_frames : int
        Number of frames.
    n : int
        Number of ranks, at most that of the frames.

    Returns
    -------
    list of Tensor
        Indices of the frames of each rank, in ascending order.

    Examples
    --------
    >>> [frames.tolist() for frames in shares(7, 2)]
    [[0, 3, 4], [1, 2, 5, 6]]
    """
    frames = torch.arange(n_frames, device="cpu")
    ranks = (frames + frames // n) % n
    return [frames[ranks == number] for number in range(n)]


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

    def __len__(self) -> int:
        return self.share.n_frames

    def __getitem__(self, index: int | Tensor) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(index, device=self.patterns.device)
        return index, self.patterns[self.share.places(index)]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Those of a batch of frames that are the rank's own, and their patterns."""
        return self[self.share.of(torch.as_tensor(indices, device=self.patterns.device))]


def deal_batches(loader: DataLoader | None) -> None:
    """Let a loader give each rank what is its own of every batch."""
    if loader is not None and isinstance(loader.dataset, SharedDataset):
        loader.collate_fn = lambda batch: batch
