"""Corrections of exit waves by the measured counts, and what they ask of object and probe.

    d = F^-1[c Psi],     Psi = F(P o),     c: the relative change that the counts ask for.

Where the detector sees all of the exit wave, d is written down, and is propagated back from slice
to slice. With a detector that is smaller than the probe, or blurred patterns, what d asks for is
the gradient of the loss through pty-chi's forward model, with the factor that makes both the same
where both can be had.
"""

from typing import NamedTuple, Protocol, cast

import torch
from ptychi.propagate import WavefieldPropagator
from torch import Tensor

from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.squared_modulus import squared_modulus, summed_over_modes
from ptychi_neural.physics.stitching import Canvas, in_double

INTENSITY_FLOOR = 1e-9
"""Added to predicted intensities before they are divided by, relative to their mean."""


class Correction(Protocol):
    """What brings the predicted counts of some frames closer to the measured ones."""

    @property
    def predicted(self) -> Tensor:
        """(n, h, w) predicted counts."""

    @property
    def seen(self) -> Tensor:
        """(n, h, w) or (h, w) pixels whose measured counts were used."""

    def back_projected(self) -> Tensor:
        """(n, n_slices, h, w) P_j^* d_j, summed over probe modes."""

    def intensity(self) -> Tensor:
        """(n, n_slices, h, w) intensity of the wave that falls on each slice."""

    def probe_change(self, model: ScanForwardModel, frames: Tensor, patches: Tensor) -> Tensor:
        """(n_opr_modes, n_modes, h, w) sum_j w_jk O_j^* d_j, each without its sub-pixel shift, in
        double precision.

        The weights w_jk are those of the OPR modes, which only the first mode has.
        """


class ExitWaveCorrection(NamedTuple):
    """The change of the exit waves of some frames."""

    incident: list[Tensor]
    """(n, n_modes, h, w) waves that fall on each slice; on the first one the probes at their
    sub-pixel shifts."""

    exit_waves: list[Tensor]
    """(n, n_modes, h, w) change of the exit wave of each slice."""

    predicted: Tensor
    """(n, h, w) predicted counts."""

    seen: Tensor
    """(n, h, w) or (h, w) pixels whose measured counts were used."""

    far: Tensor
    """(n, n_modes, h, w) predicted waves on the detector."""

    def back_projected(self) -> Tensor:
        of_slices = [
            summed_over_modes(wave.conj() * change)
            for wave, change in zip(self.incident, self.exit_waves)
        ]
        if len(of_slices) == 1:
            return of_slices[0].unsqueeze(1)
        # Each of several slices takes its share of the step.
        return torch.stack(of_slices, 1) / len(of_slices)

    @torch.no_grad()
    def intensity(self) -> Tensor:
        return intensity_of(self.incident)

    def probe_change(self, model: ScanForwardModel, frames: Tensor, patches: Tensor) -> Tensor:
        directions = patches[:, :1].conj() * self.exit_waves[0]
        change = torch.zeros_like(in_double(model.probe.data))
        change[:, 0] = model.shifted_back(frames, directions[:, 0])
        change[0, 1:] = in_double(directions[:, 1:]).sum(0)
        return change


class GradientCorrection(NamedTuple):
    """The change that the gradient of the loss asks for."""

    of_patches: Tensor
    """(n, n_slices, h, w) in the place of P_j^* d_j."""

    incident: Tensor
    """(n, n_slices, h, w) intensity of the wave that falls on each slice."""

    of_probe: Tensor
    """(n_opr_modes, n_modes, h, w) in the place of sum_j w_jk O_j^* d_j; zeros where the probe is
    not refined."""

    predicted: Tensor
    """(n, h, w) predicted counts."""

    seen: Tensor
    """(n, h, w) or (h, w) pixels whose measured counts were used."""

    def back_projected(self) -> Tensor:
        return self.of_patches

    def intensity(self) -> Tensor:
        return self.incident

    def probe_change(self, model: ScanForwardModel, frames: Tensor, patches: Tensor) -> Tensor:
        return in_double(self.of_probe)


def incident_waves(model: ScanForwardModel, frames: Tensor, patches: Tensor) -> list[Tensor]:
    """(n, n_modes, h, w) waves that fall on each slice of (n, n_slices, h, w) patches."""
    incident = [model.incident_probes(frames)]
    for slice_ in range(patches.shape[1] - 1):
        exit_wave = patches[:, slice_, None] * incident[-1]
        incident.append(model.propagate_to_next_slice(exit_wave, slice_))
    return incident


def intensity_of(waves: list[Tensor]) -> Tensor:
    """(n, n_slices, h, w) intensities, summed over modes."""
    return torch.stack([summed_over_modes(squared_modulus(wave)) for wave in waves], 1)


