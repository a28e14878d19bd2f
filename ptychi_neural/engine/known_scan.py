"""By what the scan of a task is known again when its state is taken up."""

import hashlib
from typing import Any

import numpy as np
import torch
from ptychi.io_handles import PtychographyDataset
from torch import Tensor

from ptychi_neural.engine.parameters import NeuralParameterGroup
from ptychi_neural.physics.ranks import SharedDataset, summed_numbers

CLOSE = 1e-5
"""Share of the largest number up to which numbers are the same: other machines round otherwise."""

BLOCK = 256
"""Frames that are copied at once from where the patterns are."""


class KnownScan:
    """What a task was built with: hashes of frames, mask and object, and the other numbers.

    Parameters
    ----------
    group : NeuralParameterGroup
        Object, probe, positions and weights as they were given.
    dataset : PtychographyDataset
        The patterns, and the mask.
    """

    def __init__(self, group: NeuralParameterGroup, dataset: PtychographyDataset) -> None:
        self._dataset = dataset
        given = {name: p.data.detach().cpu().clone() for name, p in group.of_task().items()}
        self._given: dict[str, Any] = {
            **given,
            "object": _hash(given["object"]),
            "mask": _hash(dataset.valid_pixel_mask),
        }
        if isinstance(dataset, SharedDataset):
            self.state_dict()  # A sum over ranks, of which one alone may save a state.

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps. All frames are read once, when it is first asked for."""
        if "frames" not in self._given:
            self._given["frames"] = hash_of_frames(self._dataset)
        return self._given

    def check(self, state: dict[str, Any]) -> None:
        """Check that a state is that of this scan.

        Raises
        ------
        ValueError
            Naming what differs.
        """
        own = self.state_dict()
        different = [name for name, value in own.items() if not _same(value, state.get(name))]
        if different:
            names = ", ".join(name.replace("_", " ") for name in sorted(different))
            raise ValueError(
                f"the state is that of a scan with other {names}: load the files it began with."
            )

    def check_counts(self, counts: float) -> None:
        """Check the sum of all counts, by which states of earlier versions know their scan."""
        (own,) = summed_numbers(float(self._dataset.patterns.sum(dtype=torch.float64)))
        if own != counts:
            raise ValueError(
                f"the state is that of a scan with {counts} counts, this one has {own}: load the "
                "same frames."
            )


def hash_of_frames(dataset: PtychographyDataset) -> str:
    """Hash of all frames in their order, the same whichever ranks have which of them.

    Each frame is hashed with its number, and the hashes are added up.
    """
    numbers = torch.arange(len(dataset), device="cpu")
    if isinstance(dataset, SharedDataset):
        numbers = dataset.share.of(numbers)
    total = np.zeros(8)  # Sums of 32-bit numbers: exact for two million frames.
    for of_block, block in zip(numbers.split(BLOCK), dataset.patterns.split(BLOCK)):
        for number, frame in zip(of_block.tolist(), block.contiguous().numpy(force=True)):
            digest = hashlib.sha256(number.to_bytes(8, "little"))
            digest.update(frame)
            total += np.frombuffer(digest.digest(), "<u4")
    return "".join(f"{int(part) % 2**32:08x}" for part in summed_numbers(*total.tolist()))


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy(force=True).tobytes()).hexdigest()


def _same(own: Any, saved: Any) -> bool:
    if not isinstance(own, Tensor):
        return bool(own == saved)
    if not isinstance(saved, Tensor) or saved.shape != own.shape:
        return False
    return bool(((own - saved).abs() <= CLOSE * own.abs().amax()).all())
