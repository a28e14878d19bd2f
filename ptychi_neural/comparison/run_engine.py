"""One engine run on one scan, judged at detector pixels that it does not see."""

import copy
import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural.comparison.engines import ENGINES
from ptychi_neural.comparison.held_out_pixels import withhold
from ptychi_neural.comparison.snapshots import EngineRun, or_infinite
from ptychi_neural.comparison.target import Target
from ptychi_neural.comparison.watch import Watch
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.prediction.deviation_intervals import measure_intervals
from ptychi_neural.runs.option_groups import changed_values
from ptychi_neural.runs.reconstruct import build_task
from ptychi_neural.scans import Scan


def run_engine(
    name: str,
    options: PtychographyTaskOptions,
    scan: Scan,
    held_out: NDArray[np.bool_],
    target: Target | None = None,
    *,
    keep: Collection[str] = (),
    max_seconds: float | None = None,
    n_snapshots: int = 50,
    total_variation_weights: Sequence[float] | None = None,
    with_intervals: bool = False,
    show_progress: bool = True,
) -> EngineRun:
    """Run an engine and take snapshots of it, outside of its wall time.

    An engine whose catalogue entry lists weights of total variation is run with each of them,
    unless its options state one. The run of the best held-out likelihood is kept, or where no
    pixel is held out that of the smallest error.

    Parameters
    ----------
    name : str
        One of ``ENGINES``.
    options : PtychographyTaskOptions
        Options from ``engine_options``; they are not changed.
    scan : Scan
        The scan with its counts at held-out pixels, which the engine does not see.
    held_out : ndarray
        (h, w) from ``hold_out``.
    target : Target, optional
        What objects are compared with.
    keep : collection of str
        Geometry options that stay as they are, see ``build_task``.
    max_seconds : float, optional
        Wall time of the engine after which it is stopped. None: no limit.
    n_snapshots : int
        Approximate number of snapshots of the projections, and of the epochs. The start and what
        the engine leaves in the end come on top.
    total_variation_weights : sequence of float, optional
        Weights that take the place of those of the catalogue.
    with_intervals : bool
        Measure the intervals of what a neural engine leaves, outside of its wall time.
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

    def run_once(options: PtychographyTaskOptions) -> EngineRun:
        settings = changed_values(options)
        seen = withhold(scan, held_out)
        task = build_task(copy.deepcopy(options), seen, keep)
        # The task has patterns of its own, or its share of them.
        seen = dataclasses.replace(seen, patterns=np.empty((0, *held_out.shape)))
        watch = Watch(task, scan, held_out, target, max_seconds, n_snapshots)
        stopped = watch.run(show_progress)
        intervals = None
        if (
            with_intervals
            and stopped is None
            and isinstance(task.reconstructor, NeuralReconstructor)
        ):
            intervals = measure_intervals(task, options, seen, keep)
        return EngineRun(name, settings, watch.snapshots, stopped, intervals)

    weights = ENGINES[name].total_variation_weights
    if not weights:
        return run_once(options)
    assert isinstance(options, NeuralPtychographyOptions)
    if options.reconstructor_options.start.total_variation is not None:
        return run_once(options)
    if not held_out.any() and target is None:
        raise ValueError(
            f"{name}: without held-out pixels and without a truth nothing tells which weight is "
            "good; set reconstructor_options.start.total_variation."
        )
    runs: list[EngineRun] = []
    tried = list(total_variation_weights or weights)
    for weight in tried:
        changed = copy.deepcopy(options)
        changed.reconstructor_options.start.total_variation = weight
        runs.append(run_once(changed))
        if runs[-1].stopped == "interrupted":
            break
    judge = "held-out likelihood" if held_out.any() else "error"
    best = min(runs, key=lambda run: _lowest(run, judge))
    total = sum(run.last.seconds for run in runs)
    remark = (
        f"total_variation chosen from {', '.join(map(str, tried[: len(runs)]))} by {judge}; all "
        f"took {total:.1f} s"
    )
    return dataclasses.replace(best, stopped=runs[-1].stopped, remark=remark)


def _lowest(run: EngineRun, judge: str) -> float:
    """The lowest error or negative log-likelihood that a run came to."""
    return min(
        or_infinite(snapshot.error if judge == "error" else snapshot.held_out)
        for snapshot in run.snapshots
    )
