"""One generator trained on many scans, without ground truth."""

import contextlib
import copy
import hashlib
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import tqdm
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.ad_ptychography import AutodiffPtychographyReconstructor

import ptychi_neural.api as napi
from ptychi_neural import evaluation
from ptychi_neural.engine.parameters import GeneratorParameter
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.state import (
    State,
    optimizer_state,
    random_state,
    random_state_kept,
    read_state,
    reconstructor_state,
    restore_optimizer,
    restore_random_state,
    restore_reconstructor,
    write_state,
)
from ptychi_neural.generators import Unrolled
from ptychi_neural.generators.files import check_patch_shape, save_generator
from ptychi_neural.physics.forward_model import ScanOperators
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.reconstruct import build_task, check_output_folder, load
from ptychi_neural.runs.run_file import DataSection, RunFile
from ptychi_neural.runs.training_file import Fresh, ScanRun, TrainingFile
from ptychi_neural.scans import Scan
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.simulation import SimulationOptions

STATE_KIND = "training on many scans"
VALIDATION = "validation"


@dataclass(frozen=True)
class TrainingScan:
    """One scan of a training."""

    source: Scan | SimulationOptions | DataSection
    """A scan in memory, a recipe, or files that are read when they are needed."""

    fresh: Fresh | None = None
    """What of a recipe is drawn anew in every epoch: ``"object"``, with its jitter and noise, or
    ``"noise"`` alone, as if the same scan were exposed again."""

    options: napi.NeuralPtychographyOptions | None = None
    """Options of this scan's task; None: those that all share."""

    keep: frozenset[str] = frozenset()
    """Options that do not come from the scan, see ``build_task``."""


