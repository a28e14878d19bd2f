"""Prediction of a scan while it is measured: frames in any order, with gaps and duplicates."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ptychi_neural.counted import counted
from ptychi_neural.engine.scan_task import ScanTask
from ptychi_neural.engine.state_files import (
    damage_told,
    read_state,
    with_arrays,
    with_tensors,
    write_state,
)
from ptychi_neural.prediction.deviation import reprojection_error
from ptychi_neural.prediction.frame_sums import FrameSums
from ptychi_neural.prediction.predicted_object import PredictedObject
from ptychi_neural.prediction.waiting_frames import WaitingFrames
from ptychi_neural.scans import Repaired, StreamedCounts, as_counts
from ptychi_neural.scans.defects import FEWEST_FOR_VARIANCE, arbitrary_unit
from ptychi_neural.scans.masks import telling

STATE = "prediction stream"
"""Kind of the state that ``PredictionStream.save`` writes."""


class PredictionStream:
    """What a trained generator makes of the frames that have arrived.

    Each frame adds its part, a patch or a back-projected update of the empty object, to sums on the
    canvas. Memory is that of the canvas, of one batch and of the frames that wait for a position.
    The order in which frames and positions arrive has no influence, not even on the last bits: the
    object is that of ``NeuralPredictor.reconstruct`` with the same probe, mask and ``batch_size``.
    ``NeuralPredictor.stream`` makes one.

    Parameters
    ----------
    task : ScanTask
        A task of ``batch_size`` frames, whose patterns and positions are replaced by those that
        arrive.
    ring_size : int
        Most frames that wait for their positions.
    """

    def __init__(self, task: ScanTask, ring_size: int) -> None:
        self._sums = FrameSums(task)
        self._scan = task.scan
        self._fft_shift: bool = task.data_options.fft_shift
        valid: NDArray[np.bool_] = self._shifted(task.scan.valid).numpy(force=True)
        self._check = StreamedCounts(telling(valid))
        self._known: set[int] = set()
        self._waiting = WaitingFrames(ring_size)
        self._batch: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

    @property
    def n_frames(self) -> int:
        """Number of frames that have been taken in."""
        return len(self._known)

    @property
    def frame_ids(self) -> NDArray[np.int64]:
        """(n_frames,) numbers of the frames that have been taken in, in rising order."""
        return np.array(sorted(self._known), np.int64)

    @property
    def n_waiting(self) -> int:
        """Number of frames that wait for their positions."""
        return len(self._waiting.patterns)

    @property
    def mean_counts(self) -> float:
        """Mean counts of a frame in the valid pixels, from which ``rescaled_probe`` follows."""
        self._add_up(len(self._batch))
        return self._sums.light.mean

    @property
    def valid_pixel_mask(self) -> NDArray[np.bool_] | None:
        """(h, w) True where the detector works, as far as the frames have shown it by now."""
        return self._check.valid_pixel_mask

    @property
    def outdated(self) -> bool:
        """Whether later frames have shown that earlier ones were taken in with broken pixels, or do
        not belong: a new stream with this one's ``valid_pixel_mask`` should be begun."""
        return self._check.outdated

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
            If shapes do not fit, most of the detector is broken, a frame lies outside the canvas,
            or the first frames, where they are several, are in a far other unit than counts.
            Nothing is taken in then.
        """
        counts = self._counts(patterns)
        where, ids = self._positions(positions, frame_ids, len(counts))
        new = self._new(ids)
        if len(new) == 0:
            return 0
        numbers = ids[new]
        if not self._known:
            check_unit(counts[new], self._valid())
        block = self._check.add(counts[new], numbers)
        self._tell(block)
        self._waiting.forget(numbers.tolist())
        kept = new[block.kept]
        return self._take_in(block.patterns, where[kept], ids[kept])

    def add_repaired(
        self,
        patterns: ArrayLike,
        positions: ArrayLike,
        frame_ids: ArrayLike,
        valid_pixel_mask: NDArray[np.bool_] | None,
    ) -> int:
        """Take in frames that another check has repaired (``ptychi_neural.scans.StreamedCounts``),
        and its mask as it is now, which counts for all frames from now on.

        Parameters
        ----------
        patterns, positions, frame_ids
            As ``add`` takes them.
        valid_pixel_mask : ndarray or None
            (h, w) True where the detector works; None: everywhere.

        Returns
        -------
        int
            How many frames were new and taken in.

        Raises
        ------
        ValueError
            If shapes do not fit, or a frame lies outside the canvas. Nothing is taken in then.
        """
        counts = self._counts(patterns)
        where, ids = self._positions(positions, frame_ids, len(counts))
        new = self._new(ids)
        self._check.trust(valid_pixel_mask)
        return self._take_in(counts[new], where[new], ids[new])

    def add_patterns(self, patterns: ArrayLike, frame_ids: ArrayLike) -> int:
        """Take in frames whose positions come earlier or later, by ``add_positions``.

        Frames wait in a ring of ``ring_size``: where it is full, those that wait longest are left
        out, with a warning that counts and names them. They may come again.

        Parameters
        ----------
        patterns : array_like
            (n, h, w) counts, DC at the image centre.
        frame_ids : array_like of int
            (n,) number of each frame. One that is known, or comes twice, is skipped.

        Returns
        -------
        int
            How many frames had a position and were taken in.

        Raises
        ------
        ValueError
            As in ``add``.
        """
        counts = self._counts(patterns)
        ids = _numbers(frame_ids, len(counts))
        new = self._new(ids)
        placed = np.array([n in self._waiting.positions for n in ids[new].tolist()], bool)
        ready = new[placed]
        n_taken = 0
        if len(ready):
            where = [self._waiting.positions[number] for number in ids[ready].tolist()]
            n_taken = self.add(counts[ready], np.array(where), ids[ready])
        lost = self._waiting.put(ids[new[~placed]].tolist(), counts[new[~placed]])
        if lost:
            warnings.warn(
                f"stream: left out {counted(len(lost), 'frames')} without a position, as "
                f"{self._waiting.ring_size} others wait for theirs: {lost[:8]}"
                f"{' ...' if len(lost) > 8 else ''}. Send positions before frames, or give a "
                "larger ring_size.",
                stacklevel=2,
            )
        return n_taken

    def add_positions(self, positions: ArrayLike, frame_ids: ArrayLike) -> int:
        """Take in the positions of frames that come earlier or later, by ``add_patterns``.

        Parameters
        ----------
        positions : array_like
            (n, 2) positions in object pixels, (y, x), relative to the canvas's centre.
        frame_ids : array_like of int
            (n,) number of each frame. The first position of a frame counts.

        Returns
        -------
        int
            How many frames had waited for their positions and were taken in.

        Raises
        ------
        ValueError
            As in ``add``.
        """
        where, ids = self._positions(positions, frame_ids)
        new = self._new(ids)
        for row in new:
            self._waiting.positions.setdefault(int(ids[row]), where[row])
        ready = [number for number in ids[new].tolist() if number in self._waiting.patterns]
        if not ready:
            return 0
        patterns = np.stack([self._waiting.patterns[number] for number in ready])
        return self.add(patterns, [self._waiting.positions[number] for number in ready], ready)

    @torch.no_grad()
    def current(self) -> PredictedObject:
        """The object as it is now, with the re-projection error of the latest batch of frames.

        Raises
        ------
        ValueError
            If no frame has arrived.
        """
        self._add_up(len(self._batch))
        sums, total = self._sums, self._sums.total
        if total is None:
            raise ValueError("No frame has arrived: there is no object yet.")
        object_ = sums.object()
        return PredictedObject(
            object=object_.numpy(force=True),
            weight=total.weight.float().numpy(force=True),
            reprojection_error=reprojection_error(sums.latest, object_).numpy(force=True),
            probe=self._scan.model.probe.data.numpy(force=True),
            compute_deviation=lambda: sums.deviation(total).float().numpy(force=True),
        )

    def save(self, path: str | Path) -> None:
        """Write what has arrived to a ``.safetensors`` file, with which ``load`` goes on."""
        write_state(path, STATE, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Go on from a file that ``save`` wrote, as if the stream had never been interrupted.

        Parameters
        ----------
        path : str or Path
            The file, of a stream of the same generator, probe, canvas and ``batch_size``.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is damaged or that of another stream.
        """
        state = read_state(path, STATE)
        with damage_told(path):
            self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """What has arrived, as ``write_state`` takes it."""
        self._add_up(len(self._batch))
        return self._signature() | {
            "known": torch.from_numpy(self.frame_ids),
            "check": with_tensors(self._check.state_dict()),
            "waiting": self._waiting.state_dict(),
            "sums": self._sums.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises
        ------
        ValueError
            If it is that of a stream with another generator, probe, canvas or ``batch_size``.
        """
        own = self._signature()
        differing = [name for name, value in own.items() if not _same(value, state[name])]
        if differing:
            raise ValueError(f"belongs to a stream with another {', '.join(differing)}.")
        self._known = set(state["known"].tolist())
        self._check.load_state_dict(with_arrays(state["check"]))
        self._waiting.load_state_dict(state["waiting"])
        self._batch = []
        self._scan.valid.copy_(self._shifted(torch.from_numpy(self._valid())))
        self._sums.load_state_dict(state["sums"])

    def _signature(self) -> dict[str, Any]:
        """What a saved stream must have in common with this one."""
        return {
            "generator": self._sums.fingerprint(),
            "probe": self._scan.model.probe.data.detach(),
            "canvas": list(self._scan.start.shape),
            "batch_size": self._sums.batch_size,
        }

    def _take_in(
        self,
        patterns: NDArray[np.generic],
        positions: NDArray[np.float32],
        numbers: NDArray[np.integer],
    ) -> int:
        """Take in repaired frames, which were not known, and return how many there are."""
        self._known.update(numbers.tolist())
        self._batch += zip(np.array(patterns, dtype=np.float32), positions)
        self._add_up(len(self._batch) - len(self._batch) % self._sums.batch_size)
        return len(numbers)

    def _add_up(self, n: int) -> None:
        """Add the first of the frames that are there to the sums, with the mask as it is now."""
        if n == 0:
            return
        some, self._batch = self._batch[:n], self._batch[n:]
        patterns, where = (torch.from_numpy(np.stack(of_each)) for of_each in zip(*some))
        self._scan.valid.copy_(self._shifted(torch.from_numpy(self._valid())))
        self._sums.add(self._shifted(patterns), where)

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

    def _counts(self, patterns: ArrayLike) -> NDArray[np.generic]:
        return as_counts(patterns, tuple(self._scan.valid.shape))

    def _new(self, ids: NDArray[np.integer]) -> NDArray[np.intp]:
        """Rows, in their order, of the first appearance of numbers that are not known."""
        _, first_rows = np.unique(ids, return_index=True)
        rows = np.sort(first_rows)
        known = [n in self._known or n in self._check.dropped for n in ids[rows].tolist()]
        return rows[~np.array(known, dtype=bool)]

    def _positions(
        self, positions: ArrayLike, frame_ids: ArrayLike, n: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """(n, 2) positions and (n,) numbers, checked; None: as many as there are positions."""
        where = np.array(positions, dtype=np.float32)
        n = where.shape[0] if n is None and where.ndim else n
        ids = np.asarray(frame_ids)
        if where.shape != (n, 2) or ids.shape != (n,) or ids.dtype.kind not in "ui":
            raise ValueError(
                f"For {n} patterns give ({n}, 2) positions and as many integer "
                f"frame_ids, not {where.shape} and {ids.dtype} {ids.shape}."
            )
        self._check_inside(where, ids)
        return where, ids

    def _check_inside(self, positions: NDArray[np.float32], ids: NDArray[np.integer]) -> None:
        model = self._scan.model
        shape = model.dataset.patterns.shape[-2:]
        size = np.asarray(self._scan.start.shape[-2:])
        origin = model.object.pos_origin_coords.numpy(force=True)
        centers = np.round(positions) + origin
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


def _numbers(frame_ids: ArrayLike, n: int) -> NDArray[np.integer]:
    """(n,) numbers of frames, checked."""
    ids = np.asarray(frame_ids)
    if ids.shape != (n,) or ids.dtype.kind not in "ui":
        raise ValueError(
            f"For {n} patterns give as many integer frame_ids, not {ids.dtype} {ids.shape}."
        )
    return ids


def check_unit(patterns: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> None:
    """Refuse numbers of a unit that a whole scan is divided by, which all of its frames tell."""
    valid = np.ones(patterns.shape[1:], bool) if valid is None else valid
    finite = patterns[np.isfinite(patterns).all(axis=(1, 2), where=valid)]
    unit = arbitrary_unit(finite, valid) if len(finite) >= FEWEST_FOR_VARIANCE else 1.0
    if unit != 1:
        raise ValueError(
            f"a count of these frames seems to be {unit:.2g}, by their noise: streams take counts. "
            f"Divide patterns by {unit:.2g} and the probe by its square root, or predict the whole "
            "scan at once."
        )


def _same(value: Any, saved: Any) -> bool:
    return torch.equal(value.cpu(), saved) if isinstance(value, Tensor) else bool(value == saved)


def as_tensor_of_counts(patterns: ArrayLike) -> Tensor:
    """(n, h, w) patterns in counts, in single precision on the CPU, checked.

    Raises
    ------
    ValueError
        If they are not real numbers of that rank, not finite or negative.
    """
    numbers = np.array(as_counts(patterns), dtype=np.float32)
    counts = torch.from_numpy(numbers)
    bad = ~torch.isfinite(counts) | (counts < 0)
    if bad.any():
        raise ValueError(
            f"patterns: {int(bad.any(dim=-1).any(dim=-1).sum())} of {len(counts)} frames have NaN, "
            "Inf or negative counts. Set these pixels to 0 and leave them out with "
            "valid_pixel_mask, or leave out the frames."
        )
    return counts / arbitrary_unit(numbers)
