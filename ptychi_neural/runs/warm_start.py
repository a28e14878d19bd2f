"""The neural engine first, then another engine of pty-chi from its object and probe."""

import math

import pandas as pd
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural.engine.misfit import is_far_worse, misfit_of_task
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.runs.attend import run_attended
from ptychi_neural.runs.checkpoints import Checkpoints


class NeuralWarmStartWorkflow:
    """Two tasks in a row on one scan: the second starts from what the first has found.

    Object, probe, positions and OPR mode weights are handed on by pty-chi's
    ``copy_data_from_task``.

    Parameters
    ----------
    first : PtychographyTask
        Usually of the neural engine: a short fit, or a trained generator (``generator.checkpoint``)
        with few epochs or none.
    second : PtychographyTask, optional
        Of any engine, for the same scan. None: the first task runs alone.
    checkpoints : Checkpoints, optional
        Saves the state of the first task every few minutes, and when it is done.

    Attributes
    ----------
    reached : PtychographyTask
        The task that ran last.
    """

    def __init__(
        self,
        first: PtychographyTask,
        second: PtychographyTask | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.tasks = (first,) if second is None else (first, second)
        self.checkpoints = checkpoints
        self.reached = first

    def run(self, show_progress: bool = True) -> bool:
        """Run all epochs of both tasks, or what is left of them; see ``run_attended``.

        Returns
        -------
        bool
            Whether the run was interrupted.
        """
        first, second = self.tasks[0], self.tasks[-1]
        if not self._is_done(first) and self._run_first(show_progress):
            return True
        if second is first:
            return False
        second.copy_data_from_task(first)
        self.reached = second
        return _run_watched(second, show_progress)

    def _run_first(self, show_progress: bool) -> bool:
        first, checkpoints = self.tasks[0], self.checkpoints
        if checkpoints is None:
            return _run_watched(first, show_progress)
        with checkpoints.kept(first):
            interrupted = _run_watched(first, show_progress)
        if interrupted:  # The latest checkpoint is of a run under way; what is left has ended.
            return True
        if len(self.tasks) > 1 and isinstance(first.reconstructor, NeuralReconstructor):
            checkpoints.save(first.reconstructor)
        return False

    @staticmethod
    def _is_done(task: PtychographyTask) -> bool:
        """Whether a task has taken up the state of a run that had ended."""
        reconstructor = task.reconstructor
        return (
            isinstance(reconstructor, NeuralReconstructor)
            and reconstructor.continuation is not None
            and not reconstructor.is_under_way
        )

    @property
    def losses(self) -> pd.DataFrame:
        """Columns ``task`` (0 or 1), ``epoch`` and ``loss`` of the epochs that have run."""
        parts = []
        for number, task in enumerate(self.tasks):
            assert isinstance(task.reconstructor, IterativeReconstructor)
            table = task.reconstructor.loss_tracker.table[["epoch", "loss"]]
            parts.append(table.astype({"epoch": int}).assign(task=number))
        return pd.concat(parts, ignore_index=True)[["task", "epoch", "loss"]]


def _run_watched(task: PtychographyTask, show_progress: bool) -> bool:
    """Run a task, see ``run_attended``. The neural engine keeps its best; others are watched.

    Raises
    ------
    FloatingPointError
        Also where the counts are predicted far worse in the end than before the first epoch.
    """
    if isinstance(task.reconstructor, NeuralReconstructor):
        return run_attended(task, show_progress)
    first = misfit_of_task(task)
    interrupted = run_attended(task, show_progress)
    last = misfit_of_task(task)
    # What has become NaN is named by whoever saves it.
    if not math.isnan(last) and is_far_worse(last, first) and not interrupted:
        raise FloatingPointError(
            f"The counts are predicted far worse than before the first epoch (squared errors of "
            f"amplitudes in units of noise: {last:.3g} instead of {first:.3g}). Likely causes: a "
            "step size or a batch that is too large, too few epochs, or another engine suits the "
            "scan better."
        )
    return interrupted
