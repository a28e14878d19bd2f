"""The neural engine first, then another engine of pty-chi from its object and probe."""

import pandas as pd
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor

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
        return run_attended(second, show_progress)

    def _run_first(self, show_progress: bool) -> bool:
        first, checkpoints = self.tasks[0], self.checkpoints
        if checkpoints is None:
            return run_attended(first, show_progress)
        with checkpoints.kept(first):
            interrupted = run_attended(first, show_progress)
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
