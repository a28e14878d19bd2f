"""Engines run side by side on one scan, judged at detector pixels that none of them sees.

A few random pixels of the detector are held out. How likely their counts are, given an object and
a probe, tells when a fit begins to follow the noise; it needs no ground truth.
"""

import copy
import dataclasses
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import ptychi.api as api
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask
from ptychi.device import AcceleratorModuleWrapper
from ptychi.reconstructors.base import IterativeReconstructor
from scipy import ndimage
from scipy.special import gammaln, xlogy

import ptychi_neural.api as napi
from ptychi_neural import evaluation
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.physics.losses import POISSON_EPS
from ptychi_neural.projections import total_variation
from ptychi_neural.runs.attend import after, run_attended
from ptychi_neural.runs.option_groups import changed_values
from ptychi_neural.runs.reconstruct import build_task, in_register, is_refined
from ptychi_neural.runs.run_file import RunFile, options_from
from ptychi_neural.scans import Scan
from ptychi_neural.simulation.simulate import CHUNK_SIZE, build_forward_model

TOTAL_VARIATION_WEIGHTS = tuple(weight for weight in total_variation.WEIGHTS if weight > 0)
"""Tried by ``network-off-tv``, which denoises after every projection; the one with the best
held-out likelihood is kept, or with the smallest error where no pixel is held out."""


@dataclass(frozen=True)
class Engine:
    """One engine of a comparison."""

    options_class: type[PtychographyTaskOptions]

    settings: dict[str, Any]
    """Where it differs from its defaults, as in a run file."""


def _classical(options_class: type[PtychographyTaskOptions], **groups: dict[str, Any]) -> Engine:
    reconstructor = {"num_epochs": 200, **groups.pop("reconstructor_options", {})}
    return Engine(options_class, {"reconstructor_options": reconstructor, **groups})


_PROJECTIONS = {
    "reconstructor_options": {
        "num_epochs": 0,
        "start": {"n_iterations": 200},
        "validation": {"held_out": 0.0},
    }
}
_LSQML = {"batch_size": 50, "batching_mode": "compact", "momentum_acceleration_gain": 0.5}

ENGINES: dict[str, Engine] = {
    "neural": Engine(napi.NeuralPtychographyOptions, {}),
    "network-off": Engine(napi.NeuralPtychographyOptions, _PROJECTIONS),
    "network-off-tv": Engine(napi.NeuralPtychographyOptions, _PROJECTIONS),
    "lsqml": _classical(api.LSQMLOptions, reconstructor_options=_LSQML),
    "lsqml-poisson": _classical(
        api.LSQMLOptions, reconstructor_options=_LSQML | {"noise_model": "poisson"}
    ),
    "rpie": _classical(
        api.RPIEOptions,
        reconstructor_options={"batch_size": 10, "batching_mode": "uniform"},
        object_options={"alpha": 0.5},
    ),
    "dm": _classical(api.DMOptions, reconstructor_options={"chunk_length": 50}),
    "autodiff": _classical(
        api.AutodiffPtychographyOptions,
        reconstructor_options={"batch_size": 50, "loss_function": "mse_sqrt"},
        object_options={"optimizer": "adam", "step_size": 0.1},
        probe_options={"step_size": 0.3},
        probe_position_options={"optimizer": "adam", "step_size": 0.01},
    ),
}
"""Names of engines and what makes them strong baselines: rPIE diverges in larger batches of noisy
frames, autodiff with the default step of the probe."""

SHARED = {
    "data_options": None,
    "object_options": (
        "pixel_size_m",
        "pixel_size_aspect_ratio",
        "slice_spacings_m",
        "determine_position_origin_coords_by",
        "position_origin_coords",
    ),
    "probe_options": ("optimizable", "pixel_size_m", "pixel_size_aspect_ratio"),
    "probe_position_options": ("optimizable",),
    "opr_mode_weight_options": (
        "optimizable",
        "optimize_eigenmode_weights",
        "optimize_intensity_variation",
    ),
    "reconstructor_options": ("random_seed", "default_device", "default_dtype"),
}
"""Options that every engine takes from the run file: data, geometry, what is refined, seed, device.
None: the whole group."""


