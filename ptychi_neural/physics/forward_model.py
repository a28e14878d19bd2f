"""pty-chi's forward model, with patches handed in and a scale of the intensities.

    Y_pred = S |F(P_j o_j)|^2 (summed over probe modes).

All of it but the scale S is pty-chi's: probe modes, sub-pixel shifts, slices, propagation, detector
size and blur. In the near field the detector stays where it is (``fixed_detector``).
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.image_proc import shift_images
from ptychi.io_handles import PtychographyDataset
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ptychi_neural.options import NeuralReconstructorOptions
from ptychi_neural.options.choices import StitchWeightings
from ptychi_neural.physics.fixed_detector import FixedDetectorForwardModel
from ptychi_neural.physics.intensity_scale import IntensityScale
from ptychi_neural.physics.ranks import Share
from ptychi_neural.physics.shifted_probes import FourierShifts, ShiftedProbes
from ptychi_neural.physics.squared_modulus import squared_modulus, summed_over_modes
from ptychi_neural.physics.stitching import Stitching, in_double


class ScanForwardModel(FixedDetectorForwardModel):
    """Predicts the intensities of given patches at the positions of one scan.

    Parameters
    ----------
    parameter_group : PlanarPtychographyParameterGroup
        Object, probe, positions, OPR weights.
    dataset : PtychographyDataset
        The measured patterns.
    intensity_scale : IntensityScale
        The scale S.
    stitch_weighting : StitchWeightings
        How patches are weighted where they are stitched.
    **kwargs
        Geometry, as pty-chi's forward model takes it.
    """

    def __init__(
        self,
        parameter_group: PlanarPtychographyParameterGroup,
        dataset: PtychographyDataset,
        intensity_scale: IntensityScale,
        stitch_weighting: StitchWeightings,
        **kwargs: Any,
    ) -> None:
        super().__init__(parameter_group, **kwargs)
        self.dataset = dataset
        self.intensity_scale = intensity_scale
        self.stitching = Stitching(self, stitch_weighting)
        self.share: Share | None = getattr(dataset, "share", None)
        """The frames of this rank, where there are several."""
        self._shifted_probes = ShiftedProbes(len(dataset.patterns))
        self._neighbours: dict[int, Tensor] = {}
        self.followers: list[Callable[[torch.device], None]] = []
        """What is called when pty-chi moves the task's tensors to another device."""

    @classmethod
    def of(
        cls,
        parameter_group: PlanarPtychographyParameterGroup,
        dataset: PtychographyDataset,
        intensity_scale: IntensityScale,
        options: NeuralReconstructorOptions,
    ) -> "ScanForwardModel":
        """The model of a dataset, with the geometry of dataset and options."""
        forward = options.forward_model_options
        return cls(
            parameter_group,
            dataset,
            intensity_scale,
            options.consistency.stitch_weighting,
            detector_size=tuple(dataset.patterns.shape[-2:]),
            wavelength_m=dataset.wavelength_m,
            free_space_propagation_distance_m=dataset.free_space_propagation_distance_m,
            pad_for_shift=forward.pad_for_shift,
            low_memory_mode=forward.low_memory_mode,
            diffraction_pattern_blur_sigma=forward.diffraction_pattern_blur_sigma,
        )

    def move_intermediate_variables_to_device(self, device: torch.device) -> None:
        super().move_intermediate_variables_to_device(device)
        for follow in self.followers:
            follow(torch.device(device))

    @property
    def everything(self) -> Tensor:
        """(n,) indices of all frames."""
        return torch.arange(len(self.dataset))

    @property
    def refines_probe_or_positions(self) -> bool:
        """Whether anything that the patterns are predicted with is found along with the object."""
        return bool(self.probe.optimizable or self.probe_positions.optimizable)

    def refined(self) -> list[Tensor]:
        """Copies of probe, positions and OPR weights, to ``go_back`` to."""
        return [each.data.detach().clone() for each in self._refinable]

    @torch.no_grad()
    def go_back(self, refined: list[Tensor]) -> None:
        """Take probe, positions and OPR weights as ``refined`` gave them."""
        for each, data in zip(self._refinable, refined):
            each.set_data(data)

    @property
    def _refinable(self) -> tuple[Any, ...]:
        return self.probe, self.probe_positions, self.opr_mode_weights

    @property
    def writes_down_corrections(self) -> bool:
        """Whether the change of exit waves by the counts can be written down: on a detector of the
        probe's size, without blur."""
        return (
            tuple(self.dataset.patterns.shape[-2:]) == tuple(self.probe.get_spatial_shape())
            and self.diffraction_pattern_blur_sigma is None
        )

    @property
    def is_one_product(self) -> bool:
        """Whether the counts are those of a single product of probe and patch, for which a
        contrast transfer and frames' own systems are known."""
        return self.writes_down_corrections and self.object.n_slices == 1

    @cached_property
    def power_gain(self) -> float:
        """Factor by which propagation to the detector multiplies the power of a wave."""
        with torch.no_grad():
            wave = torch.ones_like(self.probe.data[0, :1][None])  # The same for any probe.
            far = self.forward_far_field(wave)
            return float(far.abs().square().sum() / wave.abs().square().sum())

    def own(self, frames: Tensor) -> Tensor:
        """Those of some frames whose patterns this rank has."""
        return frames if self.share is None else self.share.of(frames)

    def _places(self, frames: Tensor) -> Tensor:
        """Places of some frames among the patterns of this rank."""
        return frames if self.share is None else self.share.places(frames)

    def measured(self, frames: Tensor) -> Tensor:
        """(n, h, w) measured counts as pty-chi keeps them (far field: DC in the corner)."""
        on_dataset = self._places(frames).to(self.dataset.patterns.device)
        return self.dataset.patterns[on_dataset].to(cast(Tensor, self.object.tensor.data).device)

    def positions(self, frames: Tensor) -> Tensor:
        """(n, 2) positions in pixels, (y, x)."""
        return cast(Tensor, self.probe_positions.tensor)[frames]

    def intensities(self, frames: Tensor, patches: Tensor) -> Tensor:
        """(n, h, w) predicted counts of (n, n_slices, h, w) patches of the object."""
        if self.low_mem_mode:
            # pty-chi's own low-memory pass fails with several probe modes: recompute instead.
            intensities = checkpoint(self._predicted, frames, patches, use_reentrant=False)
        else:
            intensities = self._predicted(frames, patches)
        return self.intensity_scale.value * intensities

    def _predicted(self, frames: Tensor, patches: Tensor) -> Tensor:
        far_field = self.forward_far_field(self.forward_real_space(frames, patches))
        intensities = self.conform_to_detector_size(summed_over_modes(squared_modulus(far_field)))
        return cast(Tensor, self.blur_diffraction_patterns(intensities))

    def incident_probes(self, frames: Tensor) -> Tensor:
        """(n, n_modes, h, w) probes at their sub-pixel shifts."""
        return self.shift_unique_probes(
            frames, self.get_unique_probes(frames), first_mode_only=True
        )

    def get_unique_probes(self, indices: Tensor, always_return_probe_batch: bool = True) -> Tensor:
        """The (n, n_modes, h, w) probes of frames, without their sub-pixel shifts.

        pty-chi leaves out the weights of a probe of one OPR mode, so that the beam's intensity
        could not be refined there.
        """
        if not self.uses_weights and always_return_probe_batch:
            probe: Tensor = self.probe.get_opr_mode(0)
            return probe.expand(len(indices), -1, -1, -1)
        if not self.uses_weights or self.probe.has_multiple_opr_modes:
            probes: Tensor = super().get_unique_probes(indices, always_return_probe_batch)
            return probes
        of_frames: Tensor = self.probe.get_unique_probes(self.weights(indices), mode_to_apply=0)
        return of_frames

    @property
    def uses_weights(self) -> bool:
        """Whether the OPR weights count: with several OPR modes, or where they are refined."""
        return bool(self.probe.has_multiple_opr_modes or self.opr_mode_weights.optimizable)

    def weights(self, frames: Tensor) -> Tensor:
        """(n, n_opr_modes) weights of the OPR modes; ones where they do not count."""
        weights: Tensor = self.opr_mode_weights.data[frames]
        return weights if self.uses_weights else torch.ones_like(weights)

    def opr_modes(self, frames: Tensor, which: slice) -> Tensor:
        """(n, k, h, w) some of the first mode's OPR modes at the sub-pixel shifts."""
        modes = self.probe.data[which, :1].expand(-1, len(frames), -1, -1)
        return torch.stack([self._shift(frames, mode[:, None])[:, 0] for mode in modes], 1)

    def shift_unique_probes(
        self, indices: Tensor, unique_probes: Tensor, first_mode_only: bool = False
    ) -> Tensor:
        """Shift probes as pty-chi does, and keep them while nothing changes."""
        if not first_mode_only:
            shifted: Tensor = super().shift_unique_probes(indices, unique_probes)
            return shifted
        return self._shifted_probes.get(
            self._places(indices),
            self.sources_of_probes,
            lambda: self._shift(indices, unique_probes),
        )

    @property
    def sources_of_probes(self) -> list[Tensor]:
        """What the frames' probes are made from."""
        sources = [cast(Tensor, self.probe.tensor.data), cast(Tensor, self.probe_positions.tensor)]
        if self.opr_mode_weights is not None:
            sources.append(cast(Tensor, self.opr_mode_weights.tensor))
        return sources

    def _shift(self, frames: Tensor, waves: Tensor, back: bool = False) -> Tensor:
        if not self._shifts_by_factors:
            return super()._shift(frames, waves, back)
        shifts, the_same = self._fourier_shifts(frames), waves.stride(0) == 0
        first = (shifts.back() if back else shifts).shift(waves[: 1 if the_same else None, 0])
        return torch.cat([first[:, None], waves[:, 1:]], 1)

    def shifted_back(self, frames: Tensor, changes: Tensor) -> Tensor:
        """(n_opr_modes, h, w) change of the first mode's OPR modes that (n, h, w) changes of the
        frames' shifted probes ask for, summed with the frames' weights in double precision."""
        if self._shifts_by_factors:
            return self._fourier_shifts(frames).summed_back(changes, self.weights(frames))
        shifts, method = self._sub_pixel_shifts(frames), self._shift_method
        back = in_double(shift_images(changes, shifts, method=method, adjoint=True))
        return torch.einsum("jk,jhw->khw", self.weights(frames).to(back.dtype), back)

    @property
    def _shifts_by_factors(self) -> bool:
        return self._shift_method == "fourier" and not self.pad_for_shift

    def _fourier_shifts(self, frames: Tensor) -> FourierShifts:
        return FourierShifts.of(self._sub_pixel_shifts(frames), self.probe.data)

    def neighbours(self, grid_size: int) -> Tensor:
        """(n, g^2) indices of each position and its nearest others, in order of y, then x.

        Raises
        ------
        ValueError
            If there are fewer positions than a group has members.
        """
        if grid_size not in self._neighbours:
            self._neighbours[grid_size] = _neighbours(
                self.probe_positions.data.detach().cpu(), grid_size
            )
        return self._neighbours[grid_size]

    def forget_neighbours(self) -> None:
        """Look for neighbours again: the positions are other ones now."""
        self._neighbours = {}


def _neighbours(positions: Tensor, grid_size: int) -> Tensor:
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
