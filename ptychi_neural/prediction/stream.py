"""Prediction of a scan while it is measured: frames in any order, with gaps and duplicates."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ptychi_neural.engine.scan_task import ScanTask
from ptychi_neural.prediction.deviation import reprojection_error
from ptychi_neural.prediction.predicted_object import PredictedObject
from ptychi_neural.scans import Repaired, StreamedCounts, as_counts


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
        valid: NDArray[np.bool_] = self._shifted(task.scan.valid).numpy(force=True)
        self._check = StreamedCounts(None if valid.all() else valid)
        self._known: set[int] = set()
        self._sums: Any = None
        self._latest = torch.arange(0)

    @property
    def n_frames(self) -> int:
        """Number of frames that have been taken in."""
        return len(self._known)

    @property
    def valid_pixel_mask(self) -> NDArray[np.bool_] | None:
        """(h, w) True where the detector works, as far as the frames have shown it by now."""
        return self._check.valid_pixel_mask

    def add(self, patterns: ArrayLike, positions: ArrayLike, frame_ids: ArrayLike) -> int:
        """Take in frames as they arrive.

        Defects are masked, and frames that do not belong are dropped, with a warning that counts
        and names them, as in a whole scan (``ptychi_neural.scans.counts``).

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
            How many frames were new and taken in.

        Raises
        ------
        ValueError
            If shapes do not fit, most of the detector is broken, or a frame lies outside the
            canvas. Nothing is taken in then.
        """
        counts = as_counts(patterns, tuple(self._scan.valid.shape))
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
        different, first_rows = np.unique(ids, return_index=True)
        new = np.sort(first_rows[~np.isin(different, list(self._known | self._check.dropped))])
        if len(new) == 0:
            return 0
        numbers = ids[new]
        block = self._check.add(counts[new], numbers)
        self._tell(block)
        self._scan.valid.copy_(self._shifted(torch.from_numpy(self._valid())))
        taken = torch.from_numpy(np.array(block.patterns, dtype=np.float32))
        where = where[torch.from_numpy(new[block.kept])]
        self._known.update(numbers[block.kept].tolist())
        for rows in torch.arange(len(taken), device="cpu").split(self._batch_size):
            if len(rows):
                self._take(taken[rows], where[rows])
        return len(taken)

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
        counts = self._shifted(counts)
        model.dataset.patterns[:n] = counts.to(model.dataset.patterns)
        model.probe_positions.set_data(positions, slicer=slice(0, n))
        self._latest = torch.arange(n)
        sums = self._generator.sums(self._scan.of(self._latest))
        self._sums = sums if self._sums is None else self._sums + sums

    def _shifted(self, images: Tensor) -> Tensor:
        """Images with DC where the forward model has it."""
        return torch.fft.fftshift(images, dim=(-2, -1)) if self._fft_shift else images

    def _valid(self) -> NDArray[np.bool_]:
        mask = self._check.valid_pixel_mask
        return np.ones(tuple(self._scan.valid.shape), bool) if mask is None else mask

    def _tell(self, block: Repaired) -> None:
        """Warn of what was masked or dropped, and of earlier frames that should have been."""
        told = list(block.report)
        if self._check.outdated:
            told.append(
                "frames that came earlier were taken in with these pixels, or do not belong: begin "
                "a new stream with this stream's valid_pixel_mask"
            )
        if told:
            warnings.warn(f"stream: {', '.join(told)}.", stacklevel=3)

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


def as_tensor_of_counts(patterns: ArrayLike) -> Tensor:
    """(n, h, w) patterns in single precision on the CPU, checked.

    Raises
    ------
    ValueError
        If they are not real numbers of that rank, not finite or negative.
    """
    counts = torch.from_numpy(np.array(as_counts(patterns), dtype=np.float32))
    bad = ~torch.isfinite(counts) | (counts < 0)
    if bad.any():
        raise ValueError(
            f"patterns: {int(bad.any(dim=-1).any(dim=-1).sum())} of {len(counts)} frames have NaN, "
            "Inf or negative counts. Set these pixels to 0 and leave them out with "
            "valid_pixel_mask, or leave out the frames."
        )
    return counts
