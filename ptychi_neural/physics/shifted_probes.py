"""Probes at their sub-pixel shifts, kept while probe and positions stay as they are.

Shifting takes a pair of Fourier transforms for each pattern: a third of a projection's time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST_SIZE = 2**25
"""Complex numbers that are kept at most (256 MiB)."""


class ShiftedProbes:
    """A memory of the shifted probes of a scan.

    Parameters
    ----------
    n_positions : int
        Number of positions.
    """

    def __init__(self, n_positions: int) -> None:
        self.n_positions = n_positions
        self._made_from: list[tuple[Tensor, int]] = []
        self._probes: Tensor | None = None
        self._known = torch.zeros(n_positions, dtype=torch.bool)

    def get(self, indices: Tensor, sources: list[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """The probes of a batch, computed anew where a source has changed.

        Parameters
        ----------
        indices : Tensor
            (n,) indices of positions.
        sources : list of Tensor
            What the probes are made from: changed in place or replaced, they are made anew. Where
            gradients are asked for, nothing is kept.
        compute : callable
            Gives the (n, n_modes, h, w) probes.
        """
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return compute()
        versions = [(source, source._version) for source in sources]
        if len(versions) != len(self._made_from) or any(
            tensor is not known or version != of_known
            for (tensor, version), (known, of_known) in zip(versions, self._made_from)
        ):
            self._probes, self._made_from = None, versions
            self._known = torch.zeros(self.n_positions, dtype=torch.bool, device=indices.device)
        if self._probes is not None and self._known[indices].all():
            return self._probes[indices]
        probes = compute()
        if self.n_positions * probes[0].numel() <= LARGEST_SIZE:
            if self._probes is None:
                self._probes = probes.new_empty(self.n_positions, *probes.shape[1:])
            self._probes[indices] = probes.detach()
            self._known[indices] = True
        return probes
