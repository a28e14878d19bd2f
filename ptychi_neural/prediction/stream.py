"""Prediction of a scan while it is measured: frames in any order, with gaps and duplicates."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from ptychi.api.task import PtychographyTask
from torch import Tensor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.generators import Unrolled
from ptychi_neural.physics.forward_model import NeuralForwardModel
from ptychi_neural.physics.stitching import Canvas, coverage
from ptychi_neural.prediction.uncertainty import (
    OverlapSums,
    orientation_variance,
    overlap_sums,
    reprojection_error,
)


@dataclass
class PredictedObject:
    """A prediction, and where to distrust it."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) stitched object, 1 + 0i where no frame lies."""

    weight: NDArray[np.floating]
    """(H, W) sum of the weights with which patches were stitched; 1 at a probe's maximum."""

    standard_deviation: NDArray[np.floating]
    """(H, W) disagreement of the predictions, see ``disagreement``."""

    reprojection_error: NDArray[np.floating]
    """(k,) relative error of the amplitudes that the object predicts, of every frame of a whole
    scan, or of the latest batch of a stream. A network that is out of its depth shows here."""

    probe: NDArray[np.complexfloating]
    """(n_opr_modes, n_modes, h, w) probe at the intensity of the measured counts."""


class PredictionStream:
    """What a trained generator makes of the frames that have arrived.

    Each frame adds its patch, or with an unrolled generator its back-projected update of the
    empty object, to sums on the canvas: memory is that of the canvas and one batch, and the order
    of arrival has no influence. ``NeuralPredictor.stream`` makes one.

    Parameters
    ----------
    task : PtychographyTask
        A task of ``batch_size`` frames, whose patterns and positions are replaced by those that
        arrive.
    """

    def __init__(self, task: PtychographyTask) -> None:
        reconstructor = cast(NeuralReconstructor, task.reconstructor)
        self._model: NeuralForwardModel = reconstructor.model
        self._fft_shift: bool = task.data_options.fft_shift
        self._batch_size = len(self._model.dataset)
        self._known: set[int] = set()
        self._sums: OverlapSums | _UpdateSums | None = None
        self._latest = torch.arange(0)

    @property
    def n_frames(self) -> int:
        """Number of frames that have been taken in."""
        return len(self._known)

    def add(self, patterns: ArrayLike, positions: ArrayLike, frame_ids: ArrayLike) -> int:
        """Take in frames as they arrive.

        Parameters
        ----------
        patterns : array_like
            (n, h, w) counts, DC at the image centre.
        positions : array_like
            (n, 2) positions in object pixels, (y, x), relative to the canvas's centre.
        frame_ids : array_like of int
            (n,) number of each frame. One that is known, or comes twice, is skipped.

        Returns
        -------
        int
            How many frames were new.

        Raises
        ------
        ValueError
            If shapes do not fit, values are not finite or negative, or a frame lies outside the
            canvas. Nothing is taken in then.
        """
        counts = as_counts(patterns, self._model.dataset.patterns.shape[-2:])
        where = torch.from_numpy(np.array(positions, dtype=np.float32))
        ids = np.asarray(frame_ids)
        if (
            where.shape != (len(counts), 2)
            or ids.shape != (len(counts),)
            or ids.dtype.kind not in "ui"
        ):
            raise ValueError(
                f"For {len(counts)} patterns give ({len(counts)}, 2) positions and as many integer "
                f"frame_ids, not {tuple(where.shape)} and {ids.dtype} {ids.shape}."
            )
        self._check_inside(where, ids)
        new: list[int] = []
        for row, frame_id in enumerate(ids.tolist()):
            if frame_id not in self._known:
                self._known.add(frame_id)
                new.append(row)
        for rows in torch.tensor(new, dtype=torch.long, device="cpu").split(self._batch_size):
            if len(rows):
                self._take(counts[rows], where[rows])
        return len(new)

    @torch.no_grad()
    def current(self) -> PredictedObject:
        """The object as it is now, with the re-projection error of the latest batch of frames.

        Raises
        ------
        ValueError
            If no frame has arrived.
        """
        if self._sums is None:
            raise ValueError("No frame has arrived: there is no object yet.")
        model = self._model
        if isinstance(self._sums, OverlapSums):
            object_ = self._sums.canvas.object(model.start_object).to(model.start_object.dtype)
            deviation, weight = self._sums.standard_deviation(), self._sums.canvas.weight
        else:
            network = cast(Unrolled, model.generator.network)
            operators = _SummedOperators(model, self._sums)
            object_, weight = network(operators), self._sums.weight
            deviation = orientation_variance(network, operators).sqrt()
        return PredictedObject(
            object=object_.numpy(force=True),
            weight=weight.float().numpy(force=True),
            standard_deviation=deviation.float().numpy(force=True),
            reprojection_error=reprojection_error(model, self._latest, object_).numpy(force=True),
            probe=model.probe.data.numpy(force=True),
        )

    @torch.no_grad()
    def _take(self, counts: Tensor, positions: Tensor) -> None:
        model, n = self._model, len(counts)
        if self._fft_shift:
            counts = torch.fft.fftshift(counts, dim=(-2, -1))
        model.dataset.patterns[:n] = counts.to(model.dataset.patterns)
        model.probe_positions.set_data(positions, slicer=slice(0, n))
        self._latest = indices = torch.arange(n)
        placed = model.positions(indices)
        sums: OverlapSums | _UpdateSums
        if isinstance(model.generator.network, Unrolled):
            update = model.accumulate_update(indices, model.start_object)
            weight = model.consistency.total_weight(placed)
            sums = _UpdateSums(
                Canvas(update[0].to(torch.complex128), update[1].double()), weight.double()
            )
        else:
            sums = overlap_sums(model, model.generate(indices)[1], placed)
        self._sums = sums if self._sums is None else self._sums + sums

    def _check_inside(self, positions: Tensor, ids: NDArray[np.generic]) -> None:
        model = self._model
        shape = model.dataset.patterns.shape[-2:]
        size = np.asarray(model.start_object.shape[-2:])
        origin = model.object.pos_origin_coords.numpy(force=True)
        centers = np.round(positions.numpy()) + origin
        half = (np.asarray(shape) - 1) / 2
        inside = ((centers - half >= 0) & (centers + half <= size - 1)).all(axis=1)
        if not inside.all():  # also where a position is nan
            first = int(np.argmin(inside))
            raise ValueError(
                f"frame {ids[first]} at (y, x) = {positions[first].tolist()} and "
                f"{int((~inside).sum()) - 1} others lie outside the canvas of "
                f"{size[0]} x {size[1]} pixels, whose centre is position 0, 0: give a larger "
                "object_shape, or positions relative to the scan's centre."
            )


