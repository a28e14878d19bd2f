"""Where to distrust a prediction: disagreement of its parts, and the error of re-projection.

Patches of different frames that overlap predict the same object: with w their weights in the
stitch,

    std = sqrt(sum_j w_j |o_j - o|^2 / sum_j w_j),     o = sum_j w_j o_j / sum_j w_j.

An unrolled generator makes one object, not patches. Its parts are the predictions without a part of
the data, whose spread is the jackknife's standard error (Efron & Stein, Annals of Statistics 9, 586
(1981)): without the pixels of one split, where it was fitted with splits, else without one half of
the projected frames. Where nothing was projected, they are those in the eight orientations of a
square, which differ by less than the prediction errs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.generators import Unrolled
from ptychi_neural.generators.architectures.unrolled import ORIENTATIONS, PhysicsOperators
from ptychi_neural.physics.forward_model import NeuralForwardModel, ScanOperators
from ptychi_neural.physics.stitching import COVERAGE_FLOOR, Canvas

LEAST_OVERLAP = 1e-6
"""By how much (sum w)^2 / sum w^2 exceeds 1 where more than one frame counts."""


class OverlapSums(NamedTuple):
    """Sums over patches, in double precision: the stitched object and how far patches differ."""

    canvas: Canvas
    """Weighted patches and weights."""

    weighted_squares: Tensor
    """(H, W) sum of w |o|^2 over patches and slices."""

    squared_weights: Tensor
    """(H, W) sum of w^2."""

    def __add__(self, other: tuple) -> "OverlapSums":  # type: ignore[override]
        return OverlapSums(*(a + b for a, b in zip(self, other)))

    def standard_deviation(self) -> Tensor:
        """(H, W) weighted deviation of the patches, over all slices; nan where fewer than two
        frames overlap."""
        weight = self.canvas.weight
        overlap = (weight > COVERAGE_FLOOR * weight.max()) & (
            weight.square() > (1 + LEAST_OVERLAP) * self.squared_weights
        )
        divisor = torch.where(overlap, weight, 1.0)
        mean_square = (self.canvas.weighted_patches / divisor).abs().square().sum(0)
        variance = self.weighted_squares / divisor - mean_square
        return torch.where(overlap, variance.clamp_min(0).sqrt(), torch.nan)


def overlap_sums(model: NeuralForwardModel, patches: Tensor, positions: Tensor) -> OverlapSums:
    """Sums of (n, n_slices, h, w) patches at (n, 2) positions."""
    consistency, patches = model.consistency, patches.to(torch.complex128)
    weights = consistency.weights().double()
    of_each = weights.expand(len(patches), 1, -1, -1)
    squares = weights * patches.abs().square().sum(1, keepdim=True)
    return OverlapSums(
        Canvas(
            consistency.place(weights * patches, positions),
            consistency.place(of_each, positions)[0],
        ),
        consistency.place(squares, positions)[0],
        consistency.place(of_each.square(), positions)[0],
    )


@torch.no_grad()
def disagreement(reconstructor: NeuralReconstructor) -> Tensor:
    """Standard deviation of the predictions that make up the scan's object, pixel by pixel.

    Parameters
    ----------
    reconstructor : NeuralReconstructor
        Of a task that has run, with a trained generator.

    Returns
    -------
    Tensor
        (H, W) in units of the object; nan where there is nothing to compare: fewer than two
        frames overlap, or an unrolled generator that is neither symmetric nor has seen parts of
        the data.
    """
    model = reconstructor.model
    split, network = model.split, model.generator.network
    model.split = None
    try:
        if isinstance(network, Unrolled):
            everything = ScanOperators(model, model.everything)
            objects = reconstructor.objects_without_parts()
            if objects:
                variance = _jackknife(objects, network(everything), everything)
            else:
                variance = orientation_variance(network, everything)
            return variance.sqrt()
        total: OverlapSums | None = None
        for batch in model.everything.split(model.options.batch_size):
            members, patches, _ = model.generate(batch)
            sums = overlap_sums(model, patches, model.positions(members))
            total = sums if total is None else total + sums
        assert total is not None
        return total.standard_deviation()
    finally:
        model.split = split


def orientation_variance(network: Unrolled, operators: PhysicsOperators) -> Tensor:
    """(H, W) variance of the objects predicted in the orientations; nan if it is to see but one."""
    if not network.options.symmetric:
        return torch.full_like(operators.coverage(), torch.nan)
    objects = torch.stack([network(operators, orientation)[0] for orientation in ORIENTATIONS])
    return objects.var(0, correction=0)


def _jackknife(objects: list[Tensor], whole: Tensor, operators: PhysicsOperators) -> Tensor:
    """(H, W) squared standard error of an object, by those made without each part of the data."""
    aligned = []
    for object_ in objects:  # Their common phase is free.
        turn = (object_.conj() * operators.coverage() * whole).sum()
        aligned.append(object_[0] * turn / turn.abs())
    return (len(aligned) - 1) * torch.stack(aligned).var(0, correction=0)


@torch.no_grad()
def reprojection_error(model: NeuralForwardModel, indices: Tensor, object_: Tensor) -> Tensor:
    """How badly an object predicts the counts of some frames.

        sqrt(sum (sqrt(Y_pred) - sqrt(Y_meas))^2 / sum Y_meas),  over the valid pixels of a frame.

    Parameters
    ----------
    model : NeuralForwardModel
        Probe, positions and counts.
    indices : Tensor
        (n,) indices of the frames.
    object_ : Tensor
        (n_slices, H, W) object.

    Returns
    -------
    Tensor
        (n,) errors, 0 where an object predicts the counts exactly; inf for frames without counts.
    """
    errors = []
    for batch in indices.split(model.options.batch_size):
        patches = model.consistency.extract(object_, model.positions(batch))
        valid = model.dataset.valid_pixel_mask
        measured = model.measured_patterns(batch) * valid
        predicted = model.intensities_of(batch, patches) * valid
        difference = (predicted.sqrt() - measured.sqrt()).square().sum(dim=(-2, -1))
        errors.append((difference / measured.sum(dim=(-2, -1))).sqrt())
    return torch.cat(errors)