def correct_exit_waves(
    model: ScanForwardModel,
    frames: Tensor,
    patches: Tensor,
    measured: Tensor,
    seen: Tensor,
    largest_change: float | None,
) -> ExitWaveCorrection:
    """Probes, and the change of their exit waves that brings them to the measured counts.

    The change is that of the modulus, or the step of the Poisson likelihood
    (Y_meas / Y_pred - 1) / 2, to which the other tends at many counts (LSQML's noise models:
    Odstrcil et al., Opt. Express 26, 3108 (2018)). Pixels that are not seen keep the prediction.

    Parameters
    ----------
    model : ScanForwardModel
        Probe, positions, propagation.
    frames : Tensor
        (n,) indices of frames.
    patches : Tensor
        (n, n_slices, h, w) object patches.
    measured : Tensor
        (n, h, w) counts.
    seen : Tensor
        (n, h, w) or (h, w) pixels whose counts are used.
    largest_change : float, optional
        The largest step of the Poisson likelihood. None: the change is that of the modulus.
    """
    incident = incident_waves(model, frames, patches)
    exit_wave = patches[:, -1, None] * incident[-1]
    far = model.forward_far_field(model.to_detector(frames, exit_wave))
    power = summed_over_modes(squared_modulus(far))
    # The floor bounds the gradient where nothing is predicted.
    floor = INTENSITY_FLOOR * power.detach().mean(dim=(-2, -1), keepdim=True)
    predicted = model.intensity_scale.value * (power + floor)
    if largest_change is None:
        change = (measured / predicted).sqrt() - 1
    else:
        change = ((measured / predicted - 1) / 2).clamp(max=largest_change)
    change = torch.where(seen, change, 0.0)
    propagator = cast(WavefieldPropagator, model.free_space_propagator)
    changed = propagator.propagate_backward(change[:, None] * far)
    exit_waves = [model.from_detector(frames, changed)]
    for slice_ in range(patches.shape[1] - 1, 0, -1):
        before = patches[:, slice_, None].conj() * exit_waves[0]
        exit_waves.insert(0, model.propagate_to_previous_slice(before, slice_))
    return ExitWaveCorrection(incident, exit_waves, predicted, seen, far)


def correct_by_gradient(
    model: ScanForwardModel,
    frames: Tensor,
    patches: Tensor,
    measured: Tensor,
    seen: Tensor,
    largest_change: float | None,
) -> GradientCorrection:
    """The same by the gradient of the loss through pty-chi's forward model, whatever is in it.

    With N the factor by which propagation multiplies the power of a wave and S the scale,
    P_j^* d_j = -g / (2 N S) for the squared difference of the moduli, and half of it for the
    Poisson likelihood, g being torch's gradient of the sum of the losses by the patches. Each of
    several slices takes its share of the step.

    Parameters are those of ``correct_exit_waves``.
    """
    differentiable = torch.is_grad_enabled() and patches.requires_grad
    refines_probe = bool(model.probe.optimizable)
    probe_tensor = cast(Tensor, model.probe.tensor.data)
    with torch.enable_grad():
        if not differentiable:
            patches = patches.detach().requires_grad_()
        requires_grad = probe_tensor.requires_grad
        probe_tensor.requires_grad_(refines_probe)
        predicted = model.intensities(frames, patches)
        floor = INTENSITY_FLOOR * predicted.detach().mean(dim=(-2, -1), keepdim=True)
        predicted = predicted + floor
        if largest_change is None:
            losses = (predicted.sqrt() - measured.sqrt()).square()
        else:
            most = (1 + 2 * largest_change) * predicted.detach()
            losses = predicted - torch.minimum(measured, most) * predicted.log()
        loss = torch.where(seen, losses, 0.0).sum()
        wanted = [patches, probe_tensor] if refines_probe else [patches]
        gradients = torch.autograd.grad(loss, wanted, create_graph=differentiable)
        probe_tensor.requires_grad_(requires_grad)
    scale = cast(Tensor, model.intensity_scale.value).detach()
    factor = -1 / (model.power_gain * scale * (2 if largest_change is None else 4))
    with torch.no_grad():
        of_probe = torch.zeros_like(model.probe.data)
        if refines_probe:
            of_probe = factor * torch.view_as_complex(gradients[1].contiguous())
        incident = intensity_of(incident_waves(model, frames, patches))
    of_patches = factor * gradients[0] / patches.shape[1]
    return GradientCorrection(of_patches, incident, of_probe, predicted.detach(), seen)


def patch_update(correction: Correction, damping: float) -> Tensor:
    """(n, n_slices, h, w) least-squares step of each patch by itself.

    u = sum_m conj(P_m) d_m / (sum_m |P_m|^2 + damping max).
    """
    intensity = correction.intensity()
    floor = damping * intensity.amax(dim=(-2, -1), keepdim=True)
    return correction.back_projected() / (intensity + floor)


def object_update(canvas: Canvas, damping: float) -> Tensor:
    """(n_slices, H, W) least-squares step of the object from summed corrections.

    Parameters
    ----------
    canvas : Canvas
        Its ``weighted_patches`` are sum_j P_j^* d_j, its ``weight`` sum_j |P_j|^2.
    damping : float
        Added to the weight, relative to its maximum.
    """
    return canvas.weighted_patches / (canvas.weight + damping * canvas.weight.max())
