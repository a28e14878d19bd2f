"""Corrections of exit waves by the measured counts, and what they ask of object and probe.

d = F^-1[c Psi],     Psi = F(P o),     c: the relative change that the counts ask for.
"""

from typing import NamedTuple, cast

import torch
from ptychi.image_proc import shift_images
from ptychi.propagate import WavefieldPropagator
from torch import Tensor

from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.stitching import Canvas

INTENSITY_FLOOR = 1e-9
"""Added to predicted intensities before they are divided by, relative to their mean."""


class ExitWaveCorrection(NamedTuple):
    """What brings the exit waves of some frames closer to the measured counts."""

    probe: Tensor
    """(n, n_modes, h, w) probes at their sub-pixel shifts."""

    exit_waves: Tensor
    """(n, n_modes, h, w) change of the exit waves."""

    predicted: Tensor
    """(n, h, w) predicted counts."""

    seen: Tensor
    """(n, h, w) or (h, w) pixels whose measured counts were used."""


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
        (n, 1, h, w) object patches.
    measured : Tensor
        (n, h, w) counts.
    seen : Tensor
        (n, h, w) or (h, w) pixels whose counts are used.
    largest_change : float, optional
        The largest step of the Poisson likelihood. None: the change is that of the modulus.

    Raises
    ------
    ValueError
        If the object has several slices, or the detector is smaller than the probe.
    """
    probe = model.incident_probes(frames)
    far = model.forward_far_field(model.propagate_through_object(probe, patches))
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
    floor = INTENSITY_FLOOR * power.detach().mean(dim=(-2, -1), keepdim=True)
    predicted = model.intensity_scale.value * (power + floor)
    if largest_change is None:
        change = (measured / predicted).sqrt() - 1
    else:
        change = ((measured / predicted - 1) / 2).clamp(max=largest_change)
    change = torch.where(seen, change, 0.0)
    propagator = cast(WavefieldPropagator, model.free_space_propagator)
    exit_waves = propagator.propagate_backward(change[:, None] * far)
    return ExitWaveCorrection(probe, exit_waves, predicted, seen)


def back_projected(correction: ExitWaveCorrection) -> Tensor:
    """(n, 1, h, w) P_j^* d_j, summed over probe modes."""
    return (correction.probe.conj() * correction.exit_waves).sum(1, keepdim=True)


def patch_update(correction: ExitWaveCorrection, damping: float) -> Tensor:
    """(n, 1, h, w) least-squares step of each patch by itself.

    u = sum_m conj(P_m) d_m / (sum_m |P_m|^2 + damping max).
    """
    intensity = correction.probe.abs().square().sum(1, keepdim=True)
    floor = damping * intensity.amax(dim=(-2, -1), keepdim=True)
    return back_projected(correction) / (intensity + floor)


@torch.no_grad()
def illumination(model: ScanForwardModel, probe: Tensor, positions: Tensor) -> Tensor:
    """(H, W) sum_j |P_j|^2 of (n, n_modes, h, w) probes at (n, 2) positions."""
    intensity = (probe.real.square() + probe.imag.square()).sum(1, keepdim=True)
    return model.stitching.place(intensity, positions)[0]


def object_update(canvas: Canvas, damping: float) -> Tensor:
    """(1, H, W) least-squares step of the object from summed corrections.

    Parameters
    ----------
    canvas : Canvas
        Its ``weighted_patches`` are sum_j P_j^* d_j, its ``weight`` sum_j |P_j|^2.
    damping : float
        Added to the weight, relative to its maximum.
    """
    return canvas.weighted_patches / (canvas.weight + damping * canvas.weight.max())


def probe_update(
    model: ScanForwardModel, frames: Tensor, patches: Tensor, correction: ExitWaveCorrection
) -> Tensor:
    """(n_modes, h, w) sum_j O_j^* d_j of some frames, each without its sub-pixel shift."""
    directions = patches.conj() * correction.exit_waves
    shifted_back = shift_images(
        directions[:, 0],
        model.get_probe_grid_position_data()[2][frames],
        method=model.object.options.patch_interpolation_method,
        adjoint=True,
    )
    return torch.cat([shifted_back[:, None], directions[:, 1:]], dim=1).sum(0)
