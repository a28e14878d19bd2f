"""One reconstruction from a run file to a results folder."""

import copy
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.prediction import deviation
from ptychi_neural.runs.folders import check_output_folder, new_folder
from ptychi_neural.runs.messages import noted_warnings
from ptychi_neural.runs.output_formats import write_formats
from ptychi_neural.runs.provenance import write_json
from ptychi_neural.runs.quality import in_register, object_metrics
from ptychi_neural.runs.result import ReconstructionResult, draw, save
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import is_refined, load, reconstructed
from ptychi_neural.runs.warm_start import NeuralWarmStartWorkflow
from ptychi_neural.scans import Scan


def reconstruct(
    run: RunFile,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ReconstructionResult:
    """Reconstruct a scan and write the results folder.

    The folder holds ``product.h5`` (ptychodus product, with ``object_std`` beside the object where
    a trained generator made it: how far its predictions disagree), ``run.toml`` (the run file with
    all defaults, which gives this result again), ``provenance.json``, ``losses.csv``,
    ``loss.png``, ``figure.png``, ``generator.safetensors`` and ``validation.csv`` (neural engine)
    and ``metrics.json`` (where there is a ground truth or reference), and what ``run.formats``
    asks for. It appears when complete.

    Parameters
    ----------
    run : RunFile
        What to do. Without a ``random_seed`` one is drawn, and recorded.
    output_folder : str or Path, optional
        Takes the place of ``run.output_folder``.
    overwrite : bool
        Replace an earlier result.
    show_progress : bool
        Show a bar with epoch, loss and time left.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If the scan cannot be read, or engine and scan do not fit each other.
    """
    run = copy.deepcopy(run)
    run.output_folder = Path(output_folder or run.output_folder)
    check_output_folder(run.output_folder, overwrite)
    _draw_missing_seeds(run)
    with noted_warnings() as notes:
        scan, reference = load(run)
    result = _run_engines(run, scan, show_progress)
    with new_folder(run.output_folder, overwrite) as folder:
        save(result, run, folder)
        if reference is not None:
            found = result.scan
            refined = any(is_refined(stage.options) for stage in run.stages)
            free = run.simulation is None or refined
            compared = in_register(found.object, reference, found.positions_px, free)
            result.metrics = object_metrics(*compared, free)
            write_json(folder / "metrics.json", result.metrics)
        draw(result, run, folder)
        write_formats(run.formats, result.scan, folder, scan, notes)
    return result


def _draw_missing_seeds(run: RunFile) -> None:
    drawn = int(np.random.default_rng().integers(2**31))
    for stage in run.stages:
        if stage.options.reconstructor_options.random_seed is None:
            stage.options.reconstructor_options.random_seed = drawn


def _run_engines(run: RunFile, scan: Scan, show_progress: bool) -> ReconstructionResult:
    """Run the engine and that of ``[refine]``; a divergence is an error if nothing finite is left.

    Raises
    ------
    FloatingPointError
        If the loss and the object are not finite.
    """
    first = build_task(run.options, scan, keep=run.chosen)
    second = None if run.refine is None else build_task(run.refine.options, scan)
    workflow = NeuralWarmStartWorkflow(first, second)
    clock = time.perf_counter()
    try:
        stopped = "interrupted" if workflow.run(show_progress) else None
    except FloatingPointError as error:
        if not workflow.reached.get_data("object").isfinite().all():
            raise
        stopped = str(error)
    seconds = time.perf_counter() - clock

    engines = [stage.engine for stage in run.stages]
    losses = workflow.losses
    n_epochs = [int((losses.task == number).sum()) for number in range(len(engines))]
    how = ", then ".join(f"{engine}, {n} epochs" for engine, n in zip(engines, n_epochs))
    if run.refine is not None:
        losses["engine"] = losses.task.map(dict(enumerate(engines)))
        losses["epoch"] = range(len(losses))
    return ReconstructionResult(
        folder=run.output_folder,
        task=workflow.reached,
        first_task=first,
        scan=reconstructed(scan, workflow.reached, how),
        losses=losses.drop(columns="task"),
        stopped=stopped,
        seconds=seconds,
        standard_deviation=_disagreement(workflow.reached),
        metrics=None,
    )


def _disagreement(task: PtychographyTask) -> NDArray[np.floating] | None:
    """(H, W) disagreement of a trained generator's predictions; None where there is none."""
    reconstructor = task.reconstructor
    if not isinstance(reconstructor, NeuralReconstructor) or not reconstructor.is_trained:
        return None
    of_object = deviation(reconstructor.generator, reconstructor.scan, reconstructor.start)
    standard_deviation = of_object.numpy(force=True)
    return None if np.isnan(standard_deviation).all() else standard_deviation
