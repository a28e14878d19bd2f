"""The stitch-and-extract layer C: overlapping patches become one object, and patches of it again.

With placement P^T (pty-chi's, adds patches to a canvas) and extraction P, its adjoint,

    stitch(o) = P^T(w o) / P^T(w),        consistent patches = P stitch(o).

The stitch is a convex combination at every pixel, so that the rim is not amplified, and
extraction after stitching is a projection.
"""

import functools
from typing import NamedTuple

import torch
from ptychi.forward_models import PlanarPtychographyForwardModel
from torch import Tensor

from ptychi_neural.options.choices import StitchWeightings
from ptychi_neural.physics.ranks import n_ranks, summed

COVERAGE_FLOOR = 1e-8
"""Pixels with less than this share of the largest total weight count as not stitched."""

CHUNK_PIXELS = 2**20
"""Pixels of all patches that are stitched at a time where a whole scan is stitched."""


def coverage(weight: Tensor, damping: float) -> Tensor:
    """(H, W) from 0 where no light fell to 1: total weight beside a share of its maximum."""
    return weight / (weight + damping * weight.max())


def in_double(tensor: Tensor) -> Tensor:
    """Real or complex numbers in double precision."""
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


class Canvas(NamedTuple):
    """Sums from which a stitched object is made. Canvases of different batches add up."""

    weighted_patches: Tensor
    """(n_slices, H, W) complex, P^T(w o)."""

    weight: Tensor
    """(H, W) real, P^T(w)."""

    def __add__(self, other: tuple) -> "Canvas":  # type: ignore[override]
        return Canvas(*(a + b for a, b in zip(self, other)))

    def __sub__(self, other: tuple) -> "Canvas":
        return Canvas(*(a - b for a, b in zip(self, other)))

    @classmethod
    def of_nothing(cls, object_: Tensor, n_weights: int = 1) -> "Canvas":
        """The sums over no frames, of a (n_slices, H, W) object."""
        weight = torch.zeros_like(object_.real[:n_weights])
        return cls(torch.zeros_like(object_), weight[0] if n_weights == 1 else weight)

    def of_all_ranks(self) -> "Canvas":
        """The sums over the frames of all ranks, where these are those of one.

        All ranks take part in a gradient through them, also one whose sums depend on nothing.
        """
        patches = self.weighted_patches
        if n_ranks() > 1 and torch.is_grad_enabled() and not patches.requires_grad:
            patches = patches.detach().requires_grad_()
        return Canvas(summed(patches), summed(self.weight))

    def object(self, elsewhere: Tensor) -> Tensor:
        """The stitched object; ``elsewhere`` (n_slices, H, W) where nothing was stitched."""
        covered = self.weight > COVERAGE_FLOOR * self.weight.max()
        weight = torch.where(covered, self.weight, 1.0)
        return torch.where(covered, self.weighted_patches / weight, elsewhere)


