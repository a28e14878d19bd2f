"""One generator trained on many scans, without ground truth."""

import contextlib
import copy
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from ptychi.api.task import PtychographyTask

from ptychi_neural.engine.parameters import GeneratorParameter
from ptychi_neural.engine.random_state import random_state, random_state_kept, restore_random_state
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.state import (
    optimizer_state,
    reconstructor_state,
    restore_optimizer,
    restore_reconstructor,
)
from ptychi_neural.engine.state_checks import check_training
from ptychi_neural.engine.state_files import State, damage_told, read_state, write_state
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.generators.files import save_generator
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.physics.losses import MeanLoss, add_losses
from ptychi_neural.scans import Scan
from ptychi_neural.simulation import SimulationOptions, simulate

Fresh = Literal["object", "noise"]
"""What of a simulated scan is drawn anew in every epoch: the object with its jitter and noise, or
the noise alone, as if the same scan were exposed again."""

STATE_KIND = "training on many scans"
VALIDATION = "validation"


@dataclass(frozen=True)
class TrainingScan:
    """One scan of a training."""

    source: Scan | SimulationOptions | Callable[[], Scan]
    """A scan in memory, a recipe, or what reads a scan when it is needed."""

    fresh: Fresh | None = None
    """What of a recipe is drawn anew in every epoch: ``"object"``, with its jitter and noise, or
    ``"noise"`` alone, as if the same scan were exposed again."""

    options: NeuralPtychographyOptions | None = None
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
        options: NeuralPtychographyOptions,
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
        reconstructor.run_epochs(1)
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
        """Take the units of the generator's input, once, from the starts of the scans."""
        if self.options.reconstructor_options.generator.checkpoint is None:
            names = [name for name in self.scans if name != VALIDATION]
            self.generator.network.fit_normalization(self._started(name).scan for name in names)

    def _score(self, loss: float, clock: float) -> None:
        """Let the held-out scan judge the generator, and keep the best."""
        reconstructor = self._started(VALIDATION)
        reconstructor.current_epoch = self.epoch
        score = prediction_loss(reconstructor)
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
            with damage_told(f"state of scan {name} ({self._described[name]['name']})"):
                restore_reconstructor(reconstructor, state)
            return reconstructor
        reconstructor.begin_run()
        if self.scans[name].fresh:
            self._start_fresh(reconstructor)
        else:
            reconstructor.start.make(reconstructor.scan, self.generator.network.n_splits)
        return reconstructor

    def _start_fresh(self, reconstructor: NeuralReconstructor) -> None:
        """Make only those starts that the one epoch of this draw, and normalisation, ask for."""
        unprojected, n_splits = reconstructor.scan.start, self.generator.network.n_splits
        reconstructor.current_epoch = self.epoch
        first = len(self.table) == 0
        if n_splits == 1 or first or reconstructor.parameter_group.probe.optimizable:
            reconstructor.start.make(reconstructor.scan, n_splits=0)
        if n_splits > 1 and reconstructor.options.start.n_iterations != 0:
            scan = reconstructor.scan.starting_from(unprojected)
            reconstructor.start.reconstruct(scan.without(reconstructor.present_split))

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
        data, truth = self._load(scan)
        with contextlib.nullcontext() if seed else random_state_kept():
            task = build_task(options, data, scan.keep)
        self._described[name] = {
            "name": data.name,
            "pixel_size_m": data.pixel_size_m,
            "wavelength_m": data.wavelength_m,
            "probe_sha256": hashlib.sha256(data.probe.astype(np.complex64).tobytes()).hexdigest(),
        }
        if truth is not None:
            _reconstructor(task).fit_loss.truth = torch.as_tensor(truth.object)
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
        network.check_patch_shape(tuple(group.probe.get_spatial_shape()))
        group.generator.network = network
        group.generator.optimizer = self.generator.optimizer
        group.generator.step_size_scheduler = None  # It steps once an epoch of all.
        self._tasks[name] = task
        return task

    def _load(self, scan: TrainingScan) -> tuple[Scan, Scan | None]:
        """The scan, and the truth behind it where it is simulated."""
        source = scan.source
        if isinstance(source, Scan):
            return source, None
        if not isinstance(source, SimulationOptions):
            return source(), None
        if scan.fresh:
            seed = np.random.SeedSequence((source.seed, self.epoch)).generate_state(1)[0]
            name = "seed" if scan.fresh == "object" else "noise_seed"
            source = source.model_copy(update={name: int(seed)})
        simulated = simulate(source)
        return simulated.scan, simulated.truth

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
        with damage_told(path):
            self._restore(state)

    def _restore(self, state: State) -> None:
        unknown = set(state["described"]) - set(self.scans)
        if unknown:
            raise ValueError(f"has scans {sorted(unknown)} that this training has not.")
        check_training(state, self.generator.network.tensors(), set(self.scans) - {VALIDATION})
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


@torch.no_grad()
def prediction_loss(reconstructor: NeuralReconstructor) -> float:
    """Loss of what a generator makes of a scan that it is not fitted to, at all pixels that count.

    Where pixels are split, those of each split are predicted from the others.
    """
    mean, pixels = MeanLoss(), reconstructor.pixels
    for split in [None] if pixels is None else range(pixels.n_splits):
        scan = reconstructor.scan.without(split)
        object_ = reconstructor.object_of(scan)
        add_losses(mean, scan, object_, reconstructor.loss_function, scan.to_predict)
    return mean.value


def _training_scan(scan: TrainingScan | Scan | SimulationOptions) -> TrainingScan:
    return scan if isinstance(scan, TrainingScan) else TrainingScan(scan)


def _reconstructor(task: PtychographyTask) -> NeuralReconstructor:
    return cast(NeuralReconstructor, task.reconstructor)
