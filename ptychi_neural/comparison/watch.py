"""Snapshots of a running task, taken while the engine's clock stands still."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask
from ptychi.device import AcceleratorModuleWrapper
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural.comparison.held_out_pixels import held_out_likelihood
from ptychi_neural.comparison.snapshots import Snapshot
from ptychi_neural.comparison.target import Target
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.runs.attend import after, run_attended
from ptychi_neural.runs.reconstruct import is_refined
from ptychi_neural.scans import Scan


class Watch:
    """A task with a clock that runs while the engine works, and stands while a snapshot is taken.

    Parameters
    ----------
    task : PtychographyTask
        A task that has not run.
    scan : Scan
        The scan with its counts at held-out pixels.
    held_out : ndarray
        (h, w) True at the pixels that the task does not see.
    target : Target, optional
        What objects are compared with.
    max_seconds : float, optional
        Wall time of the engine after which it is stopped. None: no limit.
    n_snapshots : int
        Approximate number of snapshots of the projections, and of the epochs.
    """

    def __init__(
        self,
        task: PtychographyTask,
        scan: Scan,
        held_out: NDArray[np.bool_],
        target: Target | None,
        max_seconds: float | None,
        n_snapshots: int,
    ) -> None:
        self.task = task
        self.scan = scan
        self.held_out = held_out
        self.target = target
        self.max_seconds = np.inf if max_seconds is None else max_seconds
        self.n_snapshots = n_snapshots
        self.epoch = 0
        self.seconds = 0.0
        self.lap = 0.0
        self.snapshots = [self._snapshot()]

    def run(self, show_progress: bool) -> str | None:
        """Run all projections and epochs, and return what ended them early, if anything did."""
        reconstructor = self.task.reconstructor
        assert isinstance(reconstructor, IterativeReconstructor)
        n_epochs, assembly_stride = self.task.reconstructor_options.num_epochs, 1
        n_total = n_epochs
        with ExitStack() as watched:
            if isinstance(reconstructor, NeuralReconstructor):
                n_projections = reconstructor.n_projections()
                n_total += n_projections
                assembly_stride = reconstructor.options.consistency.canvas_update_stride
                look = self._look(n_projections, n_total, finish=reconstructor.denoise_object)
                watched.enter_context(after(reconstructor, "run_post_projection_hooks", look))
                stop = self._stop_out_of_time
                watched.enter_context(after(reconstructor, "run_post_update_hooks", stop))
            look = self._look(n_epochs, n_total, assembly_stride)
            watched.enter_context(after(reconstructor, "run_post_epoch_hooks", look))
            self._lap()
            try:
                stopped = "interrupted" if run_attended(self.task, show_progress) else None
            except _OutOfTime:
                stopped = "out of time"
            except (_Diverged, FloatingPointError) as error:
                return str(error)
            except RuntimeError as error:  # memory, a singular matrix, what an engine cannot do
                return f"{type(error).__name__}: {error}"
        self.seconds += self._lap()
        if not np.array_equal(self.task.get_data_to_cpu("object", True), self.snapshots[-1].object):
            self.snapshots.append(self._snapshot())
        return stopped

    def _look(
        self,
        length: int,
        n_total: int,
        multiple_of: int = 1,
        finish: Callable[[], None] = lambda: None,
    ) -> Callable[[], None]:
        """Make the action that follows each of ``length`` iterations.

        It takes a snapshot at every so many of them, of what ``finish`` has made of the object.
        """
        stride = multiple_of * -(-length // (multiple_of * self.n_snapshots))
        n_done = 0

        def look() -> None:
            nonlocal n_done
            self.seconds += self._lap()
            n_done += 1
            self.epoch += 1
            for name in ("object", "probe"):
                if not self.task.get_data(name).isfinite().all():
                    raise _Diverged(f"the {name} became NaN or infinite in epoch {self.epoch}")
            if n_done % stride == 0:
                finish()
                self.snapshots.append(self._snapshot())
            if self.seconds >= self.max_seconds and self.epoch < n_total:
                raise _OutOfTime
            self._lap()

        return look

    def _stop_out_of_time(self) -> None:
        """Stop between two epochs, where projections without each split may take long."""
        if self.seconds + time.perf_counter() - self.lap >= self.max_seconds:
            raise _OutOfTime

    def _lap(self) -> float:
        """Seconds since the last lap."""
        accelerator = AcceleratorModuleWrapper.get_module()
        if accelerator.is_available():
            accelerator.synchronize()
        before, self.lap = self.lap, time.perf_counter()
        return self.lap - before

    def _snapshot(self) -> Snapshot:
        task, error = self.task, None
        object_, probe, positions, weights = (
            task.get_data(name).numpy(force=True).copy()
            for name in ("object", "probe", "probe_positions", "opr_mode_weights")
        )
        held_out = held_out_likelihood(
            object_, probe, positions, self.scan, self.held_out, task.options, weights
        )
        if self.target is not None:
            error = self.target.error(object_, self.scan, is_refined(task.options))
        return Snapshot(self.epoch, self.seconds, held_out, error, object_, probe, positions)


class _OutOfTime(Exception):
    """Raised when an engine's time is spent."""


class _Diverged(Exception):
    """Raised after the epoch in which the object or probe became NaN or infinite."""
