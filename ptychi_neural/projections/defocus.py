"""Defocus of the probe, found by trial: a few iterations with each tell which predicts best.

A probe's most common error is that the specimen is not where it was thought to be. Its defocus
multiplies the Fourier transform P of all its modes by exp(i r q), where q is |k|^2 less its mean
over |P|^2, divided by its standard deviation: r is the change of phase, in radians rms. Each r in
question is given a few iterations of the object from the start, with some frames in the middle of
the scan. What they have to predict is a split of the pixels that was left out, and each half of
these frames the other half: a probe in focus leaves so little overlap that it fits each frame by
itself, also pixels that were left out, but not its neighbours. Strides are taken from the given
probe to the nearest minimum of both, and left-out pixels alone tell the rest, which are finer, at a
thousand photons per frame and with positions that are two pixels off. A probe whose Fourier
transform has no phase may be anywhere, as the root of the mean pattern is: all strides up to where
the beam fills the frame, and at most 18 radians, are tried; where left-out pixels ask for another
one than both together, the probe that is refined for some iterations tells.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.physics.losses import MeanLoss, add_losses
from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.contrast_transfer import ContrastTransfer
from ptychi_neural.projections.halves import interleaved_halves

STRIDE = 0.75
"""Radians rms between the values that are tried first."""

COARSE_TRIALS = 5
"""Number of values that are tried first, typically."""

FINE_TRIALS = 6
"""Largest number of values that are tried between the neighbours of the best of them."""

UNDIVIDED = 3
"""Factor by which a trial takes more iterations where updates are not divided by the contrast
transfer: with several slices, a small detector or blurred patterns."""

FAR_ITERATIONS = 3
"""Number of iterations of the trials far off: they rank these values as eight do."""

FARTHEST = 18.0
"""Radians rms up to which a probe without a phase is looked for at most."""

TOLERANCE = 0.03
"""Radians rms within which the defocus is found."""


class Prediction(NamedTuple):
    """What a trial sees, and what it has to predict."""

    seen: ScanPhysics
    predicted: ScanPhysics
    mask: Callable[[Tensor, Tensor], Tensor]
    """Gives the (n, h, w) pixels to predict of frames and their counts."""


def _squared_frequencies(probe: Tensor) -> tuple[Tensor, Tensor]:
    """(h, w) |k|^2, and the normalised power of the probe at the frequencies k."""
    ky, kx = (torch.fft.fftfreq(n) for n in probe.shape[-2:])
    power = torch.fft.fft2(probe[0]).abs().square().sum(0)
    return ky[:, None] ** 2 + kx**2, power / power.sum()


def curvature(probe: Tensor) -> Tensor:
    """(h, w) phase q of one radian rms of defocus, of a (n_opr_modes, n_modes, h, w) probe."""
    squared, power = _squared_frequencies(probe)
    centred = squared - (power * squared).sum()
    return centred / (power * centred.square()).sum().sqrt()


def defocused(probe: Tensor, radians: float, phase: Tensor) -> Tensor:
    """The (n_opr_modes, n_modes, h, w) probe with so many radians rms of defocus more."""
    turn = torch.polar(torch.ones_like(phase), radians * phase)
    return torch.fft.ifft2(torch.fft.fft2(probe) * turn)


def middle_frames(scan: ScanPhysics) -> Tensor:
    """Indices of the frames nearest to the middle of the scan that have the counts for a trial."""
    options = scan.options.start
    positions = scan.model.positions(scan.frames)
    order = (positions - positions.mean(0)).square().sum(1).argsort()
    in_the_middle = scan.model.own(scan.frames[order[:1]])
    counts = summed(scan.model.measured(in_the_middle).sum()).clamp(min=1)
    n_frames = max(int(options.defocus_counts / counts), options.fewest_defocus_frames)
    return scan.frames[order[:n_frames].sort().values]


def of_halves(scan: ScanPhysics) -> list[Prediction]:
    """Each of two interleaved halves of the frames predicts the other; one frame alone, itself."""
    if len(scan.frames) == 1:
        return [Prediction(scan, scan, scan.counted)]
    parts = interleaved_halves(scan.model.positions(scan.frames))
    first, second = (scan.of(scan.frames[part]) for part in parts)
    return [Prediction(first, second, scan.counted), Prediction(second, first, scan.counted)]


def of_pixels(scan: ScanPhysics) -> list[Prediction]:
    """All splits of the pixels but one predict that one."""
    some = scan.without(0)
    return [Prediction(some, some, some.to_predict)]


def downhill(loss_with: Callable[[float], float], most: float, here: float = 0.0) -> float:
    """Walk in strides, at most ``most`` away from 0, to the nearest that neither neighbour is
    better than."""
    direction = STRIDE if loss_with(here + STRIDE) < loss_with(here - STRIDE) else -STRIDE
    while abs(here) < most and loss_with(here + direction) < loss_with(here):
        here += direction
    return here


def farthest(probe: Tensor) -> float:
    """Radians rms of defocus with which the beam of a (n_opr_modes, n_modes, h, w) probe is about
    as wide as the frame, at most ``FARTHEST``; 0 for a plane wave.

    A radian of it moves the light at the frequency k by grad q / 2 pi; an even disc whose
    diameter is the frame's side has the root mean square radius side / sqrt(8).
    """
    squared, power = _squared_frequencies(probe)
    mean = (power * squared).sum()
    spread = (power * (squared - mean).square()).sum().sqrt()
    wide = float(min(probe.shape[-2:]) / math.sqrt(8) * math.pi * spread / mean.sqrt())
    return min(wide, FARTHEST) if math.isfinite(wide) else 0.0


def has_phase(probe: Tensor) -> bool:
    """Whether the Fourier transform of a (n_opr_modes, n_modes, h, w) probe's first mode has a
    phase, unlike the root of a mean pattern, or a probe in focus."""
    pupil = torch.fft.fft2(torch.fft.ifftshift(probe[0, 0], dim=(-2, -1)))
    modulus = pupil.abs()
    return bool((modulus * pupil).sum().abs() < math.cos(TOLERANCE) * modulus.square().sum())


@contextmanager
def beam_from_totals(scan: ScanPhysics) -> Iterator[None]:
    """For a while, let the beam's intensity at each frame be that of its counts, if it is refined.

    Trials do not refine it, and it would be taken for a matter of the defocus.
    """
    weights = scan.model.opr_mode_weights
    is_refined = weights.optimizable and weights.options.optimize_intensity_variation
    if not is_refined:
        yield
        return
    given = weights.data.clone()
    totals = torch.zeros_like(given[:, 0])
    for some in scan.batches:
        totals[some] = scan.model.measured(some).sum((-2, -1))
    totals = summed(totals)[scan.frames]
    found = given.clone()
    found[scan.frames, 0] *= (totals / totals.mean()).sqrt()
    weights.set_data(found)
    try:
        yield
    finally:
        weights.set_data(given)


@torch.no_grad()
def find_defocus(scan: ScanPhysics, loss_function: torch.nn.Module, bar: tqdm) -> float:
    """Give the probe the defocus with which the counts are predicted best.

    Parameters
    ----------
    scan : ScanPhysics
        The whole scan, with the object to start from.
    loss_function : torch.nn.Module
        Loss of predicted and measured counts.
    bar : tqdm
        Shows the trials.

    Returns
    -------
    float
        Change of the probe's phase in radians rms.
    """
    options, probe = scan.options.start, scan.model.probe
    given = probe.data.clone()
    phase = curvature(given)
    some = scan.of(middle_frames(scan))
    known_responses: dict[float, Tensor] = {}

    def trials(
        predictions: list[Prediction], n_iterations: int, refine: bool = False
    ) -> Callable[[float], float]:
        @functools.cache
        def loss_with(radians: float) -> float:
            probe.set_data(defocused(given, float(radians), phase))
            mean = MeanLoss()
            for seen, predicted, mask in predictions:
                transfer, length = None, UNDIVIDED * n_iterations
                if scan.model.is_one_product and not refine:
                    known = known_responses.get(radians)
                    transfer = ContrastTransfer(seen, options.joint_transfer_floor, known)
                    known_responses[radians] = transfer.response
                    length = n_iterations
                projections = AcceleratedProjections(seen, loss_function, transfer, None)
                if refine:
                    projections.join(of_modulus=True)
                for _ in range(length):
                    projections.iterate(update_probe=refine)
                add_losses(mean, predicted, projections.object, loss_function, mask)
            bar.update()
            return mean.value

        return loss_with

    def losses(n_iterations: int) -> tuple[Callable[[float], float], Callable[[float], float]]:
        between = within = trials(of_halves(some), n_iterations)
        if some.pixels is not None and some.pixels.n_splits > 1:
            within = trials(of_pixels(some), n_iterations)
        return (lambda radians: between(radians) + within(radians)), within

    far: list[float] = []
    if not has_phase(given):
        n = int(farthest(given) / (2 * STRIDE))
        far = [2 * STRIDE * i for i in range(-n, n + 1)]
    bar.total = 2 * (len(far) + COARSE_TRIALS) + FINE_TRIALS
    best = 0.0
    try:
        with beam_from_totals(some):
            of_both, within = losses(FAR_ITERATIONS)
            best = min(far, key=of_both, default=0.0)
            other = min(far, key=within, default=0.0)
            of_both, within = losses(options.defocus_iterations)
            if abs(best - other) > 2 * STRIDE:
                refined = trials(of_pixels(some), options.defocus_iterations, refine=True)
                best = min(best, other, key=refined)
            best = middle = downhill(of_both, max(options.defocus_range, abs(best)), best)
            found = minimize_scalar(
                within,
                bounds=(middle - STRIDE, middle + STRIDE),
                method="bounded",
                options={"xatol": TOLERANCE, "maxiter": FINE_TRIALS},
            )
            best = min(middle, float(found.x), key=within)
    finally:
        bar.close()
        best = best if abs(best) > TOLERANCE else 0.0
        probe.set_data(defocused(given, best, phase) if best else given)
    return best
