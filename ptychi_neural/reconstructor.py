"""The neural engine: pty-chi's autodiff reconstructor with a generator in place of the object."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset
from ptychi.metrics import TotalVariationLoss
from ptychi.reconstructors.ad_ptychography import AutodiffPtychographyReconstructor
from ptychi.reconstructors.base import LossTracker
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.api.enums import StitchScopes
from ptychi_neural.api.options import NeuralReconstructorOptions
from ptychi_neural.generators import Generator, Unrolled, build_generator
from ptychi_neural.generators.cascaded import Cascaded
from ptychi_neural.inference import load_generator, save_generator
from ptychi_neural.parameters import GeneratorParameter, IntensityScale, NeuralParameterGroup
from ptychi_neural.physics.consistency import Canvas
from ptychi_neural.physics.data import check_data
from ptychi_neural.physics.forward_model import (
    MemberOperators,
    NeuralForwardModel,
    Prediction,
    ScanPatches,
)
from ptychi_neural.physics.losses import build_loss_function
from ptychi_neural.physics.projections import AcceleratedProjections

logger = logging.getLogger(__name__)


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
        self._start_pending = options.start.n_iterations > 0
        self._normalization_pending = options.generator.checkpoint is None
        self._assembled = False
        self._peak_amplitude: Tensor | None = None
        self._working: dict[str, Tensor] | None = None
        self._finished: dict[str, Tensor] | None = None

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
        where = f"generator.checkpoint {options.generator.checkpoint!r}"
        if different := saved.different_structure(options.generator):
            raise ValueError(
                f"{where}: was saved with other options: {different}. Set the same, or train anew."
            )
        if (metadata["n_slices"], tuple(metadata["patch_shape"])) != (n_slices, patch_shape):
            raise ValueError(
                f"{where}: made for {metadata['n_slices']} slices and patches of "
                f"{metadata['patch_shape']}, the scan has {n_slices} and {list(patch_shape)}."
            )
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
            everything = MemberOperators(self.model, torch.arange(len(self.dataset)))
            self.parameter_group.generator.network.fit_normalization(everything)
            return
        batches = torch.arange(len(self.dataset)).split(self.batch_size)
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
        """Run epochs; whatever ends the run, object and probe hold what was reached by then."""
        self.forward_model.zero_grad()  # An interrupted batch leaves gradients.
        self._begin_run()
        try:
            self._run_start()
            self._fit_normalization()
            super().run(n_epochs, *args, **kwargs)
        finally:
            self._end_run()

    def _begin_run(self) -> None:
        """Go from physical units to working units, unless that is where the last run ended."""
        group = self.parameter_group
        with torch.no_grad():
            if self._peak_amplitude is None:
                self._peak_amplitude = group.probe.data.abs().max()
            untouched = self._finished is not None and all(
                torch.equal(tensor, self._finished[name]) for name, tensor in self._shared().items()
            )
            if untouched:
                self._restore(self._working)
                return
            if self._finished is not None and not torch.equal(
                group.object.data, self._finished["object"]
            ):
                self._restart_generator()
            self.model.start_from(group.object.data.detach().clone())
            group.probe.set_data(group.probe.data / self._peak_amplitude)
            power = self._peak_amplitude.square()
            group.intensity_scale.set_data(power.log().reshape(1))
            if self.options.intensity_scale.start_from_data:
                self._start_scale_from_data()

    def _end_run(self) -> None:
        """Assemble the object and fold the scale into the probe."""
        group = self.parameter_group
        self._fit_normalization()
        with torch.no_grad():
            if not self._assembled:
                self.assemble_object()
            self._working = {name: tensor.clone() for name, tensor in self._shared().items()}
            self._working["scale"] = group.intensity_scale.data
            group.probe.set_data(group.probe.data * group.intensity_scale.value.sqrt())
            group.intensity_scale.set_data(torch.zeros(1))
            if self._remove_ambiguity:
                self.update_preconditioners()
                group.object.remove_object_probe_ambiguity(group.probe)
            self._finished = {name: tensor.clone() for name, tensor in self._shared().items()}

    def _shared(self) -> dict[str, Tensor]:
        """What another task may have changed between two runs."""
        return {
            "object": self.parameter_group.object.data.detach(),
            "probe": self.parameter_group.probe.data.detach(),
        }

    def _restore(self, working: dict[str, Tensor] | None) -> None:
        assert working is not None
        self.parameter_group.object.set_data(working["object"])
        self.parameter_group.probe.set_data(working["probe"])
        self.parameter_group.intensity_scale.set_data(working["scale"])

    def _restart_generator(self) -> None:
        """The object was replaced: a generator trained on another start has nothing to add."""
        logger.warning("The object was replaced between two runs: the generator starts anew.")
        generator = self.parameter_group.generator
        generator.network = self._build_network(self.parameter_group, self.options)
        generator.build_optimizer()
        self._normalization_pending = True

    def _start_scale_from_data(self) -> None:
        """S = sum(Y_meas) / sum(Y_pred) over valid pixels, with the starting object."""
        measured = predicted = 0.0
        for batch in torch.arange(len(self.dataset)).split(self.batch_size):
            y_true = self.model.measured_patterns(batch)
            y_pred = self.model.intensities_of(batch, self.model.start_patches(batch))
            measured += float(self._constrained(y_true, y_true).sum(dtype=torch.float64))
            predicted += float(self._constrained(y_pred, y_true).sum(dtype=torch.float64))
        scale = self.parameter_group.intensity_scale
        scale.set_data(scale.data + torch.tensor(measured / predicted).log())

    def _run_start(self) -> None:
        """Accelerated projections, once, before the first epoch."""
        if not self._start_pending:
            return
        self._start_pending = False
        start = self.options.start
        projections = AcceleratedProjections(self.model, start, self.batch_size)
        probe = self.parameter_group.probe
        bar = tqdm(
            range(start.n_iterations), desc="projections", leave=False, disable=self.pbar.disable
        )
        for iteration in bar:
            distance = projections.iterate(
                update_probe=probe.optimizable and iteration >= probe.optimization_plan.start
            )
            bar.set_postfix_str(f"distance to the data {distance:.3g}")
            self.run_post_update_hooks()
        self.model.start_from(self.model.start_object)

    # --- an epoch --------------------------------------------------------------------------

    def run_pre_epoch_hooks(self) -> None:
        super().run_pre_epoch_hooks()
        cascaded = self.options.generator.cascaded
        network = self.parameter_group.generator.network
        if cascaded.stage_one_epochs > 0:
            cast(Cascaded, network.network).stage_one_only = (
                self.current_epoch < cascaded.stage_one_epochs
            )
        if self.model.scan_patches is not None:
            self.model.scan_patches.refresh()
        if len(self.loss_tracker.table) > 0:
            self.pbar.set_postfix_str(f"loss {self.loss_tracker.table.loss.iloc[-1]:.4g}")

    def run_minibatch(
        self, input_data: Sequence[Tensor], y_true: Tensor, *args: Any, **kwargs: Any
    ) -> None:
        self._assembled = False
        prediction: Prediction = self.forward_model(*input_data)
        y_pred = self._constrained(prediction.intensities, y_true)
        measured = self._constrained(y_true, y_true)
        loss = self.loss_function(y_pred, measured)
        objective = loss
        if prediction.rough_intensities is not None:
            rough = self._constrained(prediction.rough_intensities, y_true)
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

    def _constrained(self, y: Tensor, y_true: Tensor) -> Tensor:
        """The pixels of ``y`` that count, as a vector where some do not."""
        if (
            self.options.exclude_measured_pixels_below is None
            and self.dataset.valid_pixel_mask.all()
        ):
            return y
        return y[self.get_constrained_pixel_mask(y_true)]

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

    @torch.no_grad()
    def assemble_object(self) -> None:
        """Stitch the generator's patches of the whole scan into the task's object."""
        total: Canvas | None = None
        # An unrolled generator stitches between its iterations: it takes the scan as a whole.
        whole = isinstance(self.parameter_group.generator.network, Unrolled)
        batch_size = len(self.dataset) if whole else self.batch_size
        for batch in torch.arange(len(self.dataset)).split(batch_size):
            members, patches, _ = self.model.generate(batch)
            canvas = self.model.consistency.accumulate(patches, self.model.positions(members))
            total = canvas if total is None else total + canvas
        assert total is not None
        self.parameter_group.object.set_data(total.object(self.model.start_object))
        self._assembled = True

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
        save_generator(
            path,
            self.parameter_group.generator.network,
            self.options.generator,
            self.parameter_group.probe.get_spatial_shape(),
            overwrite=overwrite,
            epochs=self.current_epoch,
        )
