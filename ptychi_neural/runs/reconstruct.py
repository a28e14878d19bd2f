"""One reconstruction from a run file to a results folder."""

import copy
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask

from ptychi_neural.counted import counted
from ptychi_neural.engine.ranks import go_on_alone, join
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.physics.ranks import RankLostError
from ptychi_neural.prediction.deviation_intervals import measure_intervals
from ptychi_neural.runs.attend import any_interrupted, interruptible
from ptychi_neural.runs.checkpoints import (
    CHECKPOINT,
    Checkpoints,
    check_same,
    load_checkpoint,
    take_seeds,
)
from ptychi_neural.runs.configuration import read_json
from ptychi_neural.runs.folders import PROVENANCE, ResultsFolder, results_folder
from ptychi_neural.runs.launcher import is_silent
from ptychi_neural.runs.live_figure import live_figure
from ptychi_neural.runs.messages import noted_warnings
from ptychi_neural.runs.output_formats import write_formats
from ptychi_neural.runs.partial_products import partial_products
from ptychi_neural.runs.progress import say, tell, track_settings
from ptychi_neural.runs.provenance import beginning, write_json
from ptychi_neural.runs.quality import in_register, object_metrics
from ptychi_neural.runs.ranks import (
    accompany,
    check_engine,
    deviation_of,
    draw_missing_seeds,
    has_deviation,
    needs_one_process,
)
from ptychi_neural.runs.result import (
    ReconstructionResult,
    check_room,
    draw,
    save,
    save_deviation,
    save_intervals,
    save_product,
    save_provenance,
    what_fails_is_told,
)
from ptychi_neural.runs.run_file import Refinement, RunFile, beside_defaults
from ptychi_neural.runs.run_scan import is_refined, load, reconstructed
from ptychi_neural.runs.warm_start import NeuralWarmStartWorkflow
from ptychi_neural.scans import Scan


def reconstruct(
    run: RunFile,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    resume: bool = False,
) -> ReconstructionResult:
    """Reconstruct a scan and write the results folder.

    Of several processes that ``torchrun`` has started the first does; the others compute along and
    end (``SystemExit``). An engine of pty-chi in ``[refine]`` runs in the first alone.

    The folder holds ``product.h5`` (ptychodus product, with ``object_std`` beside the object where
    a trained generator made it: how far its predictions disagree; with ``output.intervals``
    ``amplitude_interval``, ``phase_interval`` and the ``object_std`` that belongs to them),
    ``run.toml`` (the run file with all defaults, which gives this result again),
    ``provenance.json``, ``losses.csv``,
    ``loss.png``, ``figure.png``, ``generator.safetensors`` and ``validation.csv`` (neural engine)
    and ``metrics.json`` (where there is a ground truth or reference), and what
    ``run.output.formats`` asks for. It appears when complete.

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
    resume : bool
        Go on from the latest checkpoint of a run that was killed or interrupted, as if it had
        never ended. Without a checkpoint the run begins anew, with the same seed.

    Raises
    ------
    FileExistsError
        If the folder exists or another run writes to it, before anything is done.
    FileNotFoundError, ValueError
        If the scan cannot be read, engine and scan do not fit each other, or there is nothing to
        resume.
    OSError
        If the folder cannot be written, or the product could not be saved in it.
    FloatingPointError
        If nothing finite is left to save.
    """
    run = copy.deepcopy(run)
    run.output_folder = Path(output_folder or run.output_folder)
    join()
    check_engine(run)
    if is_silent():
        accompany(run, resume)
    with results_folder(run.output_folder, overwrite, resume=resume, reads=run.reads) as results:
        if results.earlier is not None:
            _check_unfinished(results)
            take_seeds(run, results.earlier)
        draw_missing_seeds(run)
        with noted_warnings() as notes:
            scan, reference = load(run)
        check_room(results.temporary, scan)
        first = build_task(run.options, scan, keep=run.chosen)
        second = None
        if run.refine is not None and not needs_one_process(run.refine.options):
            second = build_task(run.refine.options, scan)
        if results.earlier is not None:
            check_same(run, results.earlier)
            _go_on(results.earlier, first)
        _begin(results, run)
        tell(
            "started",
            pid=os.getpid(),
            reconstructor=run.options.reconstructor_options.get_reconstructor_type().value,
            options_class=type(run.options).__name__,
            num_epochs=run.options.reconstructor_options.num_epochs,
            num_patterns=len(scan.patterns),
            product_output=str(run.output_folder / "product.h5"),
        )
        track_settings(beside_defaults(run.filled_in()))
        with interruptible("the batch") as stop:
            checkpoints = Checkpoints(results.temporary, 60 * run.output.checkpoint_minutes)
            workflow = NeuralWarmStartWorkflow(first, second, checkpoints)
            result = _run_engines(run, workflow, scan, show_progress, results.temporary)
            _save(result, run, scan, results.temporary, reference, stop)
            write_formats(result, run.output.formats, results.temporary, scan, notes)
            if result.stopped != "interrupted":
                (results.temporary / CHECKPOINT).unlink(missing_ok=True)
            results.publish()
        tell(
            "finished",
            epoch=len(result.losses),
            cancelled=result.stopped == "interrupted",
            path=str(run.output_folder / "product.h5"),
            stopped=result.stopped,
        )
    return result


