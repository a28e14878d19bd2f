"""A training from its file to its results folder."""

import copy
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ptychi_neural import evaluation
from ptychi_neural.engine.ranks import join
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.physics.ranks import of_first
from ptychi_neural.runs.attend import any_interrupted, interruptible
from ptychi_neural.runs.folders import PROVENANCE, ResultsFolder, results_folder
from ptychi_neural.runs.launcher import is_silent
from ptychi_neural.runs.progress import (
    TIMES,
    Bar,
    say,
    tell,
    track_settings,
    what_fails_is_said,
    written_or_said,
)
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.run_file import beside_defaults
from ptychi_neural.runs.run_scan import load
from ptychi_neural.runs.training_file import ScanRun, TrainingFile
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.training import MultiscanTrainingWorkflow, TrainingScan

STATE = "state.safetensors"
"""All that a training goes on from."""

FILES = (
    *("generator-best.safetensors", "generator-last.safetensors", "training.csv", "training.png"),
    *(PROVENANCE, STATE, "train.toml"),
)
"""All that a training writes."""


@dataclass
class TrainingResult:
    """What a training has come to."""

    folder: Path
    """The results folder."""

    workflow: MultiscanTrainingWorkflow
    """The workflow in its last state."""

    stopped: str | None
    """What ended it before its last epoch: "interrupted", "patience"."""

    unsaved: list[str] = field(default_factory=list)
    """What could not be written."""


def train(
    training: TrainingFile,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show_progress: bool = True,
) -> TrainingResult:
    """Train a generator on many scans and write the results folder.

    The folder holds ``generator-best.safetensors``, ``generator-last.safetensors``,
    ``training.csv``, ``training.png``, ``train.toml`` (the training file with all defaults),
    ``provenance.json`` and ``state.safetensors``, from which a training is resumed. It grows while
    training goes on, hidden beside an earlier training that it will replace when it is complete.
    The first Ctrl-C ends it after the present scan, and what was done is kept. Of several processes
    of ``torchrun`` each has some frames of every scan, and the first writes and tells.

    Parameters
    ----------
    training : TrainingFile
        What to do. Without a ``random_seed`` one is drawn, and recorded.
    output_folder : str or Path, optional
        Takes the place of ``training.output_folder``.
    overwrite : bool
        Replace an earlier result.
    resume : bool
        Go on from the state in the folder, as if training had never ended.
    show_progress : bool
        Show a bar with epoch, loss, score and time left.

    Raises
    ------
    FileExistsError
        If the folder exists, and is neither to be replaced nor resumed.
    FileNotFoundError, ValueError
        If a scan cannot be read, options are refused, or the state to resume is missing or that of
        another training.
    FloatingPointError
        If the loss is not finite; the folder keeps what was saved last.
    """
    join()
    training = copy.deepcopy(training)
    named = training.output_folder = Path(output_folder or training.output_folder)
    reads = training.reads
    with results_folder(named, overwrite, resume=resume, in_place=True, reads=reads) as results:
        return _train(training, results, show_progress)


def _train(training: TrainingFile, results: ResultsFolder, show_progress: bool) -> TrainingResult:
    """Train in a folder that no other run writes to."""
    folder, earlier = results.temporary, results.earlier
    _set_seed(training, earlier)
    options = training.options.reconstructor_options
    workflow = MultiscanTrainingWorkflow(
        [_of_file(scan) for scan in training.scans],
        _of_file(training.validation),
        training.options,
        training.training.scans_in_memory,
    )
    if earlier is None and not is_silent():
        training.write(folder / "train.toml")
    elif earlier is not None and (earlier / STATE).is_file():
        workflow.load_state(earlier / STATE)
    elif earlier is not None:
        say("There is no saved state: the training begins anew, with the same seed.")

    device = torch.get_default_device()
    clock, stopped = time.perf_counter(), None
    unsaved: list[str] = []
    save_fails = False

    def write_provenance() -> None:
        if is_silent():
            return
        content = provenance(
            time.perf_counter() - clock,
            device,
            seed=options.random_seed,
            epochs=workflow.epoch,
            stopped=stopped,
            resumed=earlier is not None,
        )
        write_json(folder / PROVENANCE, content)

    write_provenance()
    best = results.folder / "generator-best.safetensors"
    tell(
        "started",
        pid=os.getpid(),
        reconstructor=options.get_reconstructor_type().value,
        options_class=type(training.options).__name__,
        num_epochs=options.num_epochs,
        num_scans=len(training.scans),
        product_output=str(best),
    )
    track_settings(beside_defaults(training.filled_in()))
    per_epoch = len(training.scans)
    bar = Bar(
        total=options.num_epochs * per_epoch,
        initial=workflow.epoch * per_epoch,
        disable=not show_progress,
        bar_format="{desc} |{bar:30}| " + TIMES,
    )
    with interruptible("the scan") as interrupted:
        with bar:
            while workflow.epoch < options.num_epochs:
                if workflow.out_of_patience:
                    stopped = "patience"
                    break
                bar.set_description_str(f"epoch {workflow.epoch + 1}/{options.num_epochs}", False)
                concluded = workflow.step()
                if concluded:
                    bar.set_postfix_str(_told(workflow, options.num_epochs), False)
                bar.update()
                is_due = workflow.epoch % training.training.checkpoint_stride == 0
                if concluded and is_due and not is_silent():
                    save_fails = _save_between(workflow, folder, save_fails)
                if any_interrupted(interrupted) and workflow.epoch < options.num_epochs:
                    stopped = "interrupted"
                    break
        if is_silent():
            return TrainingResult(folder, workflow, stopped)
        _save_generators_somewhere(workflow, folder)
        with written_or_said(STATE, unsaved):
            _save_course(workflow, folder)
        with written_or_said(PROVENANCE, unsaved):
            write_provenance()
        with what_fails_is_said("training.png", unsaved):
            evaluation.loss_figure(
                folder / "training.png", workflow.table[["epoch", "loss", "score"]], overwrite=True
            )
        if stopped != "interrupted" or folder == results.target:
            results.publish(FILES)
            folder = results.folder
        else:
            say(
                f"{results.folder} keeps the earlier training until this one is complete: --resume "
                f"goes on from {folder}."
            )
    tell(
        "finished",
        epoch=workflow.epoch,
        cancelled=stopped == "interrupted",
        path=str(best),
        stopped=stopped,
    )
    return TrainingResult(folder, workflow, stopped, unsaved)


