"""What each frame has of its own, found from its counts: its position, its beam.

All that changes the modulus of a frame's pattern by D_i per unit is found together, by a
Gauss-Newton step of the frame's own small system,

    (sum D D^T) s = sum D (sqrt(Y_meas) - sqrt(Y_pred)),     D_i = Re(Psi^* F(psi_i)) / |Psi|,

where psi_i is the change of its last exit waves. The modulus has the same variance at all counts,
so that the sums need no weights. With the corrections d of the exit waves the right side is

    sum D (sqrt(Y_meas) - sqrt(Y_pred)) = S N sum Re(d^* psi_i),

N being the factor by which propagation multiplies the power of a wave. Of several slices it is the
sum over what changes in each of them, so that it takes no propagation; the left side, which changes
slowly, is computed every few iterations only.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ptychi_neural.physics.exit_waves import ExitWaveCorrection
from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.squared_modulus import squared_modulus, summed_over_modes
from ptychi_neural.projections.opr_weights import WeightRefinement
from ptychi_neural.projections.positions import PositionRefinement
from ptychi_neural.projections.resumable import Resumable

NORMAL_STRIDE = 4
"""Iterations from one to the next in which the left side of the systems is computed anew; even, so
that halves that are seen in turn have theirs."""


WaveChange = list[Tensor]
"""(n, n_modes, h, w) changes of the exit waves of the first slices by what happens in each of them;
(n, 1, h, w) where only the first mode changes."""


class Refinement(Protocol):
    """Steps of something that each frame has of its own."""

    name: str
    """What is refined, as ``NeuralParameterGroup.of_task`` names it."""

    n_unknowns: int

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration of this number takes steps."""

    def begin(self, object_: Tensor) -> None:
        """Take the (n_slices, H, W) object from which patches will be cut."""

    def wave_changes(
        self, correction: ExitWaveCorrection, patches: Tensor, frames: Tensor
    ) -> list[WaveChange]:
        """What each unknown changes."""

    def take(self, steps: Tensor) -> None:
        """Take (n, n_unknowns) steps."""

    def restart(self) -> None:
        """Go on without momentum."""

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""