@dataclass
class Snapshot:
    """What an engine had after an epoch."""

    epoch: int
    """Epochs done, the neural engine's projections counted as one each."""

    seconds: float
    """Wall time of the engine alone until then."""

    held_out: float
    """``held_out_likelihood``."""

    error: float | None
    """Relative complex error against the truth or reference; None where there is neither."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) object."""

    probe: NDArray[np.complexfloating]
    """(n_opr_modes, n_modes, h, w) probe."""

    positions_px: NDArray[np.floating]
    """(n, 2) positions (y, x) in pixels."""


@dataclass
class EngineRun:
    """The course of one engine."""

    engine: str
    """One of ``ENGINES``."""

    settings: dict[str, Any]
    """Options that differ from the engine's defaults, by dotted name."""

    snapshots: list[Snapshot]
    """In order of time; the first is the common start."""

    stopped: str | None = None
    """What ended the run before its last epoch: "interrupted", "out of time", or how it failed."""

    remark: str | None = None
    """What else there is to say about it."""

    @property
    def best(self) -> Snapshot:
        """The snapshot of the best held-out likelihood."""
        return min(self.snapshots, key=lambda snapshot: _or_infinite(snapshot.held_out))

    @property
    def best_by_error(self) -> Snapshot | None:
        """The snapshot of the smallest error; None where there is nothing to compare with."""
        errors = [_or_infinite(snapshot.error) for snapshot in self.snapshots]
        return self.snapshots[int(np.argmin(errors))] if min(errors) < np.inf else None

    @property
    def last(self) -> Snapshot:
        """The last snapshot."""
        return self.snapshots[-1]

    def at(self, seconds: float) -> Snapshot:
        """The last snapshot that was reached within a wall time."""
        return [snapshot for snapshot in self.snapshots if snapshot.seconds <= seconds][-1]


def engine_options(
    name: str, run: RunFile, changes: dict[str, Any] | None = None
) -> PtychographyTaskOptions:
    """Options of an engine for the scan of a run file.

    The neural engine takes the run file's options if the run file is one for the neural engine.
    Every engine takes the ``SHARED`` options from it.

    Parameters
    ----------
    name : str
        One of ``ENGINES``.
    run : RunFile
        The run file.
    changes : dict, optional
        Option groups that take the place of the engine's, as in a run file.

    Raises
    ------
    ValueError
        If there is no such engine.
    RunFileError
        If keys or values are not the engine's.
    """
    check_engine_names([name])
    engine = ENGINES[name]
    stated = run.filled_in()
    own: dict[str, Any] = {}
    if type(run.options) is engine.options_class is napi.NeuralPtychographyOptions:
        own = {key: dict(value) for key, value in stated.items() if key.endswith("_options")}
        if name != "neural":
            del own["reconstructor_options"]["generator"]
    shared = {
        group: {k: v for k, v in stated[group].items() if names is None or k in names}
        for group, names in SHARED.items()
    }
    return options_from(
        engine.options_class, own, engine.settings, shared, changes or {}, source=f"engine {name}"
    )


def check_engine_names(names: Collection[str]) -> None:
    """Refuse names that are not in ``ENGINES``.

    Raises
    ------
    ValueError
        If there is one, or none at all.
    """
    unknown = [name for name in names if name not in ENGINES]
    if unknown or not names:
        raise ValueError(
            f"engines: {', '.join(unknown) or 'none'}; choose from {', '.join(ENGINES)}."
        )


def hold_out(scan: Scan, fraction: float = 0.03, seed: int = 0) -> NDArray[np.bool_]:
    """Random detector pixels, the same in all frames, among the valid ones.

    Parameters
    ----------
    scan : Scan
        The scan.
    fraction : float
        Share of the valid pixels, above 0 and below 1.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray
        (h, w) True where held out.

    Raises
    ------
    ValueError
        If the fraction is out of range, or none or all of the pixels would be held out.

    Examples
    --------
    >>> frames = np.ones((2, 10, 10))
    >>> probe = np.ones((1, 1, 10, 10), complex)
    >>> hold_out(Scan(frames, np.zeros((2, 2)), probe, probe[0], 1e-8), 0.05).sum().item()
    5
    """
    valid = np.flatnonzero(_valid(scan))
    n_held_out = round(fraction * len(valid))
    if not 0 < n_held_out < len(valid):
        raise ValueError(
            f"held_out = {fraction} holds out {n_held_out} of {len(valid)} valid pixels; the "
            "default is 0.03."
        )
    held_out = np.zeros(scan.patterns.shape[-2:], bool)
    held_out.flat[np.random.default_rng(seed).choice(valid, n_held_out, replace=False)] = True
    return held_out