class _UpdateSums(NamedTuple):
    """Sums over frames, in double precision: the unrolled generator's input."""

    update: Canvas
    """Back-projected corrections of the empty object."""

    weight: Tensor
    """(H, W) sum of the stitching weights."""

    def __add__(self, other: tuple) -> "_UpdateSums":  # type: ignore[override]
        return _UpdateSums(*(a + b for a, b in zip(self, other)))


class _SummedOperators:
    """The physics of the frames that have arrived (``PhysicsOperators``): one update of the empty
    object, which is all that an unrolled generator of one iteration asks for."""

    def __init__(self, model: NeuralForwardModel, sums: _UpdateSums) -> None:
        self.model = model
        self.sums = sums

    def start(self) -> Tensor:
        return self.model.start_object

    def update(self, object_: Tensor) -> Tensor:
        return self.model.object_update(self.sums.update).to(object_.dtype)

    def coverage(self) -> Tensor:
        damping = self.model.options.start.regularization
        return coverage(self.sums.weight, damping).to(self.model.start_object.real.dtype)


def as_counts(patterns: ArrayLike, shape: tuple[int, ...] | None = None) -> Tensor:
    """(n, h, w) patterns in single precision on the CPU, checked.

    Raises
    ------
    ValueError
        If they are not of that rank, of another (h, w) ``shape``, not finite or negative.
    """
    counts = torch.from_numpy(np.array(patterns, dtype=np.float32))
    if counts.ndim != 3 or (shape is not None and counts.shape[1:] != torch.Size(shape)):
        expected = "(n, h, w)" if shape is None else f"(n, {shape[0]}, {shape[1]})"
        raise ValueError(f"patterns must have the shape {expected}, got {tuple(counts.shape)}.")
    bad = ~torch.isfinite(counts) | (counts < 0)
    if bad.any():
        raise ValueError(
            f"patterns: {int(bad.any(dim=-1).any(dim=-1).sum())} of {len(counts)} frames have NaN, "
            "Inf or negative counts. Set these pixels to 0 and leave them out with "
            "valid_pixel_mask, or leave out the frames."
        )
    return counts
