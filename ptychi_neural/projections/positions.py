"""Gauss-Newton steps of the scan positions, in closed form for each frame.

When a position moves by s, the modulus of its pattern changes by s . D with

    D = sum_m Re(Psi_m^* F(P_m grad O)) / |Psi|,     |Psi|^2 = sum_m |Psi_m|^2,

and the step that brings it closest to the measured modulus solves the frame's 2 x 2 system

    (sum D D^T) s = sum D (sqrt(Y_meas) - sqrt(Y_pred)).

The modulus has the same variance at all counts, so that the sums need no weights. A shift of a
whole exit wave leaves the pattern as it is; in contrast to a fit of exit waves (Odstrcil et al.,
Opt. Express 26, 3108 (2018), eq. 24) the system does not count it as a change.
"""

import math

import ptychi.maths as pmath
import torch
from torch import Tensor

from ptychi_neural.physics.exit_waves import ExitWaveCorrection
from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.scan_physics import ScanPhysics


class PositionRefinement:
    """Steps of the positions of a scan, gathered batch by batch.

    Parameters
    ----------
    scan : ScanPhysics
        The scan whose positions are refined.
    """

    def __init__(self, scan: ScanPhysics) -> None:
        self.model = scan.model
        self.options = scan.options.start
        self.positions = scan.model.probe_positions
        self._nominal = self.positions.data.clone()
        self._steps = torch.zeros_like(self.positions.data)
        self._velocity = torch.zeros_like(self.positions.data)
        self._slopes = torch.empty(0)

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration of this number moves the positions, by the options and the plan."""
        n_since = iteration - self.options.first_position_iteration
        return n_since >= 0 and self.positions.optimization_enabled(iteration)

    def begin(self, object_: Tensor) -> None:
        """Take the slopes of the (1, H, W) object from which patches will be cut."""
        self._slopes = slopes(object_)
        self._steps = torch.zeros_like(self._steps)

    def accumulate(
        self, correction: ExitWaveCorrection, patches: Tensor, measured: Tensor, frames: Tensor
    ) -> None:
        """Find the steps of some frames from their (n, h, w) counts and (n, 1, h, w) patches."""
        where = self.model.positions(frames)
        of_patches = torch.cat([self.model.stitching.extract(s, where) for s in self._slopes], 1)
        changes = modulus_changes(self.model, correction.probe, patches, of_patches)
        changes = self.model.intensity_scale.value.sqrt() * changes
        residual = torch.where(correction.seen, measured.sqrt() - correction.predicted.sqrt(), 0.0)
        changes = torch.where(correction.seen[..., None, :, :], changes, 0.0).flatten(2)
        normal = changes @ changes.mT
        asked = changes @ residual.flatten(1)[..., None]
        damping = self.options.position_damping * normal.diagonal(dim1=1, dim2=2).mean()
        normal = normal + damping * torch.eye(2, dtype=normal.dtype)
        self._steps[frames] = torch.linalg.solve(normal, asked)[..., 0]

    def take(self) -> None:
        """Move the positions, within the limits of pty-chi's options.

        What an affine map would do to all positions is left out of the steps: object and probe can
        take part in it (a shift of both; a scale that more defocus undoes), so that early errors of
        the probe would drive it far.
        """
        step = self._limited(self.options.position_step * self._steps)
        self._velocity = self.options.position_momentum * self._velocity + step
        self._velocity = self._velocity - affine_part(self._velocity, self._nominal)
        self.positions.set_data(self.positions.data + self._velocity)
        if self.positions.options.constrain_position_mean:
            self.positions.constrain_position_mean()

    def _limited(self, step: Tensor) -> Tensor:
        """Steps along each axis of at most the limit and ten median absolute deviations."""
        options = self.positions.options.correction_options
        limit = torch.full((2,), options.update_magnitude_limit or math.inf, dtype=step.dtype)
        if options.clip_update_magnitude_by_mad:
            limit = torch.minimum(limit, 10 * pmath.mad(step, dim=0))
        return step.clamp(-limit, limit)


def affine_part(displacements: Tensor, positions: Tensor) -> Tensor:
    """(n, 2) displacements that the affine map closest to the given ones makes of (n, 2) positions.

    Of fewer than four positions only the mean is told from the rest.
    """
    if len(positions) < 4:
        return displacements.mean(0).expand_as(displacements)
    centred = positions - positions.mean(0)
    columns = torch.cat([torch.ones_like(centred[:, :1]), centred / (centred.std() + 1e-12)], 1)
    return columns @ (torch.linalg.pinv(columns) @ displacements)


def slopes(object_: Tensor) -> Tensor:
    """(2, 1, H, W) derivatives of a (1, H, W) object along y and x, per pixel."""
    spectrum = torch.fft.fft2(object_)
    ky, kx = (2j * math.pi * torch.fft.fftfreq(n) for n in object_.shape[-2:])
    return torch.stack([torch.fft.ifft2(ky[:, None] * spectrum), torch.fft.ifft2(kx * spectrum)])


def modulus_changes(
    model: ScanForwardModel, probe: Tensor, patches: Tensor, of_patches: Tensor
) -> Tensor:
    """(n, 2, h, w) derivatives of the patterns' moduli by the positions, without the scale.

    Parameters
    ----------
    model : ScanForwardModel
        The propagation.
    probe : Tensor
        (n, n_modes, h, w) probes at their sub-pixel shifts.
    patches : Tensor
        (n, 1, h, w) patches of the object.
    of_patches : Tensor
        (n, 2, h, w) derivatives of the patches along y and x.
    """
    far = model.forward_far_field(probe * patches)
    modulus = far.abs().square().sum(1).sqrt()
    modulus = modulus + 1e-6 * modulus.mean(dim=(-2, -1), keepdim=True)
    along = [
        (far.conj() * model.forward_far_field(probe * of_axis[:, None])).real.sum(1) / modulus
        for of_axis in of_patches.unbind(1)
    ]
    return torch.stack(along, 1)