def withhold(scan: Scan, held_out: NDArray[np.bool_]) -> Scan:
    """The scan without what was counted at held-out pixels.

    They are masked as invalid. Some engines read sums over all pixels all the same (LSQML scales
    the probe by them), so their counts are those of the nearest pixel that is left.

    Parameters
    ----------
    scan : Scan
        The scan.
    held_out : ndarray
        (h, w) from ``hold_out``.
    """
    kept = _valid(scan) & ~held_out
    y, x = ndimage.distance_transform_edt(~kept, return_distances=False, return_indices=True)
    patterns = scan.patterns.copy()
    patterns[:, held_out] = scan.patterns[:, y[held_out], x[held_out]]
    return dataclasses.replace(scan, patterns=patterns, valid_pixel_mask=kept)


@torch.no_grad()
def held_out_likelihood(
    object: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    scan: Scan,
    held_out: NDArray[np.bool_],
    options: PtychographyTaskOptions | None = None,
    opr_mode_weights: NDArray[np.floating] | None = None,
) -> float:
    """Mean negative logarithm of the Poisson likelihood of the counts at held-out pixels.

    Predictions are pty-chi's. Their scale is that at which they and the measured counts have the
    same sum over the other valid pixels: an engine may keep it elsewhere in mid-run.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) object.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe.
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels.
    scan : Scan
        With the counts at held-out pixels.
    held_out : ndarray
        (h, w) from ``hold_out``.
    options : PtychographyTaskOptions, optional
        Geometry and propagation. None: far field, one slice.
    opr_mode_weights : ndarray, optional
        (n, n_opr_modes) weights of the probe's OPR modes.

    Returns
    -------
    float
        In nats per pixel and frame; not finite where the prediction is not, nan where nothing is
        held out.
    """
    options = options or PtychographyTaskOptions()
    model = build_forward_model(
        object, probe, positions_px, options, opr_mode_weights, held_out.shape
    )
    kept = _valid(scan) & ~held_out
    total, predicted = 0.0, []
    for indices in torch.arange(len(positions_px)).split(CHUNK_SIZE):
        intensities = model(indices)
        if options.data_options.fft_shift:
            intensities = torch.fft.fftshift(intensities, dim=(-2, -1))
        frames = intensities.numpy(force=True)
        total += frames[:, kept].sum(dtype=np.float64)
        predicted.append(frames[:, held_out].astype(np.float64))
    counts = scan.patterns[:, held_out].astype(np.float64)
    with np.errstate(all="ignore"):
        mean = np.concatenate(predicted) * (scan.patterns[:, kept].sum(dtype=np.float64) / total)
        losses = mean - xlogy(counts, mean + POISSON_EPS) + gammaln(counts + 1)
    return float(losses.mean()) if losses.size else np.nan


def object_error(
    object: NDArray[np.complexfloating],
    scan: Scan,
    compare_with: Scan | NDArray[np.complexfloating],
    refined: bool,
) -> float:
    """Relative complex error inside the scanned area, of the product of all slices.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) object.
    scan : Scan
        Its nominal positions bound the scanned area.
    compare_with : Scan or ndarray
        Ground truth, or (n_slices, H, W) reference. A phase ramp and a translation against a
        reference are removed.
    refined : bool
        Whether probe or positions were refined: they are removed against the truth too.
    """
    ours, theirs, area = aligned(object, scan, compare_with, refined)
    return evaluation.complex_error(ours, theirs, area)


def aligned(
    object: NDArray[np.complexfloating],
    scan: Scan,
    compare_with: Scan | NDArray[np.complexfloating],
    refined: bool,
) -> tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.bool_]]:
    """(H, W) object brought into register, what it is compared with, and the scanned area.

    Parameters are those of ``object_error``.
    """
    known = isinstance(compare_with, Scan)
    reference = compare_with.object if isinstance(compare_with, Scan) else compare_with
    return in_register(object, reference, scan.positions_px, free=refined or not known)


