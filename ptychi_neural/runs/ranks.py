"""A reconstruction in several processes of ``torchrun``: what all but the first of them do."""

import sys

import numpy as np
from ptychi.api.task import PtychographyTask
from torch import Tensor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.physics.ranks import RankLostError, has_left, rank, summed_numbers
from ptychi_neural.prediction import deviation
from ptychi_neural.runs.attend import any_interrupted, interruptible, run_attended
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import load


def check_launched(run: RunFile, resume: bool) -> None:
    """Refuse what is done in one process.

    Raises
    ------
    ValueError
        Naming it.
    """
    one_process = {
        "--resume": resume,
        "[refine]": run.refine is not None,
        "output.intervals": run.output.intervals,
    }
    for name, is_asked_for in one_process.items():
        if is_asked_for:
            raise ValueError(f"{name}: needs one process; leave it out, or start without torchrun.")


def draw_missing_seeds(run: RunFile) -> None:
    """Give engines without a seed one, which is that of the first process."""
    drawn = int(np.random.default_rng().integers(2**31))
    (seed,) = summed_numbers(drawn if rank() == 0 else 0)
    for stage in run.stages:
        if stage.options.reconstructor_options.random_seed is None:
            stage.options.reconstructor_options.random_seed = int(seed)


def accompany(run: RunFile) -> None:
    """Compute along with the first process, which writes and tells, and end.

    Raises
    ------
    SystemExit
        When the reconstruction has ended, with 1 if it failed. What has failed here and nowhere
        else is told on stderr.
    """
    draw_missing_seeds(run)
    scan, _ = load(run)
    task = build_task(run.options, scan, keep=run.chosen)
    del scan  # The task has its share of the patterns.
    number, failed = rank(), False
    try:
        with interruptible("the batch") as stop:
            try:
                run_attended(task, show_progress=False)
            except FloatingPointError:  # The first process sees it too.
                failed = True
            if has_deviation(task) and not any_interrupted(stop):
                deviation_of(task)
    except RankLostError:
        raise SystemExit(1) from None
    except Exception as error:
        told = f"error in process {number}: {type(error).__name__}: {error}\n"
        (sys.__stderr__ or sys.stderr).write(told)
        raise SystemExit(1) from error
    raise SystemExit(int(failed))


def has_deviation(task: PtychographyTask) -> bool:
    """Whether the predictions that make up the object of a task can be compared: a generator made
    them, and all processes that have the patterns are there."""
    reconstructor = task.reconstructor
    return (
        isinstance(reconstructor, NeuralReconstructor)
        and reconstructor.is_trained
        and not has_left()
    )


def deviation_of(task: PtychographyTask) -> Tensor:
    """(H, W) disagreement of the predictions that make up the object, for which all processes have
    to ask."""
    reconstructor = task.reconstructor
    assert isinstance(reconstructor, NeuralReconstructor)
    return deviation(reconstructor.generator, reconstructor.scan, reconstructor.start)
