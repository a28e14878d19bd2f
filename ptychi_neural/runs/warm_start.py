"""The neural engine first, then another engine of pty-chi from its object and probe."""

import pandas as pd
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural.runs.attend import run_attended


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

    Attributes
    ----------
    reached : PtychographyTask
        The task that ran last.
    """

    def __init__(self, first: PtychographyTask, second: PtychographyTask | None = None) -> None:
        self.tasks = (first,) if second is None else (first, second)
        self.reached = first

    def run(self, show_progress: bool = True) -> bool:
        """Run all epochs of both tasks; see ``run_attended``.

        Returns
        -------
        bool
            Whether the run was interrupted.
        """
        first, second = self.tasks[0], self.tasks[-1]
        interrupted = run_attended(first, show_progress)
        if interrupted or second is first:
            return interrupted
        second.copy_data_from_task(first)
        self.reached = second
        return run_attended(second, show_progress)

    @property
    def losses(self) -> pd.DataFrame:
        """Columns ``task`` (0 or 1), ``epoch`` and ``loss`` of the epochs that have run."""
        parts = []
        for number, task in enumerate(self.tasks):
            assert isinstance(task.reconstructor, IterativeReconstructor)
            table = task.reconstructor.loss_tracker.table[["epoch", "loss"]]
            parts.append(table.astype({"epoch": int}).assign(task=number))
        return pd.concat(parts, ignore_index=True)[["task", "epoch", "loss"]]
