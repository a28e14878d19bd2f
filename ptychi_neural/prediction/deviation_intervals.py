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

Each error e is split into its local mean, e_coarse, and the rest, e_fine. Noise in the wave goes
with 1 / light, the light being the probe intensity that fell on a pixel, and edges are the first to
be lost, so that the square of an error follows

    m(r) = a / light(r) + b |grad O(r)|^2,

with a, b >= 0 from the repetition's e_fine by least squares. For phases both terms are divided by
the object's intensity. With m as the unit, squares are averaged over a wide neighbourhood. Where a
coarse error is large is for a part a matter of chance, so that one half of it counts everywhere
alike:

    local(v) = m(r) <v> / <m>,    < > around r,
    w(r) = local(|e_fine|^2) + local(|e_coarse|^2) / 2 + <|e_coarse|^2> over the scanned area / 2.

w is the mean over both pairs, and q the quantile of |e| / sqrt(w) over the scanned area and both
pairs.

Structure that denoising takes away is in neither error. Let r_1 and r_2 be what denoising and the
generator have removed from the objects of the two halves, without its local mean, which has a
factor of the object in it and what a generator mends. Noise is independent in them, so that the
mean of their product, local(r_1 r_2), is the squared structure that is missing. The half width of
an interval is q sqrt(w + max(local(r_1 r_2), 0)).

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
from scipy.optimize import nnls

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.evaluation import align, scanned_area
from ptychi_neural.physics.ranks import summed_numbers
from ptychi_neural.prediction.repeated_counts import counts_of_frame
from ptychi_neural.scans import Scan
from ptychi_neural.scans.counts import remember

PROBABILITY = 0.9
"""Share of the true values that the intervals are to hold."""

COARSE_PX = 3.0
"""Sigma of the Gaussian mean by which coarse errors are told from fine ones."""

NEIGHBOURHOOD_PX = 8.0
"""Sigma of the Gaussian with which squares of errors are averaged."""

DIM = 0.1
"""Amplitude of the object, relative to its mean, below which phases are not less certain."""

EDGE_PX = 1.0
"""Sigma of the Gaussian whose gradients tell where the object's edges are."""

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

    All of several processes have to ask for it.

    Parameters
    ----------
    task : PtychographyTask
        A task of the neural engine that has run.
    options : PtychographyTaskOptions
        The options that it was built from.
    scan : Scan
        The scan that it was built from, with object, probe and positions to start from. Its
        patterns are not looked at.
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
    counts = _repeated_counts(first, object_, seed, task.data_options.fft_shift)
    with torch.random.fork_rng():
        repeated = build_task(
            copy.deepcopy(options), dataclasses.replace(scan, patterns=counts), keep
        )
        second = repeated.reconstructor
        assert isinstance(second, NeuralReconstructor)
        second.generator.load_state_dict(first.generator.state_dict())
        second.normalization_pending = False
        second.has_stepped = _is_of_generator(first)
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
def _repeated_counts(
    first: NeuralReconstructor, object_: torch.Tensor, seed: int, is_shifted: bool
) -> NDArray[np.float32]:
    """(n, h, w) counts drawn from what the object predicts: of the frames of this rank, and 0 of
    others. The dataset keeps them shifted, or not."""
    scan = first.scan
    counts = np.zeros((len(scan.frames), *scan.valid.shape), np.float32)
    valid = scan.valid.numpy(force=True)
    for frames in scan.batches:
        predicted = scan.predict(object_, frames).numpy(force=True)
        for frame, means in zip(frames.tolist(), predicted):
            drawn = valid * counts_of_frame(means, seed, frame)
            counts[frame] = np.fft.fftshift(drawn) if is_shifted else drawn
    remember(counts)  # There are no defects to look for, which ranks would find apart.
    return counts


def _is_of_generator(first: NeuralReconstructor) -> bool:
    """Whether the generator has made the result, and not the initial reconstruction alone."""
    return first.is_trained and not first.network_was_tried_in_vain


