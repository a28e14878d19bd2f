"""Where to distrust a prediction: disagreement of its parts, and the error of re-projection.

A one-shot generator makes many patches of each part of the object, and their disagreement tells
(``ptychi_neural.generators.overlap``). An unrolled generator makes one object. Its parts are the
predictions without a part of the data, whose spread is the jackknife's standard error (Efron &
Stein, Annals of Statistics 9, 586 (1981)): without the pixels of one split, where it was fitted
with splits, else without one half of the frames, where something was reconstructed before it.
Elsewhere they are the predictions in the eight orientations of a square.

This tells where predictions disagree, not how far they are from the truth: what they have in common
is not in it. The deviation that is compared with the truth is that of
``ptychi_neural.prediction.deviation_intervals``.
"""

import torch
from torch import Tensor

from ptychi_neural.engine.start import Start
from ptychi_neural.generators import Generator
from ptychi_neural.physics.ranks import of_all_frames
from ptychi_neural.physics.scan_physics import ScanPhysics


@torch.no_grad()
def deviation(generator: Generator, scan: ScanPhysics, start: Start) -> Tensor:
    """Standard deviation of the predictions that make up the scan's object, pixel by pixel.

    Parameters
    ----------
    generator : Generator
        A trained generator.
    scan : ScanPhysics
        The scan, with the objects that the generator starts from.
    start : Start
        How they were found.

    Returns
    -------
    Tensor
        (H, W) in units of the object; nan where there is nothing to compare: fewer than two
        frames overlap, or an unrolled generator that is neither symmetric nor has seen parts of
        the data.
    """
    if generator.jackknifed:
        parts = [scan.without(split) for split in scan.starts if split is not None]
        if len(parts) < generator.n_splits:  # A network that did not help ends with few.
            parts = start.halves(scan)
        if parts:
            objects = [generator(part) for part in parts]
            return _jackknife(objects, generator(scan), scan.coverage).sqrt()
    return generator.deviation(scan)


def _jackknife(objects: list[Tensor], whole: Tensor, coverage: Tensor) -> Tensor:
    """(H, W) squared standard error of an object, by those made without each part of the data."""
    aligned = []
    for object_ in objects:  # Their common phase is free.
        turn = (object_.conj() * coverage * whole).sum()
        aligned.append((object_ * turn / turn.abs()).prod(0))
    return (len(aligned) - 1) * torch.stack(aligned).var(0, correction=0)


@torch.no_grad()
def reprojection_error(scan: ScanPhysics, object_: Tensor) -> Tensor:
    """How badly an object predicts the counts of the frames in view.

        sqrt(sum (sqrt(Y_pred) - sqrt(Y_meas))^2 / sum Y_meas),  over the valid pixels of a frame.

    Parameters
    ----------
    scan : ScanPhysics
        Probe, positions and counts.
    object_ : Tensor
        (n_slices, H, W) object.

    Returns
    -------
    Tensor
        (n,) errors, also of frames of other ranks; 0 where an object predicts the counts exactly,
        inf for frames without counts.
    """
    errors = [scan.valid.new_zeros(0, dtype=object_.real.dtype)]  # A rank may have no frame.
    for batch in scan.batches:
        measured = scan.model.measured(batch) * scan.valid
        predicted = scan.predict(object_, batch) * scan.valid
        difference = (predicted.sqrt() - measured.sqrt()).square().sum(dim=(-2, -1))
        errors.append((difference / measured.sum(dim=(-2, -1))).sqrt())
    own = scan.model.own(scan.frames)
    return of_all_frames(torch.cat(errors), own, len(scan.model.everything))[scan.frames]