def _check_unfinished(results: ResultsFolder) -> None:
    """Check that the run to resume was killed or interrupted."""
    assert results.earlier is not None
    path = results.earlier / PROVENANCE
    told = read_json(path) if path.is_file() else {}
    if results.earlier == results.target and told.get("stopped") != "interrupted":
        raise ValueError(f"{results.folder}: is complete, --overwrite reconstructs it anew.")


def _begin(results: ResultsFolder, run: RunFile) -> None:
    """Write what tells a run that is killed, or take over what one has left."""
    if results.earlier == results.temporary:
        return
    run.write(results.temporary / "run.toml")
    write_json(results.temporary / PROVENANCE, beginning())
    if results.earlier is not None and (results.earlier / CHECKPOINT).is_file():
        shutil.copy(results.earlier / CHECKPOINT, results.temporary)


def _go_on(earlier: Path, task: PtychographyTask) -> None:
    if load_checkpoint(earlier, task):
        reconstructor = task.reconstructor
        assert isinstance(reconstructor, NeuralReconstructor)
        left, after_what = reconstructor.start.left, f"epoch {reconstructor.current_epoch}"
        if left is not None:
            after_what = f"iteration {left['n_done']} of an initial reconstruction"
        say(f"Going on after {after_what}.")
    else:
        say("There is no checkpoint: the run begins anew, with the same seed.")


def _run_engines(
    run: RunFile,
    workflow: NeuralWarmStartWorkflow,
    scan: Scan,
    show_progress: bool,
    folder: Path,
) -> ReconstructionResult:
    """Run the engine and that of ``[refine]``; a divergence is an error if nothing finite is left.

    Raises
    ------
    FloatingPointError
        If object, probe, positions or weights are not finite.
    """
    clock = time.perf_counter()
    try:
        with _shown(run, workflow, scan, folder):
            was_interrupted = workflow.run(show_progress)
        if run.refine is not None and len(workflow.tasks) == 1 and not was_interrupted:
            workflow = _handed_on(workflow, run.refine, scan)
            with _shown(run, workflow, scan, folder):
                was_interrupted = workflow.run(show_progress)
        stopped = "interrupted" if was_interrupted else None
    except (FloatingPointError, RankLostError) as error:
        stopped = str(error)
    for name in ("object", "probe", "probe_positions", "opr_mode_weights"):
        if not workflow.reached.get_data(name).isfinite().all():
            raise FloatingPointError(
                stopped
                or f"The {name} became NaN or infinite. Likely causes: a step size that is "
                "too large, or data that are not counts."
            )
    seconds = time.perf_counter() - clock

    engines = [stage.engine for stage in run.stages]
    losses = workflow.losses
    n_epochs = [int((losses.task == number).sum()) for number in range(len(engines))]
    how = ", then ".join(
        f"{engine}, {counted(n, 'epochs')}" for engine, n in zip(engines, n_epochs)
    )
    if run.refine is not None:
        losses["engine"] = losses.task.map(dict(enumerate(engines)))
        losses["epoch"] = range(len(losses))
    return ReconstructionResult(
        folder=run.output_folder,
        task=workflow.reached,
        first_task=workflow.tasks[0],
        scan=reconstructed(scan, workflow.reached, how),
        losses=losses.drop(columns="task"),
        stopped=stopped,
        seconds=seconds,
        standard_deviation=None,
        intervals=None,
        metrics=None,
    )