class FrameParameters(Resumable):
    """Everything that is refined for each frame by itself.

    Parameters
    ----------
    scan : ScanPhysics
        The scan; its task's options tell what is refined.
    """

    KEPT = ("_n_begun", "_normal", "_known")

    def __init__(self, scan: ScanPhysics) -> None:
        self.model, self.damping = scan.model, scan.options.start.frame_damping
        self.batch_size = scan.options.batch_size
        self._refinements: list[Refinement] = []
        if scan.model.writes_down_corrections:
            if scan.model.probe_positions.optimizable:
                self._refinements.append(PositionRefinement(scan))
            if scan.model.opr_mode_weights.optimizable:
                self._refinements.append(WeightRefinement(scan))
        self._due: Sequence[Refinement] = ()
        self._n_begun = 0
        self._normal = self._asked = torch.empty(0)
        self._known = torch.empty(0, dtype=torch.bool)

    def begin(self, iteration: int, object_: Tensor) -> None:
        """Begin an iteration of the (n_slices, H, W) object."""
        due = [each for each in self._refinements if each.is_due(iteration)]
        for each in due:
            each.begin(object_)
        n_frames, n_unknowns = len(self.model.everything), sum(r.n_unknowns for r in due)
        if due != self._due or self._n_begun % NORMAL_STRIDE == 0:
            self._due, self._n_begun = due, 0
            self._normal = object_.real.new_zeros(n_frames, n_unknowns, n_unknowns)
            self._known = torch.zeros(n_frames, dtype=torch.bool, device=object_.device)
        self._n_begun += 1
        self._asked = object_.real.new_zeros(n_frames, n_unknowns, 1)

    @property
    def are_due(self) -> bool:
        """Whether this iteration changes anything of the frames."""
        return self._asked.numel() > 0

    @property
    def names_due(self) -> set[str]:
        """What this iteration refines."""
        return {each.name for each in self._due}

    def accumulate(self, correction: ExitWaveCorrection, patches: Tensor, frames: Tensor) -> None:
        """Take in some frames with their (n, n_slices, h, w) patches."""
        waves = [
            change
            for each in self._due
            for change in each.wave_changes(correction, patches, frames)
        ]
        along = [changed_along(correction.exit_waves, of_slices) for of_slices in waves]
        scale = self.model.intensity_scale.value
        self._asked[frames, :, 0] = scale * self.model.power_gain * torch.stack(along, 1)
        is_new = ~self._known[frames]
        if is_new.any():
            changes = modulus_changes(self.model, frames, correction.far, waves, patches)
            changes = torch.where(correction.seen[..., None, :, :], changes, 0.0).flatten(2)
            self._normal[frames[is_new]] = (scale * changes @ changes.mT)[is_new]

    def state_dict(self) -> dict[str, Any]:
        of_each = [each.state_dict() for each in self._refinements]
        due = [self._refinements.index(each) for each in self._due]
        return {**super().state_dict(), "of_each": of_each, "due": due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for each, of_it in zip(self._refinements, state["of_each"], strict=True):
            each.load_state_dict(of_it)
        self._due = [self._refinements[number] for number in state["due"]]

    def steps(self, frames: Tensor) -> Tensor:
        """(n_frames, n_unknowns) steps that those of the (n,) frames that were taken in ask for,
        here and on other ranks."""
        new = frames[~self._known[frames]]
        if len(new) > 0:  # The same on all ranks.
            self._normal[new], self._known[new] = summed(self._normal[new]), True
        asked_of = summed(self._asked)
        steps = torch.zeros_like(asked_of[..., 0])
        for batch in frames.split(self.batch_size):
            normal = self._normal[batch]
            damping = self.damping * normal.diagonal(dim1=1, dim2=2).mean(0)
            tiny = torch.finfo(damping.dtype).tiny
            normal = normal + torch.diag(damping.clamp(min=tiny))
            steps[batch] = torch.linalg.solve(normal, asked_of[batch])[..., 0]
        return steps

    def restart(self) -> None:
        """Go on without momentum, after positions and weights went back."""
        for each in self._refinements:
            each.restart()

    def take(self, frames: Tensor) -> None:
        """Take the steps of the (n,) frames that were taken in."""
        steps = self.steps(frames).split([each.n_unknowns for each in self._due], dim=1)
        for each, of_each in zip(self._due, steps):
            each.take(of_each)


def changed_along(wanted: Sequence[Tensor], changes: WaveChange) -> Tensor:
    """(n,) sums of Re(d^* psi) over pixels, modes and slices, d being wanted of each slice."""
    of_slices = [
        (each[:, : change.shape[1]].conj() * change).real.sum((1, 2, 3))
        for each, change in zip(wanted, changes)
    ]
    return torch.stack(of_slices).sum(0)


def modulus_changes(
    model: ScanForwardModel,
    frames: Tensor,
    far: Tensor,
    changes: Sequence[WaveChange],
    patches: Tensor,
) -> Tensor:
    """(n, n_unknowns, h, w) derivatives of the patterns' moduli, without the scale.

    Parameters
    ----------
    model : ScanForwardModel
        The propagation.
    frames : Tensor
        (n,) indices of frames.
    far : Tensor
        (n, n_modes, h, w) waves on the detector.
    changes : sequence of list of Tensor
        Derivatives of the exit waves by each unknown.
    patches : Tensor
        (n, n_slices, h, w) patches, through which changes of the first slices go on.
    """
    modulus = summed_over_modes(squared_modulus(far)).sqrt()
    modulus = modulus + 1e-6 * modulus.mean(dim=(-2, -1), keepdim=True)
    along = []
    for first, *others in changes:
        wave = first
        for slice_ in range(1, patches.shape[1]):
            wave = patches[:, slice_, None] * model.propagate_to_next_slice(wave, slice_ - 1)
            if slice_ <= len(others):
                wave = wave + others[slice_ - 1]
        change = model.forward_far_field(model.to_detector(frames, wave))
        along.append((far[:, : change.shape[1]].conj() * change).real.sum(1) / modulus)
    return torch.stack(along, 1)
