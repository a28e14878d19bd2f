"""Prediction of a scan while it is measured: frames in any order, with gaps and duplicates."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ptychi_neural.engine.scan_task import ScanTask
from ptychi_neural.prediction.deviation import reprojection_error
from ptychi_neural.prediction.predicted_object import PredictedObject
from ptychi_neural.scans import as_counts


class PredictionStream:
    """What a trained generator makes of the frames that have arrived.

    Each frame adds its part, a patch or a back-projected update of the empty object, to sums on the
    canvas: memory is that of the canvas and one batch, and the order of arrival has no influence.
    ``NeuralPredictor.stream`` makes one.

    Parameters
    ----------
    task : ScanTask
        A task of ``batch_size`` frames, whose patterns and positions are replaced by those that
        arrive.
    """

    def __init__(self, task: ScanTask) -> None:
        self._generator = task.generator
        self._scan = task.scan
        self._fft_shift: bool = task.data_options.fft_shift
        self._batch_size = len(task.scan.frames)
        self._known: set[int] = set()
        self._sums: Any = None
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
        counts = as_tensor_of_counts(patterns, self._scan.model.dataset.patterns.shape[-2:])
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
        scan, sums = self._scan, self._sums
        object_ = self._generator.object_of_sums(scan, sums)

        @torch.no_grad()
        def deviation() -> NDArray[np.floating]:
            return self._generator.deviation_of_sums(scan, sums).float().numpy(force=True)

        error = reprojection_error(scan.of(self._latest), object_)
        return PredictedObject(
            object=object_.numpy(force=True),
            weight=sums.weight.float().numpy(force=True),
            reprojection_error=error.numpy(force=True),
            probe=scan.model.probe.data.numpy(force=True),
            compute_deviation=deviation,
        )

    @torch.no_grad()
    def _take(self, counts: Tensor, positions: Tensor) -> None:
        model, n = self._scan.model, len(counts)
        if self._fft_shift:
            counts = torch.fft.fftshift(counts, dim=(-2, -1))
        model.dataset.patterns[:n] = counts.to(model.dataset.patterns)
        model.probe_positions.set_data(positions, slicer=slice(0, n))
        self._latest = torch.arange(n)
        sums = self._generator.sums(self._scan.of(self._latest))
        self._sums = sums if self._sums is None else self._sums + sums

    def _check_inside(self, positions: Tensor, ids: NDArray[np.generic]) -> None:
        model = self._scan.model
        shape = model.dataset.patterns.shape[-2:]
        size = np.asarray(self._scan.start.shape[-2:])
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


def as_tensor_of_counts(patterns: ArrayLike, frame_shape: tuple[int, ...] | None = None) -> Tensor:
    """(n, h, w) patterns in single precision on the CPU, checked.

    Raises
    ------
    ValueError
        If they are not real numbers of that rank, of another (h, w) ``frame_shape``, not finite or
        negative.
    """
    counts = torch.from_numpy(np.array(as_counts(patterns, frame_shape), dtype=np.float32))
    bad = ~torch.isfinite(counts) | (counts < 0)
    if bad.any():
        raise ValueError(
            f"patterns: {int(bad.any(dim=-1).any(dim=-1).sum())} of {len(counts)} frames have NaN, "
            "Inf or negative counts. Set these pixels to 0 and leave them out with "
            "valid_pixel_mask, or leave out the frames."
        )
    return counts