@contextmanager
def _shown(
    run: RunFile, workflow: NeuralWarmStartWorkflow, scan: Scan, folder: Path
) -> Iterator[None]:
    """Show a workflow while it runs, where the run file asks for it."""
    with ExitStack() as shown:
        if run.output.product_epochs:
            products = partial_products(workflow.tasks, scan, folder, run.output.product_epochs)
            shown.enter_context(products)
        if run.output.live_figure_seconds:
            path = run.output_folder.with_name(f"{run.output_folder.name}.live.png")
            every_s = run.output.live_figure_seconds
            shown.enter_context(live_figure(workflow.tasks, scan, path, every_s))
        yield


def _handed_on(
    workflow: NeuralWarmStartWorkflow, refine: Refinement, scan: Scan
) -> NeuralWarmStartWorkflow:
    """What goes on in one process of several, when its task is done."""
    first = workflow.reached
    assert isinstance(first.reconstructor, NeuralReconstructor)
    if workflow.checkpoints is not None:
        workflow.checkpoints.save(first.reconstructor)
    go_on_alone()
    return NeuralWarmStartWorkflow(first, build_task(refine.options, scan))


def _save(
    result: ReconstructionResult,
    run: RunFile,
    scan: Scan,
    folder: Path,
    reference: NDArray[np.complexfloating] | None,
    stop: Callable[[], bool],
) -> None:
    """Save the product first, then all that can be had without, of which nothing ends the run."""
    save_product(result, folder)
    save(result, run, folder)
    for what, add in _parts_that_take_a_while(run, result.task).items():
        if any_interrupted(stop):  # Who stops a run may not wait.
            result.stopped = result.stopped or "interrupted"
            save_provenance(result, run, folder)
            break
        with what_fails_is_told(result, what, is_needed=False):
            add(result, run, scan, folder)
    if reference is not None:
        with what_fails_is_told(result, "metrics.json", is_needed=False):
            found = result.scan
            refined = any(is_refined(stage.options) for stage in run.stages)
            free = run.simulation is None or refined
            compared = in_register(found.object, reference, found.positions_px, free)
            result.metrics = object_metrics(*compared, free)
            write_json(folder / "metrics.json", result.metrics)
    draw(result, run, folder)


def _parts_that_take_a_while(
    run: RunFile, task: PtychographyTask
) -> dict[str, Callable[[ReconstructionResult, RunFile, Scan, Path], None]]:
    """What is added to the product of a trained generator, and where the run file asks for it."""
    parts: dict[str, Callable[[ReconstructionResult, RunFile, Scan, Path], None]] = {}
    if run.output.intervals:
        parts["intervals"] = _add_intervals
    elif has_deviation(task):
        parts["object_std"] = _add_deviation
    return parts


def _add_deviation(result: ReconstructionResult, run: RunFile, scan: Scan, folder: Path) -> None:
    """Add the disagreement of the generator's predictions, where there is any."""
    standard_deviation = deviation_of(result.task).numpy(force=True)
    if not np.isnan(standard_deviation).all():
        result.standard_deviation = standard_deviation
    save_deviation(result, folder)


def _add_intervals(result: ReconstructionResult, run: RunFile, scan: Scan, folder: Path) -> None:
    """Add the intervals of amplitude and phase."""
    result.intervals = measure_intervals(result.first_task, run.options, scan, run.chosen)
    result.standard_deviation = result.intervals.standard_deviation
    save_intervals(result, folder)
