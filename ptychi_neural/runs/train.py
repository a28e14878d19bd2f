"""A training from its file to its results folder."""

import copy
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import tqdm

from ptychi_neural import evaluation
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.reconstruct import check_output_folder, load
from ptychi_neural.runs.training_file import ScanRun, TrainingFile
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.training import MultiscanTrainingWorkflow, TrainingScan


@dataclass
class TrainingResult:
    """What a training has come to."""

    folder: Path
    """The results folder."""

    workflow: MultiscanTrainingWorkflow
    """The workflow in its last state."""

    stopped: str | None
    """What ended it before its last epoch: "interrupted", "patience"."""


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
    training goes on. The first Ctrl-C ends it after the present scan, and what was done is kept.

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
    training = copy.deepcopy(training)
    folder = training.output_folder = Path(output_folder or training.output_folder)
    _set_seed(training, folder if resume else None)
    if not resume:
        check_output_folder(folder, overwrite)
    options = training.options.reconstructor_options
    workflow = MultiscanTrainingWorkflow(
        [_of_file(scan) for scan in training.scans],
        _of_file(training.validation),
        training.options,
        training.training.scans_in_memory,
    )
    if resume:
        workflow.load_state(folder / "state.safetensors")
    else:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        training.write(folder / "train.toml")

    device = torch.get_default_device()
    clock, stopped = time.perf_counter(), None

    def write_provenance() -> None:
        content = provenance(
            time.perf_counter() - clock,
            device,
            seed=options.random_seed,
            epochs=workflow.epoch,
            stopped=stopped,
            resumed=resume,
        )
        write_json(folder / "provenance.json", content)

    write_provenance()
    per_epoch = len(training.scans)
    bar = tqdm.tqdm(
        total=options.num_epochs * per_epoch,
        initial=workflow.epoch * per_epoch,
        disable=not show_progress,
        bar_format="{desc} |{bar:30}| {elapsed} gone, {remaining} left{postfix}",
    )
    with bar, interruptible("the scan") as interrupted:
        while workflow.epoch < options.num_epochs:
            if workflow.out_of_patience:
                stopped = "patience"
                break
            bar.set_description_str(f"epoch {workflow.epoch + 1}/{options.num_epochs}", False)
            concluded = workflow.step()
            bar.update()
            if concluded:
                last = workflow.table.iloc[-1]
                bar.set_postfix_str(
                    f"loss {last.loss:.4g}, score {last.score:.5g}, best {workflow.best_score:.5g}"
                )
                if workflow.epoch % training.training.checkpoint_stride == 0:
                    _save(workflow, folder)
            if interrupted() and workflow.epoch < options.num_epochs:
                stopped = "interrupted"
                break
    _save(workflow, folder)
    write_provenance()
    evaluation.loss_figure(
        folder / "training.png", workflow.table[["epoch", "loss", "score"]], overwrite=True
    )
    return TrainingResult(folder, workflow, stopped)


def _save(workflow: MultiscanTrainingWorkflow, folder: Path) -> None:
    if not len(workflow.table):
        return
    for name in ("best", "last"):
        path = folder / f"generator-{name}.safetensors"
        workflow.save_generator(path, best=name == "best", overwrite=True)
    with replacing(folder / "training.csv", overwrite=True) as temporary:
        workflow.table.astype({"epoch": int}).to_csv(temporary, index=False)
    workflow.save_state(folder / "state.safetensors")


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
        seed = int(np.random.default_rng().integers(2**31))
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
