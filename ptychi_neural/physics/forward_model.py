"""pty-chi's forward model, fed with the patches of a generator instead of the object's.

    Y_pred = S |F(P_j * o_j)|^2 (summed over probe modes),     o = consistency(generator(Y_meas)).

Everything but the patches and the scale S is pty-chi's: probe modes, sub-pixel shifts, slices,
propagation, detector size and blur.
"""

from typing import Any, NamedTuple, cast

import torch
from ptychi.forward_models import PlanarPtychographyForwardModel
from ptychi.io_handles import PtychographyDataset
from ptychi.propagate import FourierPropagator, WavefieldPropagator
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ptychi_neural.api.enums import Lifters
from ptychi_neural.api.options import NeuralReconstructorOptions
from ptychi_neural.generators import Unrolled
from ptychi_neural.generators.cascaded import Cascaded
from ptychi_neural.parameters import NeuralParameterGroup
from ptychi_neural.physics.consistency import Canvas, Consistency

MODULUS_FLOOR = 1e-9
"""Added to predicted intensities before their square root is divided by, relative to their mean."""


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
        self.start_object = parameter_group.object.data.detach().clone()
        self.scan_patches: ScanPatches | None = None
        self._patches: Tensor | None = None
        self._groups = self._group_neighbours(options.generator.grid_size)

    def _group_neighbours(self, grid_size: int) -> Tensor:
        """(n, g^2) indices: each position and its nearest others, in order of y, then x."""
        positions = self.probe_positions.data.detach().cpu()
        if len(positions) < grid_size**2:
            raise ValueError(
                f"generator.grid_size = {grid_size} needs {grid_size**2} positions, the scan has "
                f"{len(positions)}: set it to 1."
            )
        _, neighbours = cKDTree(positions).query(positions, k=[*range(1, grid_size**2 + 1)])
        rank = torch.empty(len(positions), dtype=torch.long, device="cpu")
        order = sorted(range(len(positions)), key=lambda i: tuple(positions[i].tolist()))
        rank[torch.tensor(order, device="cpu")] = torch.arange(len(positions), device="cpu")
        groups = torch.as_tensor(neighbours, dtype=torch.long, device="cpu")
        return groups.gather(1, rank[groups].argsort(dim=1))

    def move_intermediate_variables_to_device(self, device: torch.device) -> None:
        super().move_intermediate_variables_to_device(device)
        self.start_object = self.start_object.to(device)
        if self.scan_patches is not None:
            self.scan_patches.patches = self.scan_patches.patches.to(device)
            self.scan_patches.total = Canvas(*(part.to(device) for part in self.scan_patches.total))

    # --- patches ---------------------------------------------------------------------------

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
        patterns = torch.where(self.dataset.valid_pixel_mask, self.measured_patterns(indices), 0.0)
        if isinstance(self.free_space_propagator, FourierPropagator):
            patterns = torch.fft.fftshift(patterns, dim=(-2, -1))
        return patterns

    def start_from(self, object_: Tensor) -> None:
        """Let the generator start from this (n_slices, H, W) object."""
        self.start_object = object_
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
        network, rough = self.generator.network, None
        if isinstance(network, Unrolled):
            return indices, network(MemberOperators(self, indices)), None
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
        """Step that takes each patch to the measured modulus, back-projected through the probe.

            u = sum_m conj(P_m) d_m / (sum_m |P_m|^2 + eps max),
            d = F^-1[(sqrt(Y_meas / Y_pred) - 1) Psi],     Psi = F(P o).

        Pixels that are not valid keep the prediction's modulus.

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
        return self.back_project(*self.exit_wave_correction(indices, patches))

    def back_project(self, probe: Tensor, correction: Tensor) -> Tensor:
        """(n, 1, h, w) update of patches from (n, n_modes, h, w) corrections of exit waves."""
        intensity = probe.abs().square().sum(1, keepdim=True)
        floor = self.options.start.regularization * intensity.amax(dim=(-2, -1), keepdim=True)
        return (probe.conj() * correction).sum(1, keepdim=True) / (intensity + floor)

    def exit_wave_correction(self, indices: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Probes and the change of exit waves that imposes the measured modulus.

        Parameters
        ----------
        indices : Tensor
            (n,) indices of positions.
        patches : Tensor
            (n, 1, h, w) object patches.

        Returns
        -------
        probe, correction : Tensor
            (n, n_modes, h, w) each.
        """
        measured = self.measured_patterns(indices)
        probe = self.shift_unique_probes(
            indices, self.get_unique_probes(indices), first_mode_only=True
        )
        far = self.forward_far_field(self.propagate_through_object(probe, patches))
        predicted = far.abs().square().sum(1)
        if patches.shape[1] > 1 or predicted.shape != measured.shape:
            raise ValueError(
                "Projections (reconstructor_options.start, generator.lifter = 'backprojection', "
                "generator.architecture = 'unrolled') need a single-slice object and a detector of "
                f"the probe's size; here {patches.shape[1]} slices, detector "
                f"{tuple(measured.shape[-2:])}, probe {tuple(predicted.shape[-2:])}."
            )
        # The floor bounds the gradient where nothing is predicted.
        floor = MODULUS_FLOOR * predicted.detach().mean(dim=(-2, -1), keepdim=True)
        ratio = measured.sqrt() / (self.intensity_scale.value * (predicted + floor)).sqrt()
        change = torch.where(self.dataset.valid_pixel_mask, ratio - 1, 0.0)
        propagator = cast(WavefieldPropagator, self.free_space_propagator)
        return probe, propagator.propagate_backward(change[:, None] * far)


class MemberOperators:
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

    def start_patches(self) -> Tensor:
        return self.forward_model.start_patches(self.members)

    def data_update(self, patches: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.forward_model.data_update(self.members, patches)
        size = self.forward_model.options.batch_size
        return torch.cat(
            [
                self.forward_model.data_update(*chunk)
                for chunk in zip(self.members.split(size), patches.split(size))
            ]
        )

    def consistency(self, patches: Tensor) -> Tensor:
        stitched = self.forward_model.stitch(self.members, patches)
        return self.forward_model.consistency.extract(
            stitched, self.forward_model.positions(self.members)
        )


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
