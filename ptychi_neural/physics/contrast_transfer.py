"""Contrast transfer of a scan: how far one update takes amplitude and phase, by spatial frequency.

A probe turns phase into intensity only at frequencies above those at which it varies itself, and
what is lacking in the response of phase there is in that of amplitude: on a flat object the two
add up to 1. Projections approach coarse phase as slowly as its response is small; divided by the
response, the update approaches all frequencies alike.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptychi_neural.physics.consistency import Canvas, coverage
from ptychi_neural.physics.forward_model import NeuralForwardModel

PROBING_CONTRAST = 0.02
"""Deviation of the contrast on which the response is measured: small enough to be linear."""

N_DRAWS = 3
"""Random contrasts on which the response is measured."""

RIM = 0.1
"""Where less than this share of the largest illumination falls, updates are damped before and after
the division: there the response is another, and the division would spread its noise."""


class ContrastTransfer:
    """Responses of a scan's amplitude and phase, measured on a flat object.

    Parameters
    ----------
    forward_model : NeuralForwardModel
        Operators, probe and positions.
    object_ : Tensor
        (1, H, W) complex object; the flat one has its mean amplitude.
    frames : sequence of Tensor
        Indices of the frames with which each draw in turn is measured.
    batch_size : int
        Number of patterns that are projected at a time, to bound the memory.
    floor : float
        Added to the responses where updates are divided by them.
    """

    def __init__(
        self,
        forward_model: NeuralForwardModel,
        object_: Tensor,
        frames: Sequence[Tensor],
        batch_size: int,
        floor: float,
    ) -> None:
        self.model = forward_model
        self.batches = [of_draw.split(batch_size) for of_draw in frames]
        positions = forward_model.positions(forward_model.everything)
        weight = forward_model.consistency.total_weight(positions)
        self.window = coverage(weight, RIM)
        fy, fx = map(torch.fft.fftfreq, weight.shape)
        frequency = torch.hypot(fy[:, None], fx)
        self.rings = (2 * max(forward_model.probe.get_spatial_shape()) * frequency).long()
        self.response = self._measure(torch.ones_like(object_) * object_.abs().mean(), frequency)
        """(2, n_rings) shares of amplitude and phase in the response; ring r is at the spatial
        frequency r / (2 side of the probe)."""
        self.gain = 1 / (self.response[:, self.rings] + floor)

    @torch.no_grad()
    def _measure(self, flat: Tensor, frequency: Tensor) -> Tensor:
        generator = torch.Generator(device="cpu").manual_seed(0)
        shape = (2, *self.rings.shape)
        response = torch.zeros(2, int(self.rings.max()) + 1)
        for draw in range(N_DRAWS):
            white = torch.randn(shape, generator=generator, device="cpu").to(frequency)
            contrast = torch.fft.ifft2(torch.fft.fft2(white) / (frequency + 0.01)).real
            contrast *= PROBING_CONTRAST * self.window / contrast.std()
            batches = self.batches[draw % len(self.batches)]
            update = self._update_towards(flat * (1 + torch.complex(*contrast)), flat, batches)
            update = update / flat
            answer = self.window * torch.view_as_real(update[0]).movedim(-1, 0)
            product = torch.fft.fft2(answer) * torch.fft.fft2(contrast).conj()
            response.index_add_(1, self.rings.flatten(), product.real.flatten(1))
        response = response.clamp_min(0)
        total = response.sum(0)
        return torch.where(total > 0, response / total, 0.5)

    def _update_towards(self, other: Tensor, object_: Tensor, batches: Sequence[Tensor]) -> Tensor:
        """Update of an object where the intensities of another are measured."""
        model = self.model
        total = Canvas(torch.zeros_like(object_), torch.zeros_like(self.window))
        for batch in batches:
            positions = model.positions(batch)
            patches, others = (model.consistency.extract(o, positions) for o in (object_, other))
            measured = model.exit_wave_correction(batch, others).predicted
            correction = model.exit_wave_correction(batch, patches, measured)
            total = total + model.place_correction(correction, positions)
        return model.object_update(total)

    def divide(self, update: Tensor, object_: Tensor) -> Tensor:
        """An object's update, its parts along amplitude and phase divided by their responses.

        Parameters
        ----------
        update, object_ : Tensor
            (1, H, W) complex.
        """
        phase = torch.sgn(object_)
        parts = self.window * torch.view_as_real((update * phase.conj())[0]).movedim(-1, 0)
        parts = self.window * torch.fft.ifft2(self.gain * torch.fft.fft2(parts)).real
        return torch.complex(*parts) * phase
