"""Intervals of amplitude and phase, by a repetition of the measurement and by its two halves.

What a result errs by is known of two pairs of objects.

- The result is taken for the truth. Counts are drawn from the intensities that it predicts, and the
  object is reconstructed from them in the same way and from the same start; a fitted generator is
  applied, not fitted again (parametric bootstrap: Efron, Annals of Statistics 7, 1 (1979)). The
  second result differs from the first by an error that has in it the noise of the counts, coarse
  phase that the iterations do not reach, what a refined probe lacks, and what denoising takes away.
  It is too small with few counts: the result is smoother than the truth, and is found again more
  easily.
- The object is reconstructed from either half of the frames. Half of the difference is the error of
  the two objects' mean. It is of the measured counts and the true object, but too large with few
  counts, as half of them tell less than half.

Each error e is split into its local mean, e_coarse, and the rest, e_fine. The square of an error of
the wave goes with 1 / light, the light being the probe intensity that fell on a pixel, so that it
is averaged over a wide neighbourhood in these units. Where a coarse error is large is for a part a
matter of chance, so that one half of it counts everywhere alike:

    local(v) = <v light> around r / light(r),
    w(r) = local(|e_fine|^2) + local(|e_coarse|^2) / 2 + <|e_coarse|^2> over the scanned area / 2.

For phases the light is multiplied by the object's intensity. w is the mean over both pairs, and q
the quantile of |e| / sqrt(w) over the scanned area and both pairs.

Structure that denoising takes away is in neither error. Let r_1 and r_2 be what denoising and the
generator have removed from the objects of the two halves. Noise is independent in them, so that the
mean of their product, b = <r_1 r_2> around r, is the squared structure that is missing. The half
width of an interval is q sqrt(w + max(b, 0)).

The repetition's error is multiplied by s, by detector pixels that nothing has seen: with the counts
Y, the intensities I of the result and I' of the repetition,

    s^2 = sum ((Y - I)^2 - Y) / (I + 1)  /  sum (I' - I)^2 / (I + 1),

where the numerator has the mean of the squared error of I, because Y knows nothing of I. It is
never below 1.
"""

import copy
import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask
from scipy import ndimage

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.evaluation import align, scanned_area
from ptychi_neural.scans import Scan

PROBABILITY = 0.9
"""Share of the true values that the intervals are to hold."""

COARSE_PX = 3.0
"""Sigma of the Gaussian mean by which coarse errors are told from fine ones."""

NEIGHBOURHOOD_PX = 8.0
"""Sigma of the Gaussian with which squares of errors are averaged."""

DIM = 0.1
"""Amplitude of the object, relative to its mean, below which phases are not less certain."""

SCALE_LIMITS = (1.0, 3.0)
"""Bounds of the correction s, which few counts at held-out pixels tell badly."""


class Pair(NamedTuple):
    """Two objects whose difference, times a factor, is an error that a result may have."""

    first: NDArray[np.complexfloating]
    """(H, W) object."""

    second: NDArray[np.complexfloating]
    """(H, W) object, aligned with the first."""

    factor: float = 1.0
    """Factor of the difference."""


@dataclass(frozen=True)
class Intervals:
    """Where amplitude and phase of the true object are expected. NaN outside the scanned area."""

    amplitude: NDArray[np.floating]
    """(H, W) half width of the interval of the amplitude."""

    phase: NDArray[np.floating]
    """(H, W) half width of the interval of the phase in radians, at most pi."""

    standard_deviation: NDArray[np.floating]
    """(H, W) standard deviation of the complex object, in units of the object."""

    scale: float
    """The correction s by held-out pixels; 1 where there are none."""


def measure_intervals(
    task: PtychographyTask,
    options: PtychographyTaskOptions,
    scan: Scan,
    keep: Collection[str] = (),
    seed: int = 0,
) -> Intervals:
    """Repeat a reconstruction on counts drawn from its result, and on either half of its frames.

    Parameters
    ----------
    task : PtychographyTask
        A task of the neural engine that has run.
    options : PtychographyTaskOptions
        The options that it was built from.
    scan : Scan
        The scan that it was built from, with object, probe and positions to start from.
    keep : collection of str
        As for ``build_task``.
    seed : int
        Seed of the counts.

    Raises
    ------
    ValueError
        If the positions span no area.
    """
    first = task.reconstructor
    assert isinstance(first, NeuralReconstructor)
    scan_of_first = first.scan
    object_ = task.get_data("object").detach()
    random = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        drawn = [
            torch.poisson(scan_of_first.predict(object_, frames).double().cpu(), random)
            for frames in scan_of_first.batches
        ]
    counts = torch.cat(drawn) * scan_of_first.valid.cpu()
    if task.data_options.fft_shift:
        counts = torch.fft.fftshift(counts, dim=(-2, -1))
    with torch.random.fork_rng():
        repeated = build_task(
            copy.deepcopy(options), dataclasses.replace(scan, patterns=counts.numpy()), keep
        )
        second = repeated.reconstructor
        assert isinstance(second, NeuralReconstructor)
        second.generator.load_state_dict(first.generator.state_dict())
        second.normalization_pending = False
        repeated.run(0)
    area = scanned_area(scan.positions_px, object_.shape)
    refined = first.model.refines_probe_or_positions
    found = object_.numpy(force=True).prod(axis=0)
    again = repeated.get_data("object").numpy(force=True).prod(axis=0)
    again = align(again, found, ramp=refined, shift=refined, mask=area).aligned
    scale = _scale(first, second, object_)
    pairs, halves, removed = [Pair(again, found, scale)], [], []
    for objects in _halves(first):
        projected, made = (half.numpy(force=True).prod(axis=0) for half in objects)
        alignment = align(made, found, mask=area)
        halves.append(alignment.aligned)
        removed.append(alignment.scale * (projected - made))
    if halves:
        pairs.append(Pair(halves[0], halves[1], factor=0.5))
    with torch.no_grad():
        light = first.model.stitching.total_weight(first.model.positions(scan_of_first.frames))
    return intervals_of(found, pairs, area, light.numpy(force=True), removed, scale)