class Stitching:
    """Stitches and extracts patches at pty-chi's positions, by pty-chi's own operators.

    Parameters
    ----------
    forward_model : PlanarPtychographyForwardModel
        Gives the operators, the positions and the probe.
    weighting : StitchWeightings
        How patches are weighted in the average.
    """

    def __init__(
        self, forward_model: PlanarPtychographyForwardModel, weighting: StitchWeightings
    ) -> None:
        self.forward_model = forward_model
        self.weighting = weighting

    def weights(self) -> Tensor:
        """(h, w) weight of each pixel of a patch, at most 1, without gradient."""
        probe = self.forward_model.probe
        with torch.no_grad():
            intensity = probe.get_all_mode_intensity()
            if self.weighting == StitchWeightings.UNIFORM:
                return torch.ones_like(intensity)
            return intensity / intensity.max()

    def place(self, patches: Tensor, positions: Tensor, exact: bool = False) -> Tensor:
        """Add (n, n_slices, h, w) patches at (n, 2) positions to an empty canvas.

        Real patches go as complex ones, unless their sums are ``exact`` in any order: on a CPU,
        torch adds real numbers at the same place in the order in which its threads come to them,
        which rounds differently in every run.
        """
        if not patches.is_complex() and not exact:
            return self.place(torch.complex(patches, torch.zeros_like(patches)), positions).real
        return _stacked(
            [
                self.forward_model.place_object_patches_on_probe_grid(positions, of_slice)
                for of_slice in patches.unbind(1)
            ]
        )

    def extract(self, canvas: Tensor, positions: Tensor) -> Tensor:
        """Cut (n, n_slices, h, w) patches at (n, 2) positions out of a (n_slices, H, W) canvas."""
        return _stacked(
            [
                self.forward_model.extract_probe_grid_patches(of_slice, positions)
                for of_slice in canvas
            ],
            dim=1,
        )

    def accumulate(self, patches: Tensor, positions: Tensor) -> Canvas:
        """Weighted sums of (n, n_slices, h, w) patches at (n, 2) positions."""
        return Canvas(self.place(self.weights() * patches, positions), self.total_weight(positions))

    def total_weight(self, positions: Tensor) -> Tensor:
        """(H, W) sum of the patches' weights at (n, 2) positions."""
        weights = self.weights()
        placed = (
            self.place(weights.expand(len(some), 1, -1, -1), some)[0]
            for some in positions.split(_chunk(weights))
        )
        return functools.reduce(torch.add, placed)

    def __call__(self, patches: Tensor, positions: Tensor, elsewhere: Tensor) -> Tensor:
        """The consistent patches: cut out of the object stitched of ``patches``."""
        return self.extract(self.accumulate(patches, positions).object(elsewhere), positions)


class LatestPatches:
    """The latest prediction of every position, which ``StitchScopes.SCAN`` stitches along.

    Parameters
    ----------
    stitching : Stitching
        The operators.
    positions : Tensor
        (n, 2) positions of the scan in pixels.
    patches : Tensor
        (n, n_slices, h, w) patches to begin with.
    """

    def __init__(self, stitching: Stitching, positions: Tensor, patches: Tensor) -> None:
        self.stitching = stitching
        self.patches = patches.detach()
        self.refresh(positions)

    @torch.no_grad()
    def refresh(self, positions: Tensor) -> None:
        """Stitch everything anew, with (n, 2) positions and the probe as they are now."""
        size = _chunk(self.patches[0])
        parts = zip(self.patches.split(size), positions.split(size))
        self.total = functools.reduce(
            Canvas.__add__, (self.stitching.accumulate(*part) for part in parts)
        )

    def complete(
        self, canvas: Canvas, members: Tensor, patches: Tensor, positions: Tensor
    ) -> Canvas:
        """Add to a minibatch's canvas what all other positions predicted last.

        Parameters
        ----------
        canvas : Canvas
            Sums over the minibatch.
        members : Tensor
            (m,) indices of the positions of the minibatch.
        patches : Tensor
            (m, n_slices, h, w) their patches, which are the latest from now on.
        positions : Tensor
            (n, 2) positions of the scan.
        """
        present = torch.unique(members)
        with torch.no_grad():
            others = self.total - self.stitching.accumulate(
                self.patches[present], positions[present]
            )
            self.patches[members] = patches.detach()
            self.total = others + self.stitching.accumulate(
                self.patches[present], positions[present]
            )
        return canvas + others

    def to(self, device: torch.device) -> None:
        """Move all tensors to a device."""
        self.patches = self.patches.to(device)
        self.total = Canvas(*(part.to(device) for part in self.total))


def _chunk(patch: Tensor) -> int:
    """Number of patches that are stitched at a time, to bound the memory."""
    return max(1, CHUNK_PIXELS // patch.numel())


def _stacked(slices: list[Tensor], dim: int = 0) -> Tensor:
    """``torch.stack`` that does not copy a single slice."""
    return slices[0].unsqueeze(dim) if len(slices) == 1 else torch.stack(slices, dim)
