"""What a trained generator makes of frames, added up to the same bits in any order of them."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from ptychi_neural.engine.device import without_default_device
from ptychi_neural.engine.scan_task import ScanTask
from ptychi_neural.generators.exact_sums import exactly_added
from ptychi_neural.physics.ranks import summed, summed_numbers
from ptychi_neural.physics.scan_physics import ScanPhysics

LARGEST_COUNTS = 2.0**30
"""Counts of a frame for which their sums are exact."""


class CountedLight:
    """Mean counts of frames, the same bits in any order of the frames."""

    def __init__(self) -> None:
        self.n_frames = 0
        self.total = 0.0

    def add(self, counts: Tensor, valid: Tensor) -> None:
        """Add (n, h, w) counts in the (h, w) valid pixels."""
        seen = counts if valid.all() else torch.where(valid, counts, 0.0)
        light = seen.sum(dim=(-2, -1), dtype=torch.float64)
        self.total += float(exactly_added(light, LARGEST_COUNTS).sum())
        self.n_frames += len(counts)

    @property
    def mean(self) -> float:
        """Mean counts of a frame of all ranks, which all have to ask for it."""
        total, n_frames = summed_numbers(self.total, self.n_frames)
        return total / max(n_frames, 1)


class FrameSums:
    """Sums over frames, from which the object is made.

    A frame's share does not depend on the frames that come with it: as many as the task has go
    through the network at once, whether or not there are so many, and their shares add up without
    rounding (``ptychi_neural.generators.exact_sums``).

    Parameters
    ----------
    task : ScanTask
        A task of ``batch_size`` frames, whose patterns and positions are replaced by those that are
        added, and whose probe is at the intensity of the counts.
    """

    def __init__(self, task: ScanTask) -> None:
        self.scan = task.scan
        self.batch_size = len(task.scan.frames)
        self.total: Any = None
        """The generator's sums; None before the first frame."""
        self.light = CountedLight()
        """Counts of the frames, with the valid pixels as they were."""
        self._generator = task.generator
        self._n_latest = 0

    @torch.no_grad()
    def add(self, counts: Tensor, positions: Tensor) -> None:
        """Add (n, h, w) counts, with DC where the forward model has it, at (n, 2) positions."""
        batches = zip(counts.split(self.batch_size), positions.split(self.batch_size))
        with without_default_device():
            for some, where in batches:
                self._add_batch(some, where)

    def _add_batch(self, counts: Tensor, positions: Tensor) -> None:
        model, n = self.scan.model, len(counts)
        self._n_latest = n
        model.dataset.patterns[:n] = counts.to(model.dataset.patterns)
        model.probe_positions.set_data(positions, slicer=slice(0, n))
        sums = self._generator.sums(self.scan, n)
        self.total = sums if self.total is None else self.total + sums
        self.light.add(model.dataset.patterns[:n], self.scan.valid)

    def add_other_ranks(self) -> None:
        """Add the frames of all other ranks, which have added theirs to sums of their own."""
        self.total = _of_all_ranks(self.total)

    @property
    def latest(self) -> ScanPhysics:
        """The frames of the latest batch."""
        return self.scan.of(self.scan.frames[: self._n_latest])

    @torch.no_grad()
    def object(self) -> Tensor:
        """The (n_slices, H, W) object of all frames."""
        return self._generator.object_of_sums(self.scan, self.total)

    @torch.no_grad()
    def deviation(self, total: Any) -> Tensor:
        """(H, W) disagreement of what makes up the object of a ``total``."""
        return self._generator.deviation_of_sums(self.scan, total)

    def fingerprint(self) -> str:
        """A hash of the generator's weights."""
        digest = hashlib.sha256()
        for tensor in self._generator.tensors().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        model, rows = self.scan.model, slice(0, self._n_latest)
        return {
            "total": self.total,
            "patterns": model.dataset.patterns[rows],
            "positions": model.probe_positions.data[rows],
            "light": [self.light.n_frames, self.light.total],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.total = None
        if state["total"] is not None:
            self.add(state["patterns"], state["positions"])
            self.total = _like(self.total, state["total"])
        self.light.n_frames, self.light.total = state["light"]


def _of_all_ranks(sums: Any) -> Any:
    if isinstance(sums, Tensor):
        return summed(sums)
    return type(sums)(*map(_of_all_ranks, sums))


def _like(sums: Any, saved: Any) -> Any:
    """Saved sums, as a tuple of tuples, in the types of these."""
    if not isinstance(sums, Tensor):
        return type(sums)(*(_like(*parts) for parts in zip(sums, saved, strict=True)))
    if saved.shape != sums.shape or saved.dtype != sums.dtype:
        raise ValueError("holds sums of another canvas.")
    return saved.to(sums.device)
