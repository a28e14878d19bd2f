"""pty-chi's forward model, fed with the patches of a generator instead of the object's.

    Y_pred = S |F(P_j * o_j)|^2 (summed over probe modes),     o = consistency(generator(Y_meas)).

Everything but the patches and the scale S is pty-chi's: probe modes, sub-pixel shifts, slices,
propagation, detector size and blur.
"""

from typing import Any, NamedTuple, cast

import torch
from ptychi.api.enums import LossFunctions
from ptychi.forward_models import PlanarPtychographyForwardModel
from ptychi.image_proc import shift_images
from ptychi.io_handles import PtychographyDataset
from ptychi.propagate import FourierPropagator, WavefieldPropagator
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ptychi_neural.engine.parameters import NeuralParameterGroup
from ptychi_neural.generators import Generator, Unrolled
from ptychi_neural.generators.architectures.cascaded import Cascaded
from ptychi_neural.options.choices import Architectures, Lifters
from ptychi_neural.options.options import NeuralReconstructorOptions
from ptychi_neural.physics.pixel_splits import PixelSplits
from ptychi_neural.physics.shifted_probes import ShiftedProbes
from ptychi_neural.physics.stitching import Canvas, Consistency, coverage

MODULUS_FLOOR = 1e-9
"""Added to predicted intensities before they are divided by, relative to their mean."""

LARGEST_CHANGE = 3.0
"""Of an exit wave's Fourier component, relative to itself, in one step of the likelihood: a photon
where almost none was predicted would ask for any."""


class Prediction(NamedTuple):
    """What the forward model predicts for a minibatch."""

    intensities: Tensor
    """(n, h, w) predicted counts."""

    object: Tensor
    """(n_slices, H, W) object stitched of the patches."""

    rough_intensities: Tensor | None
    """(n, h, w) predicted counts of a cascade's rough object, where its loss is asked for."""


