"""Steps of the scan positions.

When a position moves by s, the modulus of its pattern changes by s . D with

    D = sum_m Re(Psi_m^* F(P_m grad O)) / |Psi|,     |Psi|^2 = sum_m |Psi_m|^2.

A shift of a whole exit wave leaves the pattern as it is; in contrast to a fit of exit waves
(Odstrcil et al., Opt. Express 26, 3108 (2018), eq. 24) this does not count it as a change.
"""

import math

import ptychi.maths as pmath
import torch
from torch import Tensor

from ptychi_neural.physics.exit_waves import ExitWaveCorrection
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.contrast_transfer import first_divided_iteration
from ptychi_neural.projections.resumable import Resumable


class PositionRefinement(Resumable):
    """Steps of the positions of a scan.

    Parameters
    ----------
    scan : ScanPhysics
        The scan whose positions are refined.
    """

    KEPT = ("_nominal", "_velocity")
    name = "positions"
    n_unknowns = 2

    def __init__(self, scan: ScanPhysics) -> None:
        self.model = scan.model
        self.options = scan.options.start
        self.positions = scan.model.probe_positions
        first_divided = first_divided_iteration(scan)
        self._first = (
            self.options.first_position_iteration if first_divided is None else first_divided
        )
        self._nominal = self.positions.data.clone()
        self._velocity = torch.zeros_like(self.positions.data)
        self._keeps_affine_part = True
        self._slopes = torch.empty(0)

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration of this number moves the positions, by the options and the plan."""
        self._keeps_affine_part = iteration < self.options.first_affine_iteration
        return iteration >= self._first and self.positions.optimization_enabled(iteration)

    def begin(self, object_: Tensor) -> None:
        """Take the slopes of the (n_slices, H, W) object from which patches will be cut."""
        self._slopes = slopes(object_)

    def wave_changes(
        self, correction: ExitWaveCorrection, patches: Tensor, frames: Tensor
    ) -> list[list[Tensor]]:
        """Changes along y and along x, per pixel, in each slice."""
        where = self.model.positions(frames)
        of_axes = [self.model.stitching.extract(slope, where) for slope in self._slopes]
        return [
            [wave * along[:, slice_, None] for slice_, wave in enumerate(correction.incident)]
            for along in of_axes
        ]

    def take(self, steps: Tensor) -> None:
        """Move the positions by (n, 2) steps, within the limits of pty-chi's options.

        A shift of all is left out, and early on all that an affine map would do to them: object and
        probe can take part in it (a scale that more defocus undoes), so that early errors of the
        probe would drive it far.
        """
        step = self._limited(self.options.position_step * steps)
        self._velocity = self.options.position_momentum * self._velocity + step
        if self._keeps_affine_part:
            self._velocity = self._velocity - affine_part(self._velocity, self._nominal)
        else:
            self._velocity = self._velocity - self._velocity.mean(0)
        self.positions.set_data(self.positions.data + self._velocity)
        if self.positions.options.constrain_position_mean:
            self.positions.constrain_position_mean()

    def restart(self) -> None:
        """Go on without momentum."""
        self._velocity = torch.zeros_like(self._velocity)

    def _limited(self, step: Tensor) -> Tensor:
        """Steps along each axis of at most the limit and ten median absolute deviations."""
        options = self.positions.options.correction_options
        limit = torch.full((2,), options.update_magnitude_limit or math.inf).to(step)
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
    """(2, n_slices, H, W) derivatives of an (n_slices, H, W) object along y and x, per pixel."""
    spectrum = torch.fft.fft2(object_)
    ky, kx = (2j * math.pi * torch.fft.fftfreq(n) for n in object_.shape[-2:])
    return torch.stack([torch.fft.ifft2(ky[:, None] * spectrum), torch.fft.ifft2(kx * spectrum)])
