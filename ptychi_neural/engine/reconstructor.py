"""The neural engine: pty-chi's autodiff reconstructor with a generator in place of the object."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset
from ptychi.reconstructors.ad_ptychography import AutodiffPtychographyReconstructor
from ptychi.reconstructors.base import LossTracker
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.engine import checks
from ptychi_neural.engine.changes import AskedOptions, take_up
from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.engine.known_scan import KnownScan
from ptychi_neural.engine.objective import objective, penalties, stop_if_lost, stop_if_not_finite
from ptychi_neural.engine.parameters import NeuralParameterGroup, with_generator
from ptychi_neural.engine.ranks import check_run
from ptychi_neural.engine.snapshot import Continuation, Snapshot
from ptychi_neural.engine.start import Start, StartObserver
from ptychi_neural.engine.surroundings import Surroundings
from ptychi_neural.engine.trained import batch_size_for, completed_options, generator_for
from ptychi_neural.engine.working_units import WorkingUnits
from ptychi_neural.generators import Generator
from ptychi_neural.generators.files import save_generator
from ptychi_neural.options import NeuralObjectOptions, NeuralReconstructorOptions
from ptychi_neural.options.choices import StitchScopes
from ptychi_neural.physics.centring import centre
from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.losses import FitLoss, LossOfAllRanks, build_loss_function
from ptychi_neural.physics.pixel_splits import deal_pixels
from ptychi_neural.physics.ranks import StoppedTogether, deal_batches, has_left, left_on_failure
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.start_updates import StartUpdates
from ptychi_neural.physics.stitching import LatestPatches

logger = logging.getLogger(__name__)


class _NothingBetter(StoppedTogether):
    """Held-out pixels have not been predicted better for as long as patience lasts."""


class NeuralReconstructor(AutodiffPtychographyReconstructor):
    """Fits a generator to one scan, without ground truth.

    A run enters the working units, makes the start (an initial reconstruction), trains the
    generator epoch by epoch while held-out pixels judge its object, and leaves the best state in
    the task, in physical units.

    Parameters
    ----------
    parameter_group : PlanarPtychographyParameterGroup
        Object (from which the generator starts), probe, positions and OPR mode weights.
    dataset : PtychographyDataset
        The measured patterns.
    options : NeuralReconstructorOptions
        The engine's options.
    """

    parameter_group: NeuralParameterGroup
    options: NeuralReconstructorOptions
    forward_model: ScanForwardModel  # type: ignore[assignment]
    dataset: PtychographyDataset
    loss_function: torch.nn.Module
    displayed_loss_function: torch.nn.Module | None  # type: ignore[assignment]

    def __init__(
        self,
        parameter_group: PlanarPtychographyParameterGroup,
        dataset: PtychographyDataset,
        options: NeuralReconstructorOptions,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        checks.check_start_of(parameter_group)
        asked, options = options, completed_options(options, parameter_group.probe.optimizable)
        generator = generator_for(parameter_group, options)
        group = with_generator(parameter_group, generator, options, dataset)
        options.batch_size = batch_size_for(options, group.generator.network, dataset)
        checks.check_batches(group, options)
        super().__init__(group, dataset, options, *args, **kwargs)  # type: ignore[arg-type]
        checks.check_inside(group)
        self.loss_function = build_loss_function(options.loss_function)
        self.fit_loss = FitLoss(options.fit_loss, self.loss_function)
        if options.displayed_loss_function is not None:
            self.displayed_loss_function = build_loss_function(options.displayed_loss_function)
        self.asked, self.known_scan = AskedOptions(group, asked), KnownScan(group, dataset)
        self.units = WorkingUnits(group)
        self.judge = HeldOutJudge(options.validation, self.loss_function)
        self.start = self._new_start()
        self.continuation: Continuation | None = None
        self.is_under_way = False
        """Whether a run is under way; set too when a state from the midst of one was taken up."""
        self.normalization_pending = options.generator.checkpoint is None
        self.object_is_assembled = False
        self.has_stepped = False
        """Whether the generator has been fitted since the task was built."""
        self.latest: LatestPatches | None = None
        self.start_updates = StartUpdates()
        held_out, seed = options.validation.held_out, options.random_seed or 0
        self.pixels = deal_pixels(dataset, self.generator.n_splits, held_out, seed)

    # --- building --------------------------------------------------------------------------

    def build(self) -> None:
        super().build()
        self.start_from(self.parameter_group.object.data.detach().clone())
        self.generator.check_scan(self.scan)
        checks.warn_of_mistakes(self.scan)
        self.surroundings = Surroundings(seeded=self.options.random_seed is not None)

    def _new_start(self) -> Start:
        observer = StartObserver(self._bar, self._iterated, self._started)
        return Start(self.judge, self.options.start.total_variation, observer)

    def build_forward_model(self) -> None:
        # pty-chi would wrap it for gradients under torchrun; here sums over ranks are the engine's.
        group = self.parameter_group
        model = ScanForwardModel.of(group, self.dataset, group.intensity_scale, self.options)
        self.forward_model = model
        self.model.followers.append(self._move_objects)

    def _move_objects(self, device: torch.device) -> None:
        self.start.move_to(device)
        if self.latest is not None:
            self.latest.to(device)

    def build_loss_tracker(self) -> None:
        displayed = self.options.displayed_loss_function
        self.loss_tracker = LossTracker(
            metric_function=LossOfAllRanks(self.displayed_loss_function or self.loss_function),
            always_compute_loss=displayed not in (None, self.options.loss_function),
        )

    def update_requires_grad(self) -> None:
        self.parameter_group.require_gradients(self.current_epoch, self.start.settled)

    # --- what there is -----------------------------------------------------------------------

    @property
    def model(self) -> ScanForwardModel:
        """The forward model, not its distributed wrapper."""
        return cast(ScanForwardModel, self.get_forward_model())

    @property
    def generator(self) -> Generator:
        """The network."""
        return self.parameter_group.generator.network

    @property
    def scan(self) -> ScanPhysics:
        """The whole scan as it is now: all frames, all pixels but the held-out ones."""
        everything = self.model.everything
        starts, updates = self.start.objects, self.start_updates
        return ScanPhysics(self.model, self.options, everything, starts, self.pixels, updates)

    @property
    def is_trained(self) -> bool:
        """Whether the generator has been fitted, here or before it was saved."""
        fitted = self.has_stepped or self.current_epoch > 0
        return fitted or self.options.generator.checkpoint is not None

    @property
    def network_was_tried_in_vain(self) -> bool:
        """Whether no epoch predicted the held-out pixels better than the initial reconstruction."""
        return self.judge.best is not None and not self.judge.start_is_beaten

    @property
    def validation(self) -> pd.DataFrame:
        """Held-out losses, as ``HeldOutJudge.table`` has them."""
        return self.judge.table

    def n_projections(self, split: int | None = None) -> int:
        """Number of iterations of the initial reconstruction, of everything or without a split."""
        return self.start.n_iterations(self.scan, split)

    # --- a run -----------------------------------------------------------------------------

    def run(self, n_epochs: int | None = None, *args: Any, **kwargs: Any) -> None:
        """Run epochs; whatever ends the run, object and probe hold the best that was reached.

        Best is what predicts the held-out pixels best; without any, the last that is not scattered.
        """
        # Whoever calls may have switched gradients off, without which nothing is fitted.
        with torch.inference_mode(False), torch.enable_grad(), self.surroundings.entered():
            self.forward_model.zero_grad()  # An interrupted batch leaves gradients.
            if not self.is_under_way:
                self.begin_run()
                self.is_under_way = True
            n_epochs = self.n_epochs if n_epochs is None else n_epochs
            try:
                check_run(self.options, n_epochs, self.dataset)
                with left_on_failure():
                    n_splits = self.judge.n_first_splits(self.generator.n_splits)
                    self.start.make(self.scan, n_splits if n_epochs > 0 else 0)
                    self.fit_normalization()
                    if n_epochs > 0:
                        self._judge_start()
                    self.run_epochs(n_epochs)
            except _NothingBetter:
                logger.info("Epoch %d: the held-out pixels tell to stop.", self.current_epoch)
            finally:
                self.is_under_way = False
                self.end_run()

    def run_epochs(self, n_epochs: int) -> None:
        """Train the generator for some epochs, between ``begin_run`` and ``end_run``."""
        deal_batches(self.dataloader)
        super().run(n_epochs)

    def begin_run(self) -> None:
        """Go from physical units to working units, unless that is where the last run ended.

        Raises
        ------
        ValueError
            If options were changed, or data replaced, that the run cannot go on with.
        """
        group, last_run = self.parameter_group, self.continuation
        if changed := self.asked.changes(start_is_made=self.start.unprojected is not None):
            take_up(self, changed)
        self.judge.begin(self.current_epoch)
        self.units.note_peak_amplitude()
        replaced = self._replaced()
        if last_run is not None and not replaced:
            last_run.last.restore(group)
            return
        self.judge.forget()
        self._check_replaced(replaced)
        if last_run is None:
            if self.options.start.from_empty:
                group.object.set_data(torch.ones_like(group.object.data))
            self.start_from(group.object.data.detach().clone())
        elif "object" in replaced:
            self._start_anew(self.start, group.object.data.detach().clone(), replaced)
        elif last_run.matters(group, replaced) and self.start.unprojected is not None:
            self._start_anew(self._new_start(), self.start.unprojected, replaced)
        self.units.enter()
        if self.options.intensity_scale.start_from_data:
            self.units.fit_scale(self.scan)

    def _replaced(self) -> set[str]:
        """What somebody has put into the task since it was built, or since the last run."""
        if self.continuation is not None:
            return self.continuation.replaced(self.parameter_group)
        positions = self.parameter_group.probe_positions
        initial = cast(Tensor, positions.initial_positions)
        return set() if torch.equal(positions.data, initial) else {"positions"}

    def _check_replaced(self, replaced: set[str]) -> None:
        group = self.parameter_group
        checks.check_start_of(group)
        checks.check_inside(group)
        for name in replaced:
            group.of_task()[name].build_optimizer()
        if "positions" in replaced:
            group.object.build_roi_bounding_box(group.probe_positions)
            self.model.forget_neighbours()
            self.build_dataloader()

    def _start_anew(self, start: Start, object_: Tensor, replaced: set[str]) -> None:
        """Start from another object, with a new generator: the old has nothing to add to it."""
        what = ", ".join(sorted(replaced))
        logger.warning("Replaced between two runs: %s. The generator starts anew.", what)
        self.start = start
        self.start_from(object_)
        parameter = self.parameter_group.generator
        parameter.network = generator_for(self.parameter_group, self.options)
        parameter.build_optimizer()
        self.normalization_pending = True

    def end_run(self) -> None:
        """Take the best state, and go back to physical units."""
        group = self.parameter_group
        self.fit_normalization()
        lacks_frames = has_left() and self.is_trained
        last = Snapshot.of(group)
        if last.is_finite and not self.object_is_assembled and not lacks_frames:
            self.assemble_object()
            self._judge_object(self.current_epoch)
            last = Snapshot.of(group)
        best = self.judge.last_finite if self.judge.is_scattered else self.judge.best
        if lacks_frames or not last.is_finite:
            last = best = best or self.judge.last_finite or last
        if best is not None:
            best.restore(group)
        self.units.leave()
        self.continuation = Continuation.of(last, group)

    def fit_normalization(self) -> None:
        """Take the units of the generator's input, unless a trained one has its own."""
        if self.normalization_pending:
            self.normalization_pending = False
            self.generator.fit_normalization([self.scan])

    # --- the start -------------------------------------------------------------------------

    def start_from(self, object_: Tensor) -> None:
        """Let the generator start from a (n_slices, H, W) object."""
        self.start.begin_from(object_)
        if self.options.consistency.scope == StitchScopes.SCAN:
            scan = self.scan
            patches = scan.start_patches(scan.frames)
            positions = scan.model.positions(scan.frames)
            self.latest = LatestPatches(scan.model.stitching, positions, patches)

    def _bar(self, length: int, name: str) -> tqdm:
        kind = type(self.pbar)  # Whoever shows epochs in another way shows projections in it too.
        return kind(range(length), desc=name, leave=False, disable=self.pbar.disable)

    def _iterated(self, split: int | None, object_: Tensor) -> None:
        if split is not None:
            self.run_post_update_hooks()
            return
        self.parameter_group.object.set_data(object_)
        self.run_post_projection_hooks()

    def _started(self, object_: Tensor) -> None:
        self.start_from(object_)
        self.parameter_group.object.set_data(object_)

    def run_post_projection_hooks(self) -> None:
        """Follow each projection of everything, when the task's object is the projected one."""
        self.run_post_update_hooks()

    def denoise_object(self) -> None:
        """Denoise the task's object while it is projected, as it will be when projections end."""
        object_ = self.parameter_group.object
        object_.set_data(self.start.denoised(object_.data))

    # --- an epoch --------------------------------------------------------------------------

    def run_pre_epoch_hooks(self) -> None:
        super().run_pre_epoch_hooks()
        self.generator.begin_epoch(self.current_epoch)
        self.fit_loss.epoch = self.current_epoch
        on_trial = 0 < self.start.n_splits_done < self.generator.n_splits
        if on_trial and self.judge.start_is_beaten:
            self.start.make(self.scan, self.generator.n_splits)
            on_trial = False
        if self.judge.is_out_of_patience(self.current_epoch, on_trial):
            raise _NothingBetter
        if self.latest is not None:
            self.latest.refresh(self.model.positions(self.model.everything))
        if len(self.loss_tracker.table) > 0:
            self.pbar.set_postfix_str(f"loss {self.loss_tracker.table.loss.iloc[-1]:.4g}")

    @property
    def present_split(self) -> int | None:
        """The split of the pixels that is predicted in this epoch; None without splits."""
        if self.generator.n_splits == 1:
            return None
        return self.current_epoch % (self.start.n_splits_done or self.generator.n_splits)

    def run_minibatch(
        self, input_data: Sequence[Tensor], y_true: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        self.object_is_assembled = False
        frames = input_data[0].to(self.parameter_group.object.data.device)
        scan = self.scan.without(self.present_split).of(frames)
        if self.latest is not None:
            scan = scan.stitched_along(self.latest)
        options = cast(NeuralObjectOptions, self.parameter_group.object.options)
        found = objective(
            *(self.generator, scan, y_true, self.fit_loss),
            penalty=lambda object_: penalties(object_, options, self.current_epoch),
        )
        stop_if_not_finite(found.objective, self.current_epoch, self.current_minibatch)

        if found.objective.requires_grad:
            found.objective.backward()
        self.parameter_group.sum_gradients()
        self.run_post_differentiation_hooks(input_data, y_true)
        self.step_all_optimizers(forward_model_args=list(input_data), y_true=y_true)
        stop_if_lost(self.scan, self.current_epoch)
        self.has_stepped = True
        self.forward_model.zero_grad()

        self.loss_tracker.update_batch_loss(found.predicted, found.measured, found.loss.item())
        self.loss_tracker.update_batch_regularization_loss(found.penalty.item())

    def run_post_differentiation_hooks(self, input_data: Sequence[Tensor], y_true: Tensor) -> None:
        """Keep gradients as they are: pty-chi rescales them to the steps of ePIE."""
        self.parameter_group.keep_known_weights(self.current_epoch)

    def run_post_epoch_hooks(self) -> None:
        probe = self.parameter_group.probe
        if probe.options.center_constraint.is_enabled_on_this_epoch(self.current_epoch):
            self.start.move_by(centre(probe))
            self.object_is_assembled = False
        with self.parameter_group.known_parts_kept(self.start.settled):
            super().run_post_epoch_hooks()
        if (self.current_epoch + 1) % self.options.consistency.canvas_update_stride == 0:
            self.assemble_object()
            self._judge_object(self.current_epoch + 1)

    def _judge_start(self) -> None:
        """Let the start be the first candidate: a result is never worse than it, nor NaN."""
        if self.judge.best is None and (self.judge.judges or self.current_epoch == 0):
            self.parameter_group.object.set_data(self.scan.start)
            self._judge_object(self.current_epoch)
            self.judge.take_as_start(self.scan, self.current_epoch)

    def _judge_object(self, n_epochs: int) -> None:
        group = self.parameter_group
        of_object = self.scan, group.object.data, n_epochs, self.current_epoch
        self.judge.judge(*of_object, snapshot=lambda: Snapshot.of(group))

    # --- the object --------------------------------------------------------------------------

    @torch.no_grad()
    def assemble_object(self) -> None:
        """Write what the generator makes of the whole scan into the task's object."""
        self.parameter_group.object.set_data(self.object_of(self.scan))
        self.object_is_assembled = True

    def object_of(self, scan: ScanPhysics) -> Tensor:
        """The object that the generator makes of a scan, or the start before it is trained."""
        return self.generator(scan) if self.is_trained else scan.start

    def save_generator(self, path: str | Path, overwrite: bool = False) -> None:
        """Save the trained generator: weights and normalisation, with its options as metadata.

        Parameters
        ----------
        path : str or Path
            A ``.safetensors`` file.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.
        """
        options = copy.copy(self.options)
        options.start = copy.copy(options.start)
        options.start.total_variation = self.start.total_variation
        save_generator(
            path, self.generator, options, overwrite=overwrite, epochs=self.current_epoch
        )