def _told(workflow: MultiscanTrainingWorkflow, num_epochs: int) -> str:
    """Tell the events of an epoch that has ended, and give what a bar shows of it."""
    last, best = workflow.table.iloc[-1], workflow.best_score
    tell("epoch", epoch=workflow.epoch, num_epochs=num_epochs, loss=last.loss)
    tell("validation", epoch=workflow.epoch, score=last.score, best_score=best)
    return f"loss {last.loss:.4g}, score {last.score:.5g}, best {best:.5g}"


def _save_between(workflow: MultiscanTrainingWorkflow, folder: Path, fails: bool) -> bool:
    """Save between two epochs, and tell whether that fails. It does not end the training."""
    try:
        _save_generators(workflow, folder)
        _save_course(workflow, folder)
    except Exception as error:  # OSError, or what safetensors makes of it
        if not fails:
            say(f"warning: the training could not be saved after epoch {workflow.epoch}: {error}")
        return True
    tell("checkpoint", epoch=workflow.epoch, path=str(folder / STATE))
    return False


def _save_generators_somewhere(workflow: MultiscanTrainingWorkflow, folder: Path) -> None:
    """Save the generators of a training; on a full disk the best goes where there is room.

    Raises
    ------
    OSError
        If the generators cannot be written. The best lies in the system's temporary folder then.
    """
    try:
        _save_generators(workflow, folder)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="ptychi-neural-")) / "generator-best.safetensors"
        workflow.save_generator(elsewhere)
        failure = OSError(
            f"{folder}: the generators could not be written ({error}). The best is {elsewhere}."
        )
        failure.errno = error.errno
        raise failure from error


def _save_generators(workflow: MultiscanTrainingWorkflow, folder: Path) -> None:
    if not len(workflow.table):
        return
    for name in ("best", "last"):
        path = folder / f"generator-{name}.safetensors"
        workflow.save_generator(path, best=name == "best", overwrite=True)


def _save_course(workflow: MultiscanTrainingWorkflow, folder: Path) -> None:
    if not len(workflow.table):
        return
    with replacing(folder / "training.csv", overwrite=True) as temporary:
        workflow.table.astype({"epoch": int}).to_csv(temporary, index=False)
    workflow.save_state(folder / STATE)


def _set_seed(training: TrainingFile, earlier: Path | None) -> None:
    """Draw a seed where there is none; of a training to resume, take its own and compare both."""
    settings = training.options.reconstructor_options
    everywhere = [settings] + [
        cast(NeuralPtychographyOptions, scan.run.options).reconstructor_options
        for scan in (*training.scans, training.validation)
    ]
    seed = settings.random_seed
    if earlier is not None:
        if not (earlier / "train.toml").is_file():
            raise FileNotFoundError(f"{earlier}: holds no training to resume.")
        if seed is None:
            seed = training.seed_of(earlier / "train.toml")
    elif seed is None:
        seed = of_first(int(np.random.default_rng().integers(2**31)))
    for options in everywhere:
        options.random_seed = seed
    if earlier is not None and (different := training.differences(earlier / "train.toml")):
        raise ValueError(
            f"{earlier}: was trained with other {', '.join(different)}. Resume with the same, or "
            "train anew with --output FOLDER."
        )


def _of_file(scan: ScanRun) -> TrainingScan:
    options = cast(NeuralPtychographyOptions, scan.run.options)
    source = scan.run.simulation or (lambda: load(scan.run)[0])
    return TrainingScan(source, scan.fresh, options, scan.run.chosen)
