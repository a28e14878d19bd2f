"""Disagreement of patches of different frames that overlap, and so predict the same object.

With w the weights of the patches o_j in the stitch,

    std = sqrt(sum_j w_j |o_j - o|^2 / sum_j w_j),     o = sum_j w_j o_j / sum_j w_j.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ptychi_neural.generators.exact_sums import exactly_added
from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.stitching import COVERAGE_FLOOR, Canvas

LEAST_OVERLAP = 1e-6
"""By how much (sum w)^2 / sum w^2 exceeds 1 where more than one frame counts."""

LEAST_PRODUCT = 2.0**-34
"""By how much (sum w)^2 exceeds sum w^2 there: more than the terms of a single frame are rounded by
(``exactly_added``)."""

AT_ONCE = 2**15
"""Pixels of patches whose terms a CPU computes at a time: its caches hold them, and no memory has
to be asked for anew, which takes as long as the sums."""


class OverlapSums(NamedTuple):
    """Sums over patches, exact in any order: the stitched object and how far patches differ."""

    canvas: Canvas
    """Weighted patches and weights."""

    weighted_squares: Tensor
    """(H, W) sum of w |o|^2 over patches and slices."""

    squared_weights: Tensor
    """(H, W) sum of w^2."""

    def __add__(self, other: tuple) -> "OverlapSums":  # type: ignore[override]
        return OverlapSums(*(a + b for a, b in zip(self, other)))

    def of_all_ranks(self) -> "OverlapSums":
        """The sums over the patches of all ranks, where these are those of one."""
        squares, weights = summed(self.weighted_squares), summed(self.squared_weights)
        return OverlapSums(self.canvas.of_all_ranks(), squares, weights)

    @property
    def weight(self) -> Tensor:
        """(H, W) sum of the weights."""
        return self.canvas.weight

    def standard_deviation(self) -> Tensor:
        """(H, W) weighted deviation of the patches, over all slices; nan where fewer than two
        frames overlap."""
        weight = self.canvas.weight
        least = (1 + LEAST_OVERLAP) * self.squared_weights + LEAST_PRODUCT
        overlap = (weight > COVERAGE_FLOOR * weight.max()) & (weight.square() > least)
        divisor = torch.where(overlap, weight, 1.0)
        mean_square = (self.canvas.weighted_patches / divisor).abs().square().sum(0)
        variance = self.weighted_squares / divisor - mean_square
        return torch.where(overlap, variance.clamp_min(0).sqrt(), torch.nan)


def overlap_sums(scan: ScanPhysics, members: Tensor, patches: Tensor) -> OverlapSums:
    """Sums of (m, n_slices, h, w) patches at the positions of (m,) members."""
    stitching, positions = scan.model.stitching, scan.model.positions(members)
    weights = stitching.weights().double()
    weighted = torch.empty_like(patches, dtype=torch.complex128)
    squares = torch.empty_like(patches[:, :1], dtype=torch.float64)
    on_cpu = patches.device.type == "cpu"
    size = max(1, AT_ONCE // patches.shape[1:].numel()) if on_cpu else max(1, len(patches))
    for some, *sums in zip(*(of_all.split(size) for of_all in (patches, weighted, squares))):
        parts = torch.view_as_real(some.to(torch.complex128))
        square = parts[..., 0].square().addcmul_(parts[..., 1], parts[..., 1])
        torch.view_as_real(sums[0]).copy_(exactly_added(parts * weights[..., None]))
        sums[1].copy_(exactly_added(square.sum(1, keepdim=True).mul_(weights)))
    # Real and imaginary part take two sums of real numbers to the canvas at a time.
    of_each = exactly_added(torch.complex(weights, weights.square()))
    placed = stitching.place(of_each.expand(len(patches), 1, -1, -1), positions)[0]
    return OverlapSums(
        Canvas(stitching.place(weighted, positions), placed.real),
        stitching.place(squares, positions, exact=True)[0],
        placed.imag,
    )