@torch.no_grad()
def _halves(first: NeuralReconstructor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(n_slices, H, W) objects from either half of the frames, with the probe that was found: as
    projected, and as the result was made. Empty where nothing was projected."""
    plain = copy.copy(first.start)
    plain.total_variation = 0.0
    halves = []
    for part in plain.halves(first.scan):
        denoised = part.starting_from(first.start.denoised(part.start))
        halves.append((part.start, first.object_of(denoised)))
    return halves


def intervals_of(
    object_: NDArray[np.complexfloating],
    pairs: Sequence[Pair],
    area: NDArray[np.bool_],
    light: NDArray[np.floating],
    removed: Sequence[NDArray[np.complexfloating]] = (),
    scale: float = 1.0,
) -> Intervals:
    """Make intervals of an object from pairs of objects that differ as it may from the truth.

    Parameters
    ----------
    object_ : ndarray
        (H, W) object.
    pairs : sequence of Pair
        Pairs of objects in register with it.
    area : ndarray
        (H, W) True in the scanned area.
    light : ndarray
        (H, W) probe intensity that fell on each pixel, in any units.
    removed : sequence of ndarray
        (H, W) what was removed from the objects of the two halves; empty: nothing is missing.
    scale : float
        The correction s, for the record.
    """
    amplitudes = [p.factor * (np.abs(p.first) - np.abs(p.second)) for p in pairs]
    turns = [p.factor * np.angle(p.first * p.second.conj()) for p in pairs]
    modulus = np.maximum(np.abs(object_), DIM * np.abs(object_[area]).mean())
    light = np.maximum(light, light[area].min())
    along = [r * object_.conj() / np.maximum(np.abs(object_), 1e-30) for r in removed]
    missing = missing_phase = np.zeros(area.shape)
    if along:
        missing = along[0].real * along[1].real
        missing_phase = along[0].imag * along[1].imag / modulus**2
    amplitude, wide = _half_width(amplitudes, missing, area, light)
    phase, wide_phase = _half_width(turns, missing_phase, area, light * modulus**2)
    deviation = np.hypot(wide, modulus * wide_phase)
    return Intervals(amplitude, np.minimum(phase, np.pi), deviation, scale)


def _half_width(
    errors: Sequence[NDArray[np.floating]],
    missing: NDArray[np.floating],
    area: NDArray[np.bool_],
    light: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """(H, W) half width of the interval, and standard deviation."""

    def mean(values: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
        total, weight = (
            ndimage.gaussian_filter(np.where(area, v, 0.0), sigma) for v in (values, 1.0)
        )
        return total / np.maximum(weight, 1e-9)

    variance = np.full(area.shape, np.nan)
    variance[area] = 0.0
    for error in errors:
        coarse = mean(error, COARSE_PX)
        squares = (error - coarse) ** 2 + coarse**2 / 2
        local = mean(squares * light, NEIGHBOURHOOD_PX) / light
        variance += (local + (coarse[area] ** 2).mean() / 2) / len(errors)
    size = np.where(variance[area] > 0, np.sqrt(variance[area]), 1.0)
    ratios = np.concatenate([np.abs(error[area]) / size for error in errors])
    deviation = np.sqrt(variance + np.maximum(mean(missing, NEIGHBOURHOOD_PX), 0.0))
    return np.quantile(ratios, PROBABILITY) * deviation, deviation


@torch.no_grad()
def _scale(first: NeuralReconstructor, second: NeuralReconstructor, object_: torch.Tensor) -> float:
    """The correction s of the module's head."""
    repeated = second.parameter_group.object.data
    found = known = 0.0
    for frames in first.scan.batches:
        measured = first.model.measured(frames).double()
        predicted = first.scan.predict(object_, frames).double()
        again = second.scan.predict(repeated, frames).double()
        unseen = first.scan.held_out(frames) / (predicted + 1)
        found += float((unseen * ((measured - predicted) ** 2 - measured)).sum())
        known += float((unseen * (again - predicted) ** 2).sum())
    if known == 0:
        return 1.0
    return float(np.clip(np.sqrt(max(found, 0.0) / known), *SCALE_LIMITS))
