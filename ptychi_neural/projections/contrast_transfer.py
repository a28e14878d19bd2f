"""Contrast transfer of a probe: how far one update takes amplitude and phase, by spatial frequency.

A probe turns phase into intensity only at frequencies above those at which it varies itself, and
what is lacking in the response of phase there is in that of amplitude: the two add up to 1.
Projections approach coarse phase as slowly as its response is small; divided by the response, the
update approaches all frequencies alike.

On a flat object, with Psi the far field of the probe P, a contrast e^{iqx} changes intensities by

    dI = A_q + A_-q^*  (of amplitude),     dI = i (A_q - A_-q^*)  (of phase),
    A_q = Psi^* F(P e^{iqx}) (summed over probe modes),

and what one update takes of it is, averaged over positions, proportional to the sum of |dI|^2 / I.
"""

import math
from typing import cast

import torch
from torch import Tensor

from ptychi_neural.physics.exit_waves import INTENSITY_FLOOR
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.squared_modulus import squared_modulus, summed_over_modes
from ptychi_neural.physics.stitching import coverage
from ptychi_neural.projections.resumable import Resumable

N_DIRECTIONS = 4
"""Number of directions in half a turn over which the response at a frequency is averaged."""

N_FREQUENCIES = 8
"""Number of frequencies that are computed at a time, to bound the memory."""


class ContrastTransfer(Resumable):
    """Responses of amplitude and phase, and updates that are divided by them.

    Parameters
    ----------
    scan : ScanPhysics
        Probe, propagation, valid pixels and positions.
    floor : float
        Added to the responses where updates are divided by them.
    response : Tensor, optional
        (2, n) what ``response`` of another transfer with the same probe holds.
    window : Tensor, optional
        (H, W) what ``window`` of another transfer with the same positions holds.
    """

    KEPT = ("floor", "response", "window")

    def __init__(
        self,
        scan: ScanPhysics,
        floor: float,
        response: Tensor | None = None,
        window: Tensor | None = None,
    ) -> None:
        model = scan.model
        if window is None:
            weight = model.stitching.total_weight(model.positions(scan.frames))
            window = coverage(weight, scan.options.start.rim)
        self.window, self.floor = window, floor
        step = 1 / (2 * max(model.probe.get_spatial_shape()))
        fy, fx = (torch.fft.fftfreq(n) for n in window.shape)
        steps = torch.hypot(fy[:, None], fx) / step
        if response is None:
            response = responses(scan, step * torch.arange(int(steps.max()) + 2))
        self.response = response
        """(2, n) shares of amplitude and phase in the response, at every half cycle in the side of
        the probe."""
        below = steps.long()
        rest = steps - below
        response = (1 - rest) * self.response[:, below] + rest * self.response[:, below + 1]
        self.gain = 1 / (response + floor)

    def divide(self, update: Tensor, object_: Tensor) -> Tensor:
        """Divide an object's update, along amplitude and phase, by their responses.

        Parameters
        ----------
        update, object_ : Tensor
            (1, H, W) complex.
        """
        phase = torch.sgn(object_)
        parts = self.window * torch.view_as_real((update * phase.conj())[0]).movedim(-1, 0)
        parts = self.window * torch.fft.ifft2(self.gain * torch.fft.fft2(parts)).real
        return torch.complex(*parts) * phase


def _wave(q: Tensor, x: Tensor) -> Tensor:
    """(n, m) e^{iqx} of (n,) frequencies in radians per pixel and (m,) coordinates."""
    angles = q[:, None] * x
    return torch.polar(torch.ones_like(angles), angles)


@torch.no_grad()
def responses(scan: ScanPhysics, frequencies: Tensor) -> Tensor:
    """Shares of amplitude and phase in what an update takes of a contrast on a flat object.

    Parameters
    ----------
    scan : ScanPhysics
        Probe, propagation and valid pixels.
    frequencies : Tensor
        (n,) spatial frequencies in cycles per pixel.

    Returns
    -------
    Tensor
        (2, n) shares of amplitude and phase, which add up to 1.
    """
    model = scan.model
    probe = model.probe.data[0]
    y, x = (torch.arange(n) - n // 2 for n in probe.shape[-2:])
    directions = math.pi * (torch.arange(N_DIRECTIONS) + 0.5) / N_DIRECTIONS
    flat = model.forward_far_field(probe[None])
    intensity = summed_over_modes(squared_modulus(flat))
    weight = scan.valid / (intensity + INTENSITY_FLOOR * intensity.mean())
    of_each = []
    for some in frequencies.split(N_FREQUENCIES):
        q = 2 * math.pi * some[:, None]
        rows = _wave((q * directions.sin()).flatten(), y)[:, None, :, None]
        columns = _wave((q * directions.cos()).flatten(), x)[:, None, None, :]
        forth, back = (
            (flat.conj() * model.forward_far_field(probe * r * c)).sum(1)
            for r, c in ((rows, columns), (rows.conj(), columns.conj()))
        )
        alone = weight * (squared_modulus(forth) + squared_modulus(back))
        together = weight * 2 * (forth * back).real
        of_waves = torch.stack([alone + together, alone - together]).sum(dim=(-2, -1))
        of_each.append(of_waves.unflatten(1, (len(some), N_DIRECTIONS)).sum(-1))
    response = torch.cat(of_each, dim=1)
    return cast(Tensor, response / response.sum(0))


def seeks_defocus(scan: ScanPhysics) -> bool:
    """Whether the defocus is looked for: of a probe that is refined from the first iteration on,
    on a detector in the far field."""
    model = scan.model
    return bool(
        model.probe.optimization_enabled(0)
        and model.is_far_field
        and scan.split is None
        and scan.options.start.defocus_range > 0
    )


def first_divided_iteration(scan: ScanPhysics) -> int | None:
    """Number of iterations after which updates are divided by the contrast transfer of a refined
    probe, which is nearly found by then; None where they never are, or all are."""
    if not scan.model.probe.optimizable or seeks_defocus(scan):
        return None
    if not scan.model.is_one_product:
        return None
    return scan.options.start.first_divided_iteration