class MultiscanTrainingWorkflow:
    """Trains one generator on any number of scans, each a task of the neural engine.

    In an epoch every scan has one epoch of its own, in an order that is drawn anew; each batch
    steps the shared generator, and the probe, positions and scale of its scan as the options say.
    Projections are made once for each scan, or for each draw of a fresh one. The generator's
    scheduler steps once an epoch. After each epoch a scan that is not trained on is given to the
    generator, unfitted; the loss there is the score. Where pixels are split, those of each split
    are predicted from the others.

    Parameters
    ----------
    scans : sequence of TrainingScan, Scan or SimulationOptions
        Scans to train on; frames of one shape, objects of one number of slices.
    validation : TrainingScan, Scan or SimulationOptions
        The scan that is not trained on.
    options : NeuralPtychographyOptions
        Options of all tasks. ``num_epochs`` is that of ``run()``, ``validation.patience`` the
        epochs without a better score after which training ends.
    scans_in_memory : int
        Scans whose data are kept in memory. Of the others only what was fitted is kept; their data
        are read or simulated again when their turn comes.

    Attributes
    ----------
    table : DataFrame
        Columns ``epoch``, ``loss`` (of ``displayed_loss_function``, mean over the scans),
        ``score`` (of ``loss_function``) and ``seconds``. Epoch 0 has the score of the start,
        without a network.
    epoch : int
        Number of epochs that are done.
    best_score, best_epoch : float, int
        The lowest score, and when it was reached.

    Raises
    ------
    ValueError
        If options or data are refused, or the scans cannot share a generator.
    """

    def __init__(
        self,
        scans: Sequence[TrainingScan | Scan | SimulationOptions],
        validation: TrainingScan | Scan | SimulationOptions,
        options: napi.NeuralPtychographyOptions,
        scans_in_memory: int = 8,
    ) -> None:
        if not scans:
            raise ValueError("scans: give at least one scan to train on.")
        self.scans = {str(i): _training_scan(scan) for i, scan in enumerate(scans)}
        self.scans[VALIDATION] = _training_scan(validation)
        self.options = options
        self.scans_in_memory = scans_in_memory
        self._check()
        self.epoch = 0
        self.table = pd.DataFrame(columns=["epoch", "loss", "score", "seconds"])
        self.best_score, self.best_epoch = math.inf, 0
        self._best: dict[str, torch.Tensor] = {}
        self._losses: dict[str, float] = {}
        self._seconds = 0.0
        self._described: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, PtychographyTask] = {}
        self._states: dict[str, State] = {}
        first = _reconstructor(self._new_task("0", seed=True))
        self.generator = GeneratorParameter(
            first.parameter_group.generator.network, options.reconstructor_options.generator
        )

    def _check(self) -> None:
        for name, scan in self.scans.items():
            if scan.fresh and not isinstance(scan.source, SimulationOptions):
                raise ValueError(f"scan {name}: fresh needs SimulationOptions to draw from.")
        for options in (self.options, *(scan.options for scan in self.scans.values())):
            if options is not None and options.reconstructor_options.validation.held_out != 0:
                raise ValueError(
                    "reconstructor_options.validation.held_out: set it to 0; in training the "
                    "validation scan tells what is best."
                )

    # --- training --------------------------------------------------------------------------

    def run(self, n_epochs: int | None = None) -> None:
        """Train for more epochs, fewer if patience ends; None: ``num_epochs`` of the options."""
        if n_epochs is None:
            n_epochs = self.options.reconstructor_options.num_epochs
        last = self.epoch + n_epochs
        while self.epoch < last and not self.out_of_patience:
            self.step()

    @property
    def out_of_patience(self) -> bool:
        """Whether the score has not fallen for too long."""
        patience = self.options.reconstructor_options.validation.patience
        return patience is not None and self.epoch - self.best_epoch >= patience

    def step(self) -> bool:
        """Train on the next scan.

        Returns
        -------
        bool
            Whether this was the last scan of an epoch.
        """
        clock = time.perf_counter()
        if len(self.table) == 0:
            self._fit_normalization()
            self._score(math.nan, clock)
            clock = time.perf_counter()
        left = [name for name in self._order() if name not in self._losses]
        reconstructor = self._started(left[0])
        AutodiffPtychographyReconstructor.run(reconstructor, 1)
        self._losses[left[0]] = float(reconstructor.loss_tracker.table.loss.iloc[-1])
        if self.scans[left[0]].fresh:
            del self._tasks[left[0]]
        if len(left) > 1:
            self._seconds += time.perf_counter() - clock
            return False
        self.generator.step_step_size_scheduler(epoch=self.epoch)
        self.epoch += 1
        loss = float(np.mean([self._losses[name] for name in sorted(self._losses)]))
        self._losses = {}
        self._score(loss, clock)
        return True

    def _order(self) -> list[str]:
        seed = self.options.reconstructor_options.random_seed or 0
        names = [name for name in self.scans if name != VALIDATION]
        return [names[i] for i in np.random.default_rng([seed, self.epoch]).permutation(len(names))]

    def _fit_normalization(self) -> None:
        """Once, of the starts: an unrolled generator's of the first scan, others' of all."""
        if self.options.reconstructor_options.generator.checkpoint is not None:
            return
        network = self.generator.network
        if isinstance(network, Unrolled):
            model = self._started("0").model
            network.fit_normalization(ScanOperators(model, model.everything))
            return
        network.fit_normalization(
            reconstructor.model.generator_features(batch).detach()
            for name in self.scans
            if name != VALIDATION
            for reconstructor in [self._started(name)]
            for batch in reconstructor.model.everything.split(reconstructor.batch_size)
        )

    def _score(self, loss: float, clock: float) -> None:
        """Let the held-out scan judge the generator, and keep the best."""
        reconstructor = self._started(VALIDATION)
        reconstructor.current_epoch = self.epoch
        score = reconstructor.prediction_loss()
        if score < self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self._best = {
                k: v.detach().clone() for k, v in self.generator.network.tensors().items()
            }
        self._seconds += time.perf_counter() - clock
        self.table.loc[len(self.table)] = [self.epoch, loss, score, self._seconds]

    # --- tasks -----------------------------------------------------------------------------

    def _started(self, name: str) -> NeuralReconstructor:
        """The reconstructor of a scan after its projections, as its last epoch left it."""
        if name in self._tasks:
            self._tasks[name] = self._tasks.pop(name)  # The latest come last.
            return _reconstructor(self._tasks[name])
        self._make_room()
        reconstructor = _reconstructor(self._new_task(name))
        state = self._states.pop(name, None)
        if state is not None:
            restore_reconstructor(reconstructor, state)
            return reconstructor
        reconstructor.begin_run()
        if self.scans[name].fresh:
            self._start_fresh(reconstructor)
        else:
            reconstructor.run_start(with_splits=True)
        return reconstructor

    def _start_fresh(self, reconstructor: NeuralReconstructor) -> None:
        """Only the projections that the one epoch of this draw, and normalisation, ask for."""
        model = reconstructor.model
        unprojected, pixels = model.start_object, model.pixels
        reconstructor.current_epoch = self.epoch
        first = len(self.table) == 0
        if pixels is None or first or reconstructor.parameter_group.probe.optimizable:
            reconstructor.run_start(with_splits=False)
        if pixels is not None and reconstructor.options.start.n_iterations != 0:
            reconstructor.project(self.epoch % pixels.n_splits, unprojected)

    def _make_room(self) -> None:
        trained = [name for name in self._tasks if name != VALIDATION]
        for name in trained[: max(0, len(trained) - self.scans_in_memory + 1)]:
            task = self._tasks.pop(name)
            if not self.scans[name].fresh:
                self._states[name] = reconstructor_state(_reconstructor(task), generator=False)

    def _new_task(self, name: str, seed: bool = False) -> PtychographyTask:
        """A task with the shared generator. The first seeds all random numbers, others none."""
        scan = self.scans[name]
        options = copy.deepcopy(scan.options or self.options)
        data = self._load(scan, options)
        with contextlib.nullcontext() if seed else random_state_kept():
            task = build_task(options, data, scan.keep)
        self._described[name] = {
            "name": data.name,
            "pixel_size_m": data.pixel_size_m,
            "wavelength_m": data.wavelength_m,
            "probe_sha256": hashlib.sha256(data.probe.astype(np.complex64).tobytes()).hexdigest(),
        }
        if seed:
            return task
        group, network = _reconstructor(task).parameter_group, self.generator.network
        if different := self.generator.options.different_structure(group.generator.options):
            raise ValueError(
                f"Scan {name} ({data.name}): its generator has other {', '.join(different)}."
            )
        if group.object.n_slices != network.n_slices:
            raise ValueError(
                f"Scan {name} ({data.name}): its object has {group.object.n_slices} slices, the "
                f"first scan's {network.n_slices}. Scans that share a generator need the same."
            )
        patch_shape = tuple(group.probe.get_spatial_shape())
        check_patch_shape(self.generator.options, network.patch_shape, patch_shape)
        group.generator.network = network
        group.generator.optimizer = self.generator.optimizer
        group.generator.step_size_scheduler = None  # It steps once an epoch of all.
        self._tasks[name] = task
        return task

    def _load(self, scan: TrainingScan, options: napi.NeuralPtychographyOptions) -> Scan:
        source = scan.source
        if isinstance(source, Scan):
            return source
        run = RunFile("neural", options)
        if isinstance(source, SimulationOptions):
            if scan.fresh:
                seed = np.random.SeedSequence((source.seed, self.epoch)).generate_state(1)[0]
                name = "seed" if scan.fresh == "object" else "noise_seed"
                source = source.model_copy(update={name: int(seed)})
            run.simulation = source
        else:
            run.data = source
        return load(run)[0]

    # --- saving ----------------------------------------------------------------------------

    def save_generator(self, path: str | Path, best: bool = True, overwrite: bool = False) -> None:
        """Save the generator with a summary of its training as metadata.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file.
        best : bool
            The generator with the lowest score; False: the last.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.
        ValueError
            If the best is asked for before anything was scored.
        """
        network, epochs = self.generator.network, self.epoch
        score = float(self.table.score.iloc[-1]) if len(self.table) else math.nan
        if best:
            if not self._best:
                raise ValueError("There is no best generator yet: train first.")
            network, epochs, score = copy.deepcopy(network), self.best_epoch, self.best_score
            network.load_tensors(self._best)
        scans = dict(sorted(self._described.items()))
        validation = scans.pop(VALIDATION, None)
        save_generator(
            path,
            network,
            self.options.reconstructor_options,
            overwrite=overwrite,
            epochs=epochs,
            score=score,
            scans=list(scans.values()),
            validation=validation,
        )

    def save_state(self, path: str | Path) -> None:
        """Save all that training goes on from, in the place of an earlier state.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file, replaced in one step.
        """
        live = {
            name: reconstructor_state(_reconstructor(task), generator=False)
            for name, task in self._tasks.items()
            if not self.scans[name].fresh
        }
        state = {
            "epoch": self.epoch,
            "losses": self._losses,
            "seconds": self._seconds,
            "table": self.table.to_dict("list"),
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best": self._best,
            "described": self._described,
            "generator": self.generator.network.tensors(),
            "optimizer": optimizer_state(self.generator),
            "scans": self._states | live,
            "random": random_state(),
        }
        write_state(path, STATE_KIND, state)

    def load_state(self, path: str | Path) -> None:
        """Go on from a saved state, as if training had never ended.

        Parameters
        ----------
        path : str or Path
            The file, of a workflow with the same scans and options.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no such state, or the generator has other options.
        """
        state = read_state(path, STATE_KIND)
        unknown = set(state["described"]) - set(self.scans)
        if unknown:
            raise ValueError(f"{path}: has scans {sorted(unknown)} that this training has not.")
        self.generator.network.load_tensors(state["generator"])
        restore_optimizer(self.generator, state["optimizer"])
        self.epoch, self._losses = state["epoch"], state["losses"]
        self._seconds = state["seconds"]
        if state["table"]["epoch"]:
            self.table = pd.DataFrame(state["table"])
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self._best, self._described = state["best"], state["described"]
        self._tasks, self._states = {}, state["scans"]
        restore_random_state(state["random"])


def _training_scan(scan: TrainingScan | Scan | SimulationOptions) -> TrainingScan:
    return scan if isinstance(scan, TrainingScan) else TrainingScan(scan)


def _reconstructor(task: PtychographyTask) -> NeuralReconstructor:
    return cast(NeuralReconstructor, task.reconstructor)


# --- a training file ---------------------------------------------------------------------------


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
        cast(napi.NeuralPtychographyOptions, scan.run.options).reconstructor_options
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
    source = scan.run.data or scan.run.simulation
    assert source is not None
    options = cast(napi.NeuralPtychographyOptions, scan.run.options)
    return TrainingScan(source, scan.fresh, options, scan.run.chosen)
