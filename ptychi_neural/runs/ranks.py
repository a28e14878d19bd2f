"""Commands in several processes of ``torchrun``: what all but the first of them do."""

import dataclasses

import numpy as np
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask
from torch import Tensor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.physics.ranks import has_left, leave, n_ranks, of_first
from ptychi_neural.prediction import deviation
from ptychi_neural.prediction.deviation_intervals import measure_intervals
from ptychi_neural.runs.attend import any_interrupted, interruptible
from ptychi_neural.runs.checkpoints import load_checkpoint
from ptychi_neural.runs.folders import results_folder
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import load
from ptychi_neural.runs.warm_start import NeuralWarmStartWorkflow


def needs_one_process(options: PtychographyTaskOptions) -> bool:
    """Whether an engine runs in one process, and there are several."""
    return n_ranks() > 1 and not isinstance(options, NeuralPtychographyOptions)


def check_engine(run: RunFile) -> None:
    """Refuse an engine that runs in one process, where there are several.

    Raises
    ------
    ValueError
        Naming it.
    """
    if needs_one_process(run.options):
        raise ValueError(
            f"engine = {run.stages[0].engine!r}: needs one process, not {n_ranks()}; start without "
            "torchrun."
        )


def draw_missing_seeds(run: RunFile) -> None:
    """Give engines without a seed one; all processes have those of the first."""
    everywhere = [stage.options.reconstructor_options for stage in run.stages]
    drawn = int(np.random.default_rng().integers(2**31))
    seeds = [drawn if each.random_seed is None else each.random_seed for each in everywhere]
    for each, seed in zip(everywhere, of_first(seeds)):
        each.random_seed = seed


def accompany(run: RunFile, resume: bool) -> None:
    """Compute along with the first process, which writes and tells, and end.

    Raises
    ------
    SystemExit
        When the reconstruction has ended, with 1 if it failed.
    """
    with results_folder(run.output_folder, resume=resume) as results:
        draw_missing_seeds(run)
    scan, _ = load(run)
    first = build_task(run.options, scan, keep=run.chosen)
    second = None
    if run.refine is not None and not needs_one_process(run.refine.options):
        second = build_task(run.refine.options, scan)
    # Each task has its share of the patterns.
    scan = dataclasses.replace(scan, patterns=np.empty((0, *scan.patterns.shape[1:])))
    if results.earlier is not None:
        load_checkpoint(results.earlier, first)
    workflow, failed = NeuralWarmStartWorkflow(first, second), False
    with interruptible("the batch") as stop:
        try:
            workflow.run(show_progress=False)
        except FloatingPointError:  # The first process sees it too.
            failed = True
        is_last = run.refine is None or second is not None
        wanted = run.output.intervals or has_deviation(workflow.reached)
        if is_last and wanted and not any_interrupted(stop):
            try:
                if run.output.intervals:
                    measure_intervals(first, run.options, scan, run.chosen)
                else:
                    deviation_of(workflow.reached)
            except Exception:  # The first process tells it, or saves what it has without.
                leave()
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
