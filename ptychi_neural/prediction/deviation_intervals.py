"""Intervals of amplitude and phase, by a repetition of the measurement on the computer.

The result is taken for the truth. Counts are drawn from the intensities that it predicts, and the
object is reconstructed from them in the same way and from the same start; a fitted generator is
applied, not fitted again (parametric bootstrap: Efron, Annals of Statistics 7, 1 (1979)). The
second result differs from the first by an error e that is known, which has in it the noise of the
counts, coarse phase that the iterations do not reach, what a refined probe lacks, and what
denoising takes away. It is split into its local mean, e_coarse, and the rest, e_fine. Where a
coarse error is large in a repetition is a matter of chance, so that it counts everywhere alike:

    w(r) = <|e_fine|^2> around r + <|e_coarse|^2> over the scanned area,
    sigma(r) = s sqrt(w(r)),        half width(r) = q sigma(r).

q is the quantile of |e| / sqrt(w) over the scanned area, so that the intervals hold the asked share
of the repetition's errors. s^2 corrects the size by detector pixels that nothing has seen: with the
counts Y, the intensities I of the result and I' of the repetition,

    s^2 = sum ((Y - I)^2 - Y) / (I + 1)  /  sum (I' - I)^2 / (I + 1),

where the numerator has the mean of the squared error of I, because Y knows nothing of I. It is
never below 1: the result is smoother than the truth, and is found again more easily.
"""

import copy
import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

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

NEIGHBOURHOOD_PX = 3.0
"""Sigma of the Gaussian with which errors and their squares are averaged."""

SCALE_LIMITS = (1.0, 3.0)
"""Bounds of the correction s, which few counts at held-out pixels tell badly."""


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
    """Repeat a reconstruction on counts drawn from its result.

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
    found, found_again = (
        t.get_data("object").numpy(force=True).prod(axis=0) for t in (task, repeated)
    )
    refined = scan_of_first.model.refines_probe_or_positions
    area = scanned_area(scan.positions_px, found.shape)
    again = align(found_again, found, ramp=refined, shift=refined, mask=area).aligned
    return intervals_of(found, again, area, _scale(first, second, object_))


def intervals_of(
    object_: NDArray[np.complexfloating],
    repeated: NDArray[np.complexfloating],
    area: NDArray[np.bool_],
    scale: float = 1.0,
) -> Intervals:
    """Make intervals from an object and its repetition.

    Parameters
    ----------
    object_, repeated : ndarray
        (H, W) objects, the second aligned with the first.
    area : ndarray
        (H, W) True in the scanned area.
    scale : float
        The correction s.
    """
    turn = np.angle(repeated * object_.conj())
    amplitude, wide = _half_width(np.abs(repeated) - np.abs(object_), area, scale)
    phase, wide_phase = _half_width(turn, area, scale)
    deviation = np.hypot(wide, np.abs(object_) * wide_phase)
    return Intervals(amplitude, np.minimum(phase, np.pi), deviation, scale)


def _half_width(
    error: NDArray[np.floating], area: NDArray[np.bool_], scale: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """(H, W) half width of the interval, and standard deviation."""

    def mean(values: NDArray[np.floating] | float) -> NDArray[np.floating]:
        return ndimage.gaussian_filter(np.where(area, values, 0.0), NEIGHBOURHOOD_PX)

    weight = np.maximum(mean(1.0), 1e-9)
    coarse = mean(error) / weight
    fine = mean((error - coarse) ** 2) / weight
    local = np.full(error.shape, np.nan)
    local[area] = np.sqrt(fine[area] + (coarse[area] ** 2).mean())
    size = np.where(local[area] > 0, local[area], 1.0)
    quantile = np.quantile(np.abs(error[area]) / size, PROBABILITY)
    return scale * quantile * local, scale * local


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