class NeuralForwardModel(PlanarPtychographyForwardModel):
    """Predicts intensities from patches that the generator makes of the measured ones.

    Parameters
    ----------
    parameter_group : NeuralParameterGroup
        Object (the starting object), probe, positions, OPR weights, generator, scale.
    dataset : PtychographyDataset
        The measured patterns, from which the generator makes patches.
    options : NeuralReconstructorOptions
        The engine's options.
    **kwargs
        Geometry, as pty-chi's forward model takes it.
    """

    def __init__(
        self,
        parameter_group: NeuralParameterGroup,
        dataset: PtychographyDataset,
        options: NeuralReconstructorOptions,
        **kwargs: Any,
    ) -> None:
        super().__init__(parameter_group, **kwargs)
        self.generator = parameter_group.generator
        self.intensity_scale = parameter_group.intensity_scale
        self.dataset = dataset
        self.options = options
        self.consistency = Consistency(self, options.consistency.stitch_weighting)
        self.pixels = self._split_pixels()
        self.scan_patches: ScanPatches | None = None
        self.split: int | None = None
        self.start_objects: dict[int | None, Tensor] = {}
        self.start_from(parameter_group.object.data.detach().clone())
        self._shifted_probes = ShiftedProbes(len(dataset))
        self._patches: Tensor | None = None
        self.everything = torch.arange(len(dataset))
        self._groups = self._group_neighbours(options.generator.grid_size)

    def _group_neighbours(self, grid_size: int) -> Tensor:
        """(n, g^2) indices: each position and its nearest others, in order of y, then x."""
        positions = self.probe_positions.data.detach().cpu()
        if len(positions) < grid_size**2:
            raise ValueError(
                f"generator.grid_size = {grid_size} needs {grid_size**2} positions, the scan has "
                f"{len(positions)}: set it to 1."
            )
        if grid_size == 1:  # Frames at one position are each other's nearest.
            return torch.arange(len(positions), device="cpu")[:, None]
        _, neighbours = cKDTree(positions).query(positions, k=[*range(1, grid_size**2 + 1)])
        rank = torch.empty(len(positions), dtype=torch.long, device="cpu")
        order = sorted(range(len(positions)), key=lambda i: tuple(positions[i].tolist()))
        rank[torch.tensor(order, device="cpu")] = torch.arange(len(positions), device="cpu")
        groups = torch.as_tensor(neighbours, dtype=torch.long, device="cpu")
        return groups.gather(1, rank[groups].argsort(dim=1))

    def move_intermediate_variables_to_device(self, device: torch.device) -> None:
        super().move_intermediate_variables_to_device(device)
        self.start_objects = {key: value.to(device) for key, value in self.start_objects.items()}
        if self.scan_patches is not None:
            self.scan_patches.patches = self.scan_patches.patches.to(device)
            self.scan_patches.total = Canvas(*(part.to(device) for part in self.scan_patches.total))

    # --- pixels ----------------------------------------------------------------------------

    def _split_pixels(self) -> PixelSplits | None:
        unrolled = self.options.generator.architecture == Architectures.UNROLLED
        n_splits = self.options.generator.unrolled.n_splits if unrolled else 1
        held_out = self.options.validation.held_out
        if n_splits == 1 and held_out == 0:
            return None
        patterns = self.dataset.patterns
        shape = cast(tuple[int, int, int], tuple(patterns.shape))
        return PixelSplits(
            shape, n_splits, held_out, self.options.random_seed or 0, patterns.device
        )

    def seen_pixels(self, indices: Tensor) -> Tensor:
        """(n, h, w) or (h, w) detector pixels that input and updates may use."""
        valid = self.dataset.valid_pixel_mask
        if self.pixels is None or not self.pixels.hide_any(self.split):
            return valid
        return valid & self.pixels.seen(indices, self.split).to(valid.device)

    def predicted_pixels(self, indices: Tensor) -> Tensor:
        """(n, h, w) or (h, w) detector pixels that the loss compares."""
        valid = self.dataset.valid_pixel_mask
        if self.pixels is None or not self.pixels.hide_any(self.split):
            return valid
        return valid & self.pixels.predicted(indices, self.split).to(valid.device)

    def held_out_pixels(self, indices: Tensor) -> Tensor:
        """(n, h, w) detector pixels that are kept for validation."""
        assert self.pixels is not None
        valid = self.dataset.valid_pixel_mask
        return valid & self.pixels.held_out(indices).to(valid.device)

    # --- patches ---------------------------------------------------------------------------

    @property
    def start_object(self) -> Tensor:
        """(n_slices, H, W) object that the generator starts from, for the present split."""
        return self.start_objects.get(self.split, self.start_objects[None])

    def measured_patterns(self, indices: Tensor) -> Tensor:
        """(n, h, w) measured counts as pty-chi keeps them (far field: DC in the corner)."""
        on_dataset = indices.to(self.dataset.patterns.device)
        return self.dataset.patterns[on_dataset].to(self.start_object.device)

    def positions(self, indices: Tensor) -> Tensor:
        """(n, 2) positions in pixels, (y, x)."""
        return cast(Tensor, self.probe_positions.tensor)[indices]

    def generator_features(self, indices: Tensor) -> Tensor:
        """What the generator's lifter takes: (n, h, w) counts with DC at the image centre, or for
        the back-projection lifter (n, n_slices, h, w) first updates of the starting object."""
        if self.options.generator.lifter == Lifters.BACKPROJECTION:
            with torch.no_grad():
                return self.data_update(indices, self.start_patches(indices))
        seen = self.seen_pixels(indices)
        patterns = torch.where(seen, self.measured_patterns(indices), 0.0)
        if isinstance(self.free_space_propagator, FourierPropagator):
            patterns = torch.fft.fftshift(patterns, dim=(-2, -1))
        return patterns

    def start_from(self, object_: Tensor) -> None:
        """Let the generator start from this (n_slices, H, W) object."""
        self.start_objects = {None: object_}
        if self.scan_patches is not None:
            self.scan_patches = ScanPatches(self)

    def start_patches(self, indices: Tensor) -> Tensor:
        """(n, n_slices, h, w) patches of the object that the generator starts from."""
        return self.consistency.extract(self.start_object, self.positions(indices))

    def generate(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Patches that the generator makes for ``indices`` and, with a grid, their neighbours.

        Returns
        -------
        members : Tensor
            (m,) indices of the positions that the patches belong to, m = n g^2.
        patches : Tensor
            (m, n_slices, h, w) local patches.
        rough : Tensor or None
            A cascade's rough patches, if a loss on them is asked for.
        """
        network, rough = cast(Generator, self.generator.network), None
        members = self._groups[indices.cpu()].to(indices.device)
        flat = members.flatten()
        start = self.start_patches(flat)
        inputs = self.generator_features(flat).unflatten(0, members.shape)
        if (
            torch.is_grad_enabled()
            and self.options.generator.cascaded.rough_loss_weight > 0
            and not cast(Cascaded, network.network).stage_one_only
        ):
            factor, rough = network.forward_with_rough(inputs)
            rough = start * rough.flatten(0, 1)
        else:
            factor = network(inputs)
        return flat, start * factor.flatten(0, 1), rough

    @property
    def coverage(self) -> Tensor:
        """(H, W) from 0 where no light fell to 1: weight of the data beside the damping."""
        weight = self.consistency.total_weight(self.positions(self.everything))
        return coverage(weight, self.options.start.regularization)

    def stitch(self, members: Tensor, patches: Tensor) -> Tensor:
        """(n_slices, H, W) object of a minibatch's patches, in the scope that the options set."""
        positions = self.positions(members)
        canvas = self.consistency.accumulate(patches, positions)
        if self.scan_patches is not None:
            canvas = self.scan_patches.complete(canvas, members, patches)
        return canvas.object(self.start_object)

    # --- intensities -----------------------------------------------------------------------

    def extract_object_patches(self, indices: Tensor) -> Tensor:
        """The patches in use, where pty-chi's forward model asks for the object's."""
        if self._patches is None:
            return super().extract_object_patches(indices)
        return self._patches

    def intensities_of(self, indices: Tensor, patches: Tensor) -> Tensor:
        """(n, h, w) predicted counts of (n, n_slices, h, w) patches at ``indices``."""
        if self.low_mem_mode:
            # pty-chi's own low-memory pass fails with several probe modes: recompute instead.
            intensities = checkpoint(self._predict, indices, patches, use_reentrant=False)
        else:
            intensities = self._predict(indices, patches)
        return self.intensity_scale.value * intensities

    def _predict(self, indices: Tensor, patches: Tensor) -> Tensor:
        self._patches = patches
        try:
            return super().forward(indices)
        finally:
            self._patches = None

    def forward(self, indices: Tensor) -> Prediction:  # type: ignore[override]
        """Predict the intensities of a minibatch.

        Parameters
        ----------
        indices : Tensor
            (n,) indices of positions.

        Returns
        -------
        Prediction
            Intensities, stitched object and, if asked for, the rough object's intensities.
        """
        indices = indices.to(self.start_object.device)
        positions = self.positions(indices)
        if isinstance(self.generator.network, Unrolled):
            object_ = self.generator.network(ScanOperators(self, indices))
            patches = self.consistency.extract(object_, positions)
            return Prediction(self.intensities_of(indices, patches), object_, None)
        members, patches, rough = self.generate(indices)
        rough_intensities = None
        if rough is not None:  # First: the refined patches are to be the latest of the scan.
            rough_object = self.stitch(members, rough)
            rough_intensities = self.intensities_of(
                indices, self.consistency.extract(rough_object, positions)
            )
        stitched = self.stitch(members, patches)
        intensities = self.intensities_of(indices, self.consistency.extract(stitched, positions))
        return Prediction(intensities, stitched, rough_intensities)

    def data_update(self, indices: Tensor, patches: Tensor) -> Tensor:
        """Step that takes each patch to the measured counts, back-projected through the probe.

            u = sum_m conj(P_m) d_m / (sum_m |P_m|^2 + eps max),
            d = F^-1[c Psi],     Psi = F(P o),     c: see ``exit_wave_correction``.

        Pixels that are not valid, or not to be seen, keep the prediction.

        Parameters
        ----------
        indices : Tensor
            (n,) indices of positions.
        patches : Tensor
            (n, 1, h, w) object patches.

        Returns
        -------
        Tensor
            (n, 1, h, w) complex update of the patches.
        """
        correction = self.exit_wave_correction(indices, patches)
        probe = correction.probe
        intensity = probe.abs().square().sum(1, keepdim=True)
        floor = self.options.start.regularization * intensity.amax(dim=(-2, -1), keepdim=True)
        projected = (probe.conj() * correction.exit_waves).sum(1, keepdim=True)
        return projected / (intensity + floor)

    def exit_wave_correction(
        self,
        indices: Tensor,
        patches: Tensor,
        measured: Tensor | None = None,
        of_modulus: bool = False,
    ) -> "ExitWaveCorrection":
        """Probes and the change of exit waves that brings them to the measured counts.

        The change is that of the modulus, or, where the loss is the Poisson likelihood, its step
        (Y_meas / Y_pred - 1) / 2, to which the other tends at many counts (LSQML's noise models:
        Odstrcil et al., Opt. Express 26, 3108 (2018)).

        Parameters
        ----------
        indices : Tensor
            (n,) indices of positions.
        patches : Tensor
            (n, 1, h, w) object patches.
        measured : Tensor, optional
            (n, h, w) counts instead of those of the dataset.
        of_modulus : bool
            Whatever the loss.
        """
        if measured is None:
            measured = self.measured_patterns(indices)
        probe = self._incident_probes(indices)
        far = self.forward_far_field(self.propagate_through_object(probe, patches))
        power = (far.real.square() + far.imag.square()).sum(1)
        if patches.shape[1] > 1 or power.shape != measured.shape:
            raise ValueError(
                "Projections (reconstructor_options.start, generator.lifter = 'backprojection', "
                "generator.architecture = 'unrolled') need a single-slice object and a detector of "
                f"the probe's size; here {patches.shape[1]} slices, detector "
                f"{tuple(measured.shape[-2:])}, probe {tuple(power.shape[-2:])}. Set "
                "reconstructor_options.start.n_iterations = 0 and another architecture."
            )
        # The floor bounds the gradient where nothing is predicted.
        floor = MODULUS_FLOOR * power.detach().mean(dim=(-2, -1), keepdim=True)
        predicted = self.intensity_scale.value * (power + floor)
        if self.options.loss_function == LossFunctions.POISSON and not of_modulus:
            change = ((measured / predicted - 1) / 2).clamp(max=LARGEST_CHANGE)
        else:
            change = (measured / predicted).sqrt() - 1
        seen = self.seen_pixels(indices)
        change = torch.where(seen, change, 0.0)
        propagator = cast(WavefieldPropagator, self.free_space_propagator)
        exit_waves = propagator.propagate_backward(change[:, None] * far)
        return ExitWaveCorrection(probe, exit_waves, predicted, seen)

    def accumulate_update(self, indices: Tensor, object_: Tensor) -> Canvas:
        """Back-projected corrections of some patterns, summed up on the object's canvas.

        Its ``weighted_patches`` are sum_j P_j^* d_j, its ``weight`` sum_j |P_j|^2.
        """
        positions = self.positions(indices)
        patches = self.consistency.extract(object_, positions)
        return self.place_correction(self.exit_wave_correction(indices, patches), positions)

    def place_correction(self, correction: "ExitWaveCorrection", positions: Tensor) -> Canvas:
        """Back-project corrections of exit waves to the object's canvas."""
        back = self.back_project(correction, positions)
        return Canvas(back, self.illumination(correction.probe, positions))

    def back_project(self, correction: "ExitWaveCorrection", positions: Tensor) -> Tensor:
        """(1, H, W) sum_j P_j^* d_j."""
        projected = (correction.probe.conj() * correction.exit_waves).sum(1, keepdim=True)
        return self.consistency.place(projected, positions)

    @torch.no_grad()
    def illumination(self, probe: Tensor, positions: Tensor) -> Tensor:
        """(H, W) sum_j |P_j|^2 of (n, n_modes, h, w) probes."""
        intensity = (probe.real.square() + probe.imag.square()).sum(1, keepdim=True)
        return self.consistency.place(intensity, positions)[0]

    def object_update(self, canvas: Canvas) -> Tensor:
        """(1, H, W) least-squares step of the object from summed corrections."""
        damping = self.options.start.regularization * canvas.weight.max()
        return canvas.weighted_patches / (canvas.weight + damping)

    def probe_update(
        self, indices: Tensor, patches: Tensor, correction: "ExitWaveCorrection"
    ) -> Tensor:
        """(n_modes, h, w) sum_j O_j^* d_j of some positions, each without its sub-pixel shift."""
        directions = patches.conj() * correction.exit_waves
        group = cast(NeuralParameterGroup, self.parameter_group)
        shifted_back = shift_images(
            directions[:, 0],
            self.get_probe_grid_position_data()[2][indices],
            method=group.object.options.patch_interpolation_method,
            adjoint=True,
        )
        return torch.cat([shifted_back[:, None], directions[:, 1:]], dim=1).sum(0)

    def _incident_probes(self, indices: Tensor) -> Tensor:
        return self.shift_unique_probes(
            indices, self.get_unique_probes(indices), first_mode_only=True
        )

    def shift_unique_probes(
        self, indices: Tensor, unique_probes: Tensor, first_mode_only: bool = False
    ) -> Tensor:
        """pty-chi's shift, kept while nothing changes."""
        group = cast(NeuralParameterGroup, self.parameter_group)
        sources = [cast(Tensor, group.probe.tensor.data), cast(Tensor, self.probe_positions.tensor)]
        if group.opr_mode_weights is not None:
            sources.append(cast(Tensor, group.opr_mode_weights.tensor))
        return self._shifted_probes.get(
            indices,
            sources,
            lambda: super(NeuralForwardModel, self).shift_unique_probes(
                indices, unique_probes, first_mode_only
            ),
        )


class ExitWaveCorrection(NamedTuple):
    """What brings the exit waves of a batch closer to the measured counts."""

    probe: Tensor
    """(n, n_modes, h, w) probes at their sub-pixel shifts."""

    exit_waves: Tensor
    """(n, n_modes, h, w) change of the exit waves."""

    predicted: Tensor
    """(n, h, w) predicted counts."""

    seen: Tensor
    """(n, h, w) or (h, w) pixels whose measured counts were used."""


class ScanOperators:
    """The physics of some positions, for an unrolled generator (``PhysicsOperators``).

    Parameters
    ----------
    forward_model : NeuralForwardModel
        Its operators.
    members : Tensor
        (n,) indices of positions.
    """

    def __init__(self, forward_model: NeuralForwardModel, members: Tensor) -> None:
        self.forward_model = forward_model
        self.members = members
        self._coverage = forward_model.coverage

    def start(self) -> Tensor:
        return self.forward_model.start_object

    def coverage(self) -> Tensor:
        return self._coverage

    def update(self, object_: Tensor) -> Tensor:
        model = self.forward_model
        if object_.requires_grad:
            return model.object_update(model.accumulate_update(self.members, object_))
        with torch.no_grad():  # A given object's update is an input of the generator.
            batches = self.members.split(model.options.batch_size)
            total = model.accumulate_update(batches[0], object_)
            for batch in batches[1:]:
                total = total + model.accumulate_update(batch, object_)
            return model.object_update(total)


class ScanPatches:
    """The latest prediction of every position: ``StitchScopes.SCAN``.

    Parameters
    ----------
    forward_model : NeuralForwardModel
        Its patches.
    """

    def __init__(self, forward_model: NeuralForwardModel) -> None:
        self.forward_model = forward_model
        everything = torch.arange(len(forward_model.dataset))
        self.patches = forward_model.start_patches(everything).detach()
        self.refresh()

    def refresh(self) -> None:
        """Stitch everything anew, with the positions and the probe as they are now."""
        with torch.no_grad():
            self.total = self.forward_model.consistency.accumulate(
                self.patches, self.forward_model.positions(torch.arange(len(self.patches)))
            )

    def complete(self, canvas: Canvas, members: Tensor, patches: Tensor) -> Canvas:
        """Add to a minibatch's canvas what all other positions predicted last."""
        present = torch.unique(members)
        positions = self.forward_model.positions(present)
        accumulate = self.forward_model.consistency.accumulate
        with torch.no_grad():
            others = self.total - accumulate(self.patches[present], positions)
            self.patches[members] = patches.detach()
            self.total = others + accumulate(self.patches[present], positions)
        return canvas + others