@torch.no_grad()
def _halves(first: NeuralReconstructor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(n_slices, H, W) objects from either half of the frames, with the probe that was found: as
    projected, and as the result was made. Empty where nothing was projected."""
    plain = copy.copy(first.start)
    plain.total_variation = 0.0
    halves = []
    for part in plain.halves(first.scan):
        denoised = part.starting_from(first.start.denoised(part.start))
        made = first.generator(denoised) if _is_of_generator(first) else denoised.start
        halves.append((part.start, made))
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
    inside = np.where(area, object_, object_[area].mean())
    edges = sum(
        ndimage.gaussian_gradient_magnitude(part, EDGE_PX) ** 2
        for part in (inside.real, inside.imag)
    )
    terms = [1 / np.maximum(light, light[area].min()), edges]
    along = [r * object_.conj() / np.maximum(np.abs(object_), 1e-30) for r in removed]
    amplitude, wide = _half_width(amplitudes, [r.real for r in along], area, terms)
    phase, wide_phase = _half_width(
        turns, [r.imag / modulus for r in along], area, [term / modulus**2 for term in terms]
    )
    deviation = np.hypot(wide, modulus * wide_phase)
    return Intervals(amplitude, np.minimum(phase, np.pi), deviation, scale)


def _half_width(
    errors: Sequence[NDArray[np.floating]],
    removed: Sequence[NDArray[np.floating]],
    area: NDArray[np.bool_],
    terms: Sequence[NDArray[np.floating]],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """(H, W) half width of the interval, and standard deviation.

    Parameters
    ----------
    errors : sequence of ndarray
        (H, W) errors of the pairs, the repetition's first.
    removed : sequence of ndarray
        (H, W) what was removed from either half, or nothing.
    area : ndarray
        (H, W) True in the scanned area.
    terms : sequence of ndarray
        (H, W) what the squares of errors may follow.
    """

    def mean(values: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
        total, weight = (
            ndimage.gaussian_filter(np.where(area, v, 0.0), sigma) for v in (values, 1.0)
        )
        return total / np.maximum(weight, 1e-9)

    def local(values: NDArray[np.floating]) -> NDArray[np.floating]:
        return unit * mean(values, NEIGHBOURHOOD_PX) / mean_unit

    coarse = [mean(error, COARSE_PX) for error in errors]
    squares = [(error - smooth) ** 2 for error, smooth in zip(errors, coarse)]
    unit = _unit(squares[0], area, terms)
    mean_unit = mean(unit, NEIGHBOURHOOD_PX) + np.finfo(float).tiny  # For what is not scanned.
    variance = np.full(area.shape, np.nan)
    variance[area] = 0.0
    for square, smooth in zip(squares, coarse):
        everywhere = (smooth[area] ** 2).mean() / 2
        variance += (local(square + smooth**2 / 2) + everywhere) / len(errors)
    size = np.where(variance[area] > 0, np.sqrt(variance[area]), 1.0)
    ratios = np.concatenate([np.abs(error[area]) / size for error in errors])
    missing = 0.0
    if removed:
        first, second = (part - mean(part, COARSE_PX) for part in removed)
        missing = np.maximum(local(first * second), 0.0)
    deviation = np.sqrt(variance + missing)
    return np.quantile(ratios, PROBABILITY) * deviation, deviation


def _unit(
    squares: NDArray[np.floating],
    area: NDArray[np.bool_],
    terms: Sequence[NDArray[np.floating]],
) -> NDArray[np.floating]:
    """(H, W) sum of terms, with weights of at least 0, that squares of errors follow best."""
    relative = [term / term[area].mean() if term[area].any() else term for term in terms]
    weights, _ = nnls(np.stack([term[area] for term in relative], axis=1), squares[area])
    if not weights.any():
        return relative[0]
    return sum(weight * term for weight, term in zip(weights, relative))


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
    found, known = summed_numbers(found, known)
    if known == 0:
        return 1.0
    return float(np.clip(np.sqrt(max(found, 0.0) / known), *SCALE_LIMITS))