def run_engine(
    name: str,
    options: PtychographyTaskOptions,
    scan: Scan,
    held_out: NDArray[np.bool_],
    compare_with: Scan | NDArray[np.complexfloating] | None = None,
    *,
    keep: Collection[str] = (),
    max_seconds: float | None = None,
    n_snapshots: int = 50,
    show_progress: bool = True,
) -> EngineRun:
    """Run an engine and look at it from time to time, outside of its wall time.

    ``network-off-tv`` is run with each of ``TOTAL_VARIATION_WEIGHTS``, unless its options have a
    weight, and the run of the best held-out likelihood is kept, or where no pixel is held out that
    of the smallest error.

    Parameters
    ----------
    name : str
        One of ``ENGINES``.
    options : PtychographyTaskOptions
        From ``engine_options``; they are left as they are.
    scan : Scan
        With the counts at held-out pixels, which the engine does not see.
    held_out : ndarray
        (h, w) from ``hold_out``.
    compare_with : Scan or ndarray, optional
        Ground truth, or (n_slices, H, W) reference.
    keep : collection of str
        Geometry options that stay as they are, see ``build_task``.
    max_seconds : float, optional
        Wall time of the engine after which it is stopped. None: no limit.
    n_snapshots : int
        About how many snapshots are taken, of the projections and of the epochs each, besides
        the start and what the engine leaves in the end.
    show_progress : bool
        Show a bar with epoch, loss and time left.

    Returns
    -------
    EngineRun
        What was reached, also where the engine diverged or Ctrl-C was pressed.

    Raises
    ------
    ValueError
        If the engine refuses options or data.
    """
    seen = withhold(scan, held_out)

    def run_once(options: PtychographyTaskOptions) -> EngineRun:
        settings = changed_values(options)
        task = build_task(copy.deepcopy(options), seen, keep)
        watch = _Watch(task, scan, held_out, compare_with, max_seconds, n_snapshots)
        stopped = watch.run(show_progress)
        return EngineRun(name, settings, watch.snapshots, stopped)

    if name != "network-off-tv":
        return run_once(options)
    assert isinstance(options, napi.NeuralPtychographyOptions)
    if options.reconstructor_options.start.total_variation is not None:
        return run_once(options)
    if not held_out.any() and compare_with is None:
        raise ValueError(
            "network-off-tv: without held-out pixels and without a truth nothing tells which "
            "weight is good; set reconstructor_options.start.total_variation."
        )
    runs: list[EngineRun] = []
    for weight in TOTAL_VARIATION_WEIGHTS:
        changed = copy.deepcopy(options)
        changed.reconstructor_options.start.total_variation = weight
        runs.append(run_once(changed))
        if runs[-1].stopped == "interrupted":
            break
    judge = "held-out likelihood" if held_out.any() else "error"
    best = min(runs, key=lambda run: _or_infinite(_judged(run, by_error=not held_out.any())))
    tried = ", ".join(map(str, TOTAL_VARIATION_WEIGHTS[: len(runs)]))
    total = sum(run.last.seconds for run in runs)
    remark = f"total_variation chosen from {tried} by {judge}; all took {total:.1f} s"
    return dataclasses.replace(best, stopped=runs[-1].stopped, remark=remark)


def _judged(run: EngineRun, by_error: bool) -> float | None:
    """The best of a run, by the error against the truth or by the held-out likelihood."""
    if by_error:
        return None if run.best_by_error is None else run.best_by_error.error
    return run.best.held_out


def _or_infinite(value: float | None) -> float:
    """None and NaN are worse than anything."""
    return np.inf if value is None or np.isnan(value) else value


def _valid(scan: Scan) -> NDArray[np.bool_]:
    """(h, w) True where the detector works."""
    if scan.valid_pixel_mask is None:
        return np.ones(scan.patterns.shape[-2:], bool)
    return scan.valid_pixel_mask


class _OutOfTime(Exception):
    """Raised when an engine's time is spent."""


class _Diverged(Exception):
    """Raised after the epoch in which the object or probe became NaN or infinite."""


