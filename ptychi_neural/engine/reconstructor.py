"""The neural engine: pty-chi's autodiff reconstructor with a generator in place of the object."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from ptychi.api.enums import LossFunctions
from ptychi.data_structures.base import ReconstructParameter
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset
from ptychi.metrics import TotalVariationLoss
from ptychi.reconstructors.ad_ptychography import AutodiffPtychographyReconstructor
from ptychi.reconstructors.base import LossTracker
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.engine.checks import check_data
from ptychi_neural.engine.parameters import GeneratorParameter, IntensityScale, NeuralParameterGroup
from ptychi_neural.generators import Generator, Unrolled, build_generator
from ptychi_neural.generators.architectures.cascaded import Cascaded
from ptychi_neural.generators.files import check_patch_shape, load_generator, save_generator
from ptychi_neural.options.choices import Architectures, StitchScopes
from ptychi_neural.options.options import (
    GeneratorOptions,
    NeuralReconstructorOptions,
    StartOptions,
)
from ptychi_neural.physics.forward_model import (
    NeuralForwardModel,
    Prediction,
    ScanOperators,
    ScanPatches,
)
from ptychi_neural.physics.losses import MeanLoss, build_loss_function, losses_of_pixels
from ptychi_neural.physics.stitching import Canvas
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.contrast_transfer import ContrastTransfer
from ptychi_neural.projections.halves import interleaved_halves
from ptychi_neural.projections.total_variation import WEIGHTS, denoised

logger = logging.getLogger(__name__)

PROJECTIONS = (15, 60, 200)
PROJECTIONS_DIVIDED = (9, 60, 200)
"""Number of projections where the options leave it open, without and with division by the contrast
transfer: so many times the root of the counts per object pixel, but at least and at most."""

SPLIT_PROJECTIONS = 120
"""At most, without a split, where the options leave the number open and updates are divided: what
little overlap leaves to be found after these is coarse, and not for the network to learn."""

SHARE_OF_HALVES = 0.85
"""Of the projections, where they alternate between halves of the scan: the last see all of it."""

HELD_OUT_RISE = 0.02
"""Nats per held-out pixel above the lowest likelihood loss, at which projections whose number is
open end and go back. Noise that they fit costs up to 0.006 on simulated scans with a known probe,
whatever becomes of the error; on a cryo-electron scan whose probe is refined 0.02 to 0.05, and the
network does far better from where they were best.
"""

BATCH_PIXELS = 2**22
"""Detector pixels of a batch for an unrolled generator: its network passes the whole object in
each batch, so that batches are as large as memory allows."""

ONE_SHOT_BATCH_SIZE = 50


class _NothingBetter(Exception):
    """Held-out pixels have not been predicted better for as long as patience lasts."""


class NeuralReconstructor(AutodiffPtychographyReconstructor):
    """Fits a generator to one scan, without ground truth.

    During a run the probe is kept relative to its initial peak amplitude and the intensity scale
    carries the power, so that step sizes do not depend on the dose; when a run ends the scale is
    folded into the probe, and probe and object alone reproduce the measured intensities.

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
    forward_model: NeuralForwardModel  # type: ignore[assignment]
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
        check_data(parameter_group, dataset)
        options = copy.copy(options)
        if options.generator.checkpoint is not None:
            options.generator, options.start = self._as_trained(
                options, parameter_group.probe.optimizable
            )
        if options.batch_size is None:
            options.batch_size = _batch_size(dataset, options)
        group = NeuralParameterGroup.extend(
            parameter_group,
            generator=GeneratorParameter(
                self._build_network(parameter_group, options), options.generator
            ),
            intensity_scale=IntensityScale(options.intensity_scale),
        )
        super().__init__(group, dataset, options, *args, **kwargs)  # type: ignore[arg-type]
        self.loss_function = build_loss_function(options.loss_function)
        if options.displayed_loss_function is not None:
            self.displayed_loss_function = build_loss_function(options.displayed_loss_function)
        # pty-chi would remove the ambiguity between epochs, behind the generator's back.
        object_options = group.object.options
        self._remove_ambiguity = object_options.remove_object_probe_ambiguity.enabled
        group.object.options = copy.deepcopy(object_options)
        group.object.options.remove_object_probe_ambiguity.enabled = False
        self._unprojected: Tensor | None = None
        self._transfer: ContrastTransfer | None = None
        self._splits_started = False
        self._n_projected: int | None = None
        self._total_variation = options.start.total_variation
        self.validation_course: list[tuple[str, int, float]] = []
        self._best: dict[str, Any] | None = None
        self._best_loss = math.inf
        self._patience_from = 0
        self._last: dict[str, Any] | None = None
        self._normalization_pending = options.generator.checkpoint is None
        self._assembled = False
        self._peak_amplitude: Tensor | None = None
        self._finished: dict[str, Tensor] | None = None

    @staticmethod
    def _as_trained(
        options: NeuralReconstructorOptions, refines_probe: bool
    ) -> tuple[GeneratorOptions, StartOptions]:
        """Options of generator and projections, with what comes with the trained generator."""
        path = cast(str, options.generator.checkpoint)
        _, saved, metadata = load_generator(path)
        try:
            generator = options.generator.with_structure_of(saved)
        except ValueError as error:
            raise ValueError(f"generator.checkpoint {path!r}: {error}") from error
        start = StartOptions(from_empty=options.start.from_empty)
        if options.start != start:
            return generator, options.start
        start.load_from_dict(metadata["start"] | {"from_empty": start.from_empty})
        if refines_probe and start.n_iterations != 0:
            start.n_iterations = None  # A probe yet to be found takes longer than that of training.
        return generator, start

    @staticmethod
    def _build_network(
        group: PlanarPtychographyParameterGroup, options: NeuralReconstructorOptions
    ) -> Generator | Unrolled:
        n_slices = group.object.n_slices
        patch_shape = tuple(group.probe.get_spatial_shape())
        if options.generator.checkpoint is None:
            network = build_generator(options.generator, n_slices, patch_shape)
            return network.to(group.object.data.device, torch.get_default_dtype())
        network, saved, metadata = load_generator(options.generator.checkpoint)
        if metadata["n_slices"] != n_slices:
            raise ValueError(
                f"generator.checkpoint {options.generator.checkpoint!r}: made for "
                f"{metadata['n_slices']} slices, the object has {n_slices}."
            )
        check_patch_shape(saved, network.patch_shape, patch_shape)
        return network.to(group.object.data.device, torch.get_default_dtype())

    # --- building --------------------------------------------------------------------------

    def build_forward_model(self) -> None:
        self.forward_model_class = NeuralForwardModel
        self.forward_model_params = {
            "dataset": self.dataset,
            "options": self.options,
            "diffraction_pattern_blur_sigma": (
                self.options.forward_model_options.diffraction_pattern_blur_sigma
            ),
        }
        super().build_forward_model()
        if self.options.consistency.scope == StitchScopes.SCAN:
            self.model.scan_patches = ScanPatches(self.model)

    @property
    def model(self) -> NeuralForwardModel:
        """The forward model, not its distributed wrapper."""
        return cast(NeuralForwardModel, self.get_forward_model())

    def _fit_normalization(self) -> None:
        """Statistics of the input: taken from this scan, unless a trained generator has its own."""
        if not self._normalization_pending:
            return
        self._normalization_pending = False
        if isinstance(self.parameter_group.generator.network, Unrolled):
            everything = ScanOperators(self.model, self.model.everything)
            self.parameter_group.generator.network.fit_normalization(everything)
            return
        batches = self.model.everything.split(self.batch_size)
        self.parameter_group.generator.network.fit_normalization(
            self.model.generator_features(batch).detach() for batch in batches
        )

    def build_loss_tracker(self) -> None:
        displayed = self.options.displayed_loss_function
        self.loss_tracker = LossTracker(
            metric_function=self.displayed_loss_function or self.loss_function,
            always_compute_loss=displayed not in (None, self.options.loss_function),
        )

    def update_requires_grad(self) -> None:
        super().update_requires_grad()
        group = self.parameter_group
        group.object.tensor.requires_grad_(False)
        group.generator.set_network_requires_grad(
            group.generator.optimization_enabled(self.current_epoch)
        )

    # --- a run -----------------------------------------------------------------------------

    def run(self, n_epochs: int | None = None, *args: Any, **kwargs: Any) -> None:
        """Run epochs; whatever ends the run, object and probe hold the best that was reached.

        Best is what predicts the held-out pixels best; without any, what was reached last.
        """
        with _without_default_device():
            self.forward_model.zero_grad()  # An interrupted batch leaves gradients.
            self.begin_run()
            n_epochs = self.n_epochs if n_epochs is None else n_epochs
            try:
                self.run_start(with_splits=n_epochs > 0)
                self._fit_normalization()
                super().run(n_epochs, *args, **kwargs)
            except _NothingBetter:
                logger.info("Epoch %d: the held-out pixels tell to stop.", self.current_epoch)
            finally:
                self._end_run()

    def begin_run(self) -> None:
        """Go from physical units to working units, unless that is where the last run ended."""
        group = self.parameter_group
        self._patience_from = self.current_epoch
        with torch.no_grad():
            if self._peak_amplitude is None:
                self._peak_amplitude = group.probe.data.abs().max()
            if self._finished is not None and all(
                torch.equal(tensor, self._finished[name]) for name, tensor in self._shared().items()
            ):
                assert self._last is not None
                self._load_state(self._last)
                return
            self._best = None
            object_ = group.object.data.detach().clone()
            if self._finished is not None and not torch.equal(object_, self._finished["object"]):
                self._restart_generator()
            elif self.options.start.from_empty:
                object_ = torch.ones_like(object_)
            self.model.start_from(object_)
            group.probe.set_data(group.probe.data / self._peak_amplitude)
            power = self._peak_amplitude.square()
            group.intensity_scale.set_data(power.log().reshape(1))
            if self.options.intensity_scale.start_from_data:
                self._start_scale_from_data()

    def _end_run(self) -> None:
        """Take the best state and fold the scale into the probe."""
        group = self.parameter_group
        self._fit_normalization()
        with torch.no_grad():
            if not self._assembled:
                self.assemble_object()
                self._validate("epoch", self.current_epoch)
            self._last = self._state()
            if self._best is not None:
                self._load_state(self._best)
            group.probe.set_data(group.probe.data * group.intensity_scale.value.sqrt())
            group.intensity_scale.set_data(torch.zeros(1))
            if self._remove_ambiguity:
                group.object.preconditioner = None  # Else it tells where earlier runs ended.
                self.update_preconditioners()
                group.object.remove_object_probe_ambiguity(group.probe)
            self._finished = {name: tensor.clone() for name, tensor in self._shared().items()}

    def _shared(self) -> dict[str, Tensor]:
        """What another task may have changed between two runs."""
        return {
            "object": self.parameter_group.object.data.detach(),
            "probe": self.parameter_group.probe.data.detach(),
        }

    def fitted(self) -> dict[str, ReconstructParameter]:
        """What a run changes beside the network, by name."""
        group = self.parameter_group
        return {
            "object": group.object,
            "probe": group.probe,
            "positions": group.probe_positions,
            "opr_mode_weights": group.opr_mode_weights,
            "intensity_scale": group.intensity_scale,
        }

    def _state(self) -> dict[str, Any]:
        """Copies of all that is fitted, in working units."""
        state: dict[str, Any] = {
            name: parameter.data.detach().clone() for name, parameter in self.fitted().items()
        }
        state["generator"] = copy.deepcopy(self.parameter_group.generator.network.state_dict())
        return state

    def _load_state(self, state: dict[str, Any]) -> None:
        for name, parameter in self.fitted().items():
            parameter.set_data(state[name])
        self.parameter_group.generator.network.load_state_dict(state["generator"])

    def _restart_generator(self) -> None:
        """The object was replaced: a generator trained on another start has nothing to add."""
        logger.warning("The object was replaced between two runs: the generator starts anew.")
        generator = self.parameter_group.generator
        generator.network = self._build_network(self.parameter_group, self.options)
        generator.build_optimizer()
        self._normalization_pending = True

    def _start_scale_from_data(self) -> None:
        """S = sum(Y_meas) / sum(Y_pred) over the pixels of the loss, with the starting object."""
        measured = predicted = 0.0
        for batch in self.model.everything.split(self.batch_size):
            y_true = self.model.measured_patterns(batch)
            y_pred = self.model.intensities_of(batch, self.model.start_patches(batch))
            mask = self._loss_pixels(batch, y_true)
            measured += float(torch.where(mask, y_true, 0.0).sum(dtype=torch.float64))
            predicted += float(torch.where(mask, y_pred, 0.0).sum(dtype=torch.float64))
        scale = self.parameter_group.intensity_scale
        scale.set_data(scale.data + torch.tensor(measured / predicted).log())

    # --- the start -------------------------------------------------------------------------

    def run_start(self, with_splits: bool) -> None:
        """Accelerated projections, once, before the first epoch: of everything, then without each
        split, with the probe that the first have found."""
        if self.options.start.n_iterations == 0:
            return
        if self._unprojected is None:
            self._unprojected = self.model.start_object
            self.project(None, self._unprojected)
        pixels = self.model.pixels
        if with_splits and not self._splits_started and pixels is not None and pixels.n_splits > 1:
            self._splits_started = True
            for split in range(pixels.n_splits):
                self.project(split, self._unprojected)

    def project(self, split: int | None, from_object: Tensor) -> None:
        """Accelerated projections of everything, or without a split; what they find becomes the
        generator's start.

        Parameters
        ----------
        split : int or None
            The split whose pixels are not seen.
        from_object : Tensor
            (1, H, W) complex object to begin with.
        """
        probe, plan = self.parameter_group.probe, self.parameter_group.probe.optimization_plan
        halves = None
        if self.options.start.alternate_halves and not probe.optimizable:
            halves = interleaved_halves(self.model.positions(self.model.everything))
        self.model.split = split
        projections = self._projections(from_object, halves)
        n_projections = self.n_projections(split)
        n_of_halves = 0 if halves is None else int(SHARE_OF_HALVES * n_projections)
        without = "" if split is None else f" without split {split + 1}"
        bar = self._bar(n_projections, f"projections{without}")
        lowest, best = math.inf, (0, projections.object, probe.data)
        try:
            for iteration in bar:
                before = (iteration, projections.object, probe.data.clone())
                loss = projections.iterate(
                    update_probe=split is None and probe.optimizable and iteration >= plan.start,
                    part=iteration % 2 if iteration < n_of_halves else -1,
                )
                if not math.isnan(loss):
                    bar.set_postfix_str(f"held-out loss {loss:.5g}")
                if split is None:
                    self.parameter_group.object.set_data(projections.object)
                    self._record("projections", iteration, loss)
                    self.run_post_projection_hooks()
                else:
                    self.run_post_update_hooks()
                if loss < lowest:
                    lowest, best = loss, before
                elif split is None and loss > lowest + self._tolerated_rise:
                    self._n_projected, projections.object, probe_before = best
                    with torch.no_grad():
                        probe.set_data(probe_before)
                    break
                if projections.converged:
                    logger.info("Projection %d: no step lowers the loss.", iteration + 1)
                    break
        finally:
            self.model.split = None
            if split is None:
                if self._total_variation is None:
                    self._total_variation = self._best_total_variation(projections.object)
                self.model.start_from(self._denoised(projections.object))
                self.parameter_group.object.set_data(self.model.start_object)
            else:
                self.model.start_objects[split] = self._denoised(projections.object)

    def _projections(
        self, from_object: Tensor, halves: tuple[Tensor, Tensor] | None
    ) -> AcceleratedProjections:
        if self._transfer is None and self._transfer_floor is not None:
            self._transfer = ContrastTransfer(self.model, self._transfer_floor)
        return AcceleratedProjections(
            self.model,
            from_object,
            self.options.start,
            self.batch_size,
            self.loss_function,
            self._transfer,
            halves,
        )

    def _bar(self, length: int, name: str) -> tqdm:
        return tqdm(range(length), desc=name, leave=False, disable=self.pbar.disable)

    def denoise_object(self) -> None:
        """Denoise the task's object while it is projected, as it will be when projections end."""
        object_ = self.parameter_group.object
        object_.set_data(self._denoised(object_.data))

    def _denoised(self, object_: Tensor) -> Tensor:
        return denoised(object_, self._total_variation or 0.0)

    def _best_total_variation(self, object_: Tensor) -> float:
        """The weight with which held-out pixels are predicted best; 0 without any."""
        if self.options.validation.held_out == 0:
            return 0.0
        return min(WEIGHTS, key=lambda weight: self._held_out_loss(denoised(object_, weight)))

    @property
    def _transfer_floor(self) -> float | None:
        """What the projections divide their updates by; a probe that is refined along does not
        follow such steps."""
        refined = self.parameter_group.probe.optimizable
        return None if refined else self.options.start.transfer_floor

    @property
    def _tolerated_rise(self) -> float:
        open_ = self.options.start.n_iterations is None
        in_nats = self.options.loss_function == LossFunctions.POISSON
        return HELD_OUT_RISE if open_ and in_nats else math.inf

    def n_projections(self, split: int | None = None) -> int:
        """Of everything, or without a split: the options' number, that after which the held-out
        pixels were predicted best if they ended the projections, or one that grows with the root of
        the counts per object pixel.

        An iteration follows finer differences of the likelihood the later it comes, as 1 / k^2,
        and light tells noise from object down to differences of 1 / counts.
        """
        for n_iterations in (self._n_projected, self.options.start.n_iterations):
            if n_iterations is not None:
                return n_iterations
        counts = float((self.dataset.patterns * self.dataset.valid_pixel_mask).sum())
        n_pixels = float((self.model.coverage > 0.5).sum())
        divided = self._transfer_floor is not None
        factor, fewest, most = PROJECTIONS_DIVIDED if divided else PROJECTIONS
        if divided and split is not None:
            most = SPLIT_PROJECTIONS
        return int(min(max(factor * math.sqrt(counts / n_pixels), fewest), most))

    def run_post_projection_hooks(self) -> None:
        """After each projection of everything, when the task's object is the projected one."""
        self.run_post_update_hooks()

    # --- validation ------------------------------------------------------------------------

    def _validate(self, stage: str, step: int) -> None:
        """Let held-out pixels judge the assembled object; keep the state if it is the best."""
        if self.model.pixels is None or self.options.validation.held_out == 0:
            return
        loss = self._held_out_loss(self.parameter_group.object.data)
        self._record(stage, step, loss)
        if self._best is None or loss < self._best_loss:
            self._best_loss, self._patience_from = loss, self.current_epoch
            self._best = self._state()

    def _held_out_loss(self, object_: Tensor) -> float:
        held_out = MeanLoss()
        self._add_losses(held_out, object_, lambda indices, _: self.model.held_out_pixels(indices))
        return held_out.value

    @torch.no_grad()
    def _add_losses(
        self, mean: MeanLoss, object_: Tensor, pixels: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """Losses of an object at the pixels chosen by (indices, measured counts)."""
        for batch in self.model.everything.split(self.batch_size):
            measured = self.model.measured_patterns(batch)
            patches = self.model.consistency.extract(object_, self.model.positions(batch))
            predicted = self.model.intensities_of(batch, patches)
            losses = losses_of_pixels(self.loss_function, predicted, measured)
            mean.add(losses, pixels(batch, measured))

    @torch.no_grad()
    def prediction_loss(self) -> float:
        """Loss of what the generator makes of the scan as it is, at all pixels that count; where
        they are split, those of each split are predicted from the others."""
        mean = MeanLoss()
        try:
            for split in [None] if self.model.pixels is None else range(self.model.pixels.n_splits):
                self.model.split = split
                self._add_losses(mean, self._assembled_object(), self._loss_pixels)
        finally:
            self.model.split = None
        return mean.value

    def _record(self, stage: str, step: int, loss: float) -> None:
        self.validation_course.append((stage, step, loss))

    @property
    def validation(self) -> pd.DataFrame:
        """Held-out losses: columns ``stage`` (projections or epoch), ``step`` and ``loss``, which
        is nan where no pixel is held out."""
        return pd.DataFrame(self.validation_course, columns=["stage", "step", "loss"])

    # --- an epoch --------------------------------------------------------------------------

    def run_pre_epoch_hooks(self) -> None:
        super().run_pre_epoch_hooks()
        cascaded = self.options.generator.cascaded
        network = self.parameter_group.generator.network
        if cascaded.stage_one_epochs > 0:
            cast(Cascaded, network.network).stage_one_only = (
                self.current_epoch < cascaded.stage_one_epochs
            )
        patience = self.options.validation.patience or math.inf
        if self._best is not None and self.current_epoch - self._patience_from >= patience:
            raise _NothingBetter
        if self.model.pixels is not None and self.model.pixels.n_splits > 1:
            self.model.split = self.current_epoch % self.model.pixels.n_splits
        if self.model.scan_patches is not None:
            self.model.scan_patches.refresh()
        if len(self.loss_tracker.table) > 0:
            self.pbar.set_postfix_str(f"loss {self.loss_tracker.table.loss.iloc[-1]:.4g}")

    def run_minibatch(
        self, input_data: Sequence[Tensor], y_true: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        self._assembled = False
        prediction: Prediction = self.forward_model(*input_data)
        mask = self._loss_pixels(input_data[0], y_true)
        y_pred, measured = prediction.intensities[mask], y_true[mask]
        loss = self.loss_function(y_pred, measured)
        objective = loss
        if prediction.rough_intensities is not None:
            rough = prediction.rough_intensities[mask]
            weight = self.options.generator.cascaded.rough_loss_weight
            objective = objective + weight * self.loss_function(rough, measured)
        regularization = self.regularization(prediction.object)
        objective = objective + regularization
        self._stop_if_not_finite(objective)

        if objective.requires_grad:
            objective.backward()
        self.run_post_differentiation_hooks(input_data, y_true)
        self.step_all_optimizers(forward_model_args=list(input_data), y_true=y_true)
        self.forward_model.zero_grad()

        self.loss_tracker.update_batch_loss(y_pred.detach(), measured, loss.item())
        self.loss_tracker.update_batch_regularization_loss(regularization.item())

    def _loss_pixels(self, indices: Tensor, y_true: Tensor) -> Tensor:
        """(n, h, w) pixels that the loss compares."""
        constrained = self.get_constrained_pixel_mask(y_true)
        return (constrained & self.model.predicted_pixels(indices)).expand(y_true.shape)

    def regularization(self, object_: Tensor) -> Tensor:
        """pty-chi's penalties on the stitched (n_slices, H, W) object."""
        options = self.parameter_group.object.options
        total = torch.zeros(())
        if options.l1_norm_constraint.is_enabled_on_this_epoch(self.current_epoch):
            total = total + options.l1_norm_constraint.weight * object_.abs().mean()
        if options.l2_norm_constraint.is_enabled_on_this_epoch(self.current_epoch):
            total = total + options.l2_norm_constraint.weight * object_.abs().square().mean()
        if options.total_variation.is_enabled_on_this_epoch(self.current_epoch):
            total = total + options.total_variation.weight * TotalVariationLoss()(object_)
        return total

    def _stop_if_not_finite(self, objective: Tensor) -> None:
        if not torch.isfinite(objective):
            raise FloatingPointError(
                f"The loss became {objective.item()} in epoch {self.current_epoch}, batch "
                f"{self.current_minibatch}; object and probe keep their last finite state. Likely "
                "causes: a step size that is too large (generator.step_size, "
                "probe_options.step_size), or data that are not counts."
            )

    def run_post_differentiation_hooks(self, input_data: Sequence[Tensor], y_true: Tensor) -> None:
        """Keep gradients as they are: pty-chi rescales them to the steps of ePIE."""
        weights = self.parameter_group.opr_mode_weights
        gradient = weights.get_grad()
        if gradient is None:
            return
        if not weights.intensity_variation_optimization_enabled(self.current_epoch):
            gradient[:, 0] = 0
        if not weights.eigenmode_weight_optimization_enabled(self.current_epoch):
            gradient[:, 1:] = 0

    def run_post_epoch_hooks(self) -> None:
        super().run_post_epoch_hooks()
        if (self.current_epoch + 1) % self.options.consistency.canvas_update_stride == 0:
            self.assemble_object()
            self._validate("epoch", self.current_epoch + 1)

    @torch.no_grad()
    def assemble_object(self) -> None:
        """Write what the generator makes of the whole scan into the task's object.

        Before its first epoch a generator that was not trained leaves the start as it is.
        """
        self.model.split = None
        self.parameter_group.object.set_data(self._assembled_object())
        self._assembled = True

    @property
    def is_trained(self) -> bool:
        """Whether the generator has been fitted, here or before it was saved."""
        return self.current_epoch > 0 or self.options.generator.checkpoint is not None

    def _assembled_object(self) -> Tensor:
        network = self.parameter_group.generator.network
        if not self.is_trained:
            return self.model.start_object
        if isinstance(network, Unrolled):
            return network(ScanOperators(self.model, self.model.everything))
        total: Canvas | None = None
        for batch in self.model.everything.split(self.batch_size):
            members, patches, _ = self.model.generate(batch)
            canvas = self.model.consistency.accumulate(patches, self.model.positions(members))
            total = canvas if total is None else total + canvas
        assert total is not None
        return total.object(self.model.start_object)

    @torch.no_grad()
    def objects_without_parts(self) -> list[Tensor]:
        """(1, H, W) objects that an unrolled generator makes without each split of the pixels it
        was fitted with or, where it was not fitted, without each half of the projected frames."""
        model, network = self.model, self.parameter_group.generator.network
        splits = [split for split in model.start_objects if split is not None]
        objects, starts = [], model.start_objects
        try:
            for model.split in splits:
                objects.append(network(ScanOperators(model, model.everything)))
            model.split = None
            if splits or self._unprojected is None:
                return objects
            halves = interleaved_halves(model.positions(model.everything))
            for part, frames in enumerate(halves):
                projections = self._projections(self._unprojected, halves)
                for _ in self._bar(self.n_projections(), f"projections of half {part + 1}"):
                    projections.iterate(update_probe=False, part=part)
                model.start_objects = {None: self._denoised(projections.object)}
                objects.append(network(ScanOperators(model, frames)))
            return objects
        finally:
            model.split, model.start_objects = None, starts

    # --- saving ----------------------------------------------------------------------------

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
        options.start.total_variation = self._total_variation
        save_generator(
            path,
            self.parameter_group.generator.network,
            options,
            overwrite=overwrite,
            epochs=self.current_epoch,
        )


@contextmanager
def _without_default_device() -> Iterator[None]:
    """On a CPU, run without the default device that pty-chi sets: torch looks after it in every
    call, which on small scans takes a tenth of the time, and its own default is the same."""
    on_cpu = torch.get_default_device().type == "cpu"
    if on_cpu:
        torch.set_default_device(None)
    try:
        yield
    finally:
        if on_cpu:
            torch.set_default_device("cpu")


def _batch_size(dataset: PtychographyDataset, options: NeuralReconstructorOptions) -> int:
    """Of a scan whose batch size is left open: equal batches, as large as is good."""
    if options.generator.architecture == Architectures.UNROLLED:
        largest = max(1, BATCH_PIXELS // dataset.patterns[0].numel())
    else:
        largest = ONE_SHOT_BATCH_SIZE
    return math.ceil(len(dataset) / math.ceil(len(dataset) / largest))
