"""Probes at their sub-pixel shifts, kept while probe and positions stay as they are.

Shifting takes a Fourier transform for each pattern, and two where frames have probes of their own.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from ptychi.image_proc import shift_images
from ptychi.maths import fft2_precise, ifft2_precise
from torch import Tensor

from ptychi_neural.physics.stitching import in_double

LARGEST_SIZE = 2**25
"""Complex numbers that are kept at most (256 MiB)."""


class FourierShifts(NamedTuple):
    """pty-chi's Fourier shifts of some frames, factorised into rows and columns.

    Most of the time of pty-chi's ``fourier_shift`` goes into a complex exponential of every pixel
    of every frame. It is a product of one of the rows and one of the columns, which pty-chi gives
    for images of a single row and a single column.
    """

    rows: Tensor
    """(n, h, 1) factors of the Fourier transform."""

    columns: Tensor
    """(n, 1, w) factors of the Fourier transform."""

    @classmethod
    def of(cls, shifts: Tensor, probe: Tensor) -> "FourierShifts":
        """Of (n, 2) shifts in pixels, for (..., h, w) probes."""
        factors = []
        for shape in ((probe.shape[-2], 1), (1, probe.shape[-1])):
            impulse = probe.new_zeros(len(shifts), *shape)
            impulse[:, 0, 0] = 1
            factors.append(fft2_precise(shift_images(impulse, shifts, method="fourier")))
        return cls(*factors)

    def shift(self, images: Tensor) -> Tensor:
        """(n, h, w) shifted images; of (1, h, w) the same one at all shifts."""
        shifted: Tensor = ifft2_precise(fft2_precise(images) * self.rows * self.columns)
        return shifted

    def back(self) -> "FourierShifts":
        """The opposite shifts."""
        return FourierShifts(self.rows.conj(), self.columns.conj())

    def summed_back(self, images: Tensor, weights: Tensor) -> Tensor:
        """(k, h, w) sums over (n, h, w) images shifted back, with (n, k) weights, in double
        precision."""
        back = self.back()
        transforms = in_double(fft2_precise(images) * back.rows * back.columns)
        summed = torch.einsum("jk,jhw->khw", weights.to(transforms.dtype), transforms)
        of_all: Tensor = ifft2_precise(summed)
        return of_all


class Sources:
    """Tells whether what something was made from is still as it was."""

    def __init__(self) -> None:
        self._known: list[tuple[Tensor, int]] = []

    def have_changed(self, sources: Sequence[Tensor]) -> bool:
        """Whether these are other tensors than in the last call, or changed in place since."""
        versions, known = [(source, source._version) for source in sources], self._known
        self._known = versions
        return len(versions) != len(known) or any(
            tensor is not before or version != of_before
            for (tensor, version), (before, of_before) in zip(versions, known)
        )


class ShiftedProbes:
    """A memory of the shifted probes of a scan.

    Parameters
    ----------
    n_positions : int
        Number of positions.
    """

    def __init__(self, n_positions: int) -> None:
        self.n_positions = n_positions
        self._sources = Sources()
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
        if self._sources.have_changed(sources):
            self._probes = None
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