class _Watch:
    """Takes snapshots of a running task while the engine's clock stands still."""

    def __init__(
        self,
        task: PtychographyTask,
        scan: Scan,
        held_out: NDArray[np.bool_],
        compare_with: Scan | NDArray[np.complexfloating] | None,
        max_seconds: float | None,
        n_snapshots: int,
    ) -> None:
        self.task = task
        self.scan = scan
        self.held_out = held_out
        self.compare_with = compare_with
        self.max_seconds = np.inf if max_seconds is None else max_seconds
        self.n_snapshots = n_snapshots
        self.epoch = 0
        self.seconds = 0.0
        self.lap = 0.0
        self.snapshots = [self._snapshot()]

    def run(self, show_progress: bool) -> str | None:
        """Run all projections and epochs; what ended them early."""
        reconstructor = self.task.reconstructor
        assert isinstance(reconstructor, IterativeReconstructor)
        n_epochs, assembly_stride = self.task.reconstructor_options.num_epochs, 1
        n_total = n_epochs
        with ExitStack() as watched:
            if isinstance(reconstructor, NeuralReconstructor):
                n_projections = reconstructor.n_projections()
                n_total += n_projections
                assembly_stride = reconstructor.options.consistency.canvas_update_stride
                look = self._look(n_projections, n_total, finish=reconstructor.denoise_object)
                watched.enter_context(after(reconstructor, "run_post_projection_hooks", look))
                stop = self._stop_out_of_time
                watched.enter_context(after(reconstructor, "run_post_update_hooks", stop))
            look = self._look(n_epochs, n_total, assembly_stride)
            watched.enter_context(after(reconstructor, "run_post_epoch_hooks", look))
            self._lap()
            try:
                stopped = "interrupted" if run_attended(self.task, show_progress) else None
            except _OutOfTime:
                stopped = "out of time"
            except (_Diverged, FloatingPointError) as error:
                return str(error)
            except RuntimeError as error:  # memory, a singular matrix, what an engine cannot do
                return f"{type(error).__name__}: {error}"
        self.seconds += self._lap()
        if not np.array_equal(self.task.get_data_to_cpu("object", True), self.snapshots[-1].object):
            self.snapshots.append(self._snapshot())
        return stopped

    def _look(
        self,
        length: int,
        n_total: int,
        multiple_of: int = 1,
        finish: Callable[[], None] = lambda: None,
    ) -> Callable[[], None]:
        """What follows each of ``length`` iterations: after every so many a snapshot of what
        ``finish`` has made of the object."""
        stride = multiple_of * -(-length // (multiple_of * self.n_snapshots))
        n_done = 0

        def look() -> None:
            nonlocal n_done
            self.seconds += self._lap()
            n_done += 1
            self.epoch += 1
            for name in ("object", "probe"):
                if not self.task.get_data(name).isfinite().all():
                    raise _Diverged(f"the {name} became NaN or infinite in epoch {self.epoch}")
            if n_done % stride == 0:
                finish()
                self.snapshots.append(self._snapshot())
            if self.seconds >= self.max_seconds and self.epoch < n_total:
                raise _OutOfTime
            self._lap()

        return look

    def _stop_out_of_time(self) -> None:
        """Between two epochs there may be much to do: projections without each split."""
        if self.seconds + time.perf_counter() - self.lap >= self.max_seconds:
            raise _OutOfTime

    def _lap(self) -> float:
        """Seconds since the last lap."""
        accelerator = AcceleratorModuleWrapper.get_module()
        if accelerator.is_available():
            accelerator.synchronize()
        before, self.lap = self.lap, time.perf_counter()
        return self.lap - before

    def _snapshot(self) -> Snapshot:
        task, error = self.task, None
        object_, probe, positions, weights = (
            task.get_data(name).numpy(force=True).copy()
            for name in ("object", "probe", "probe_positions", "opr_mode_weights")
        )
        held_out = held_out_likelihood(
            object_, probe, positions, self.scan, self.held_out, task.options, weights
        )
        if self.compare_with is not None:
            error = object_error(object_, self.scan, self.compare_with, is_refined(task.options))
        return Snapshot(self.epoch, self.seconds, held_out, error, object_, probe, positions)
