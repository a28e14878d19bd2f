"""One cell of a benchmark: the engine is run, and scored at the epochs that count."""

import dataclasses
import time
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from ptychi_neural import evaluation
from ptychi_neural.comparison.benchmark.cost import generator_cost
from ptychi_neural.comparison.benchmark.peak_memory import peak_memory_mib, reset_peak_memory
from ptychi_neural.comparison.benchmark.plan import Plan
from ptychi_neural.comparison.benchmark.record import (
    COVERAGE_COLUMNS,
    POSITION_COLUMNS,
    FullScore,
    Record,
    RingCurve,
    Score,
)
from ptychi_neural.comparison.held_out_pixels import hold_out
from ptychi_neural.comparison.run_engine import run_engine
from ptychi_neural.comparison.snapshots import EngineRun, Snapshot
from ptychi_neural.comparison.target import Target
from ptychi_neural.evaluation.metric_table import BAND_EDGES, METRICS
from ptychi_neural.runs.provenance import device_name, versions
from ptychi_neural.runs.reconstruct import is_refined
from ptychi_neural.scans import Scan, select_frames


def run_cell(plan: Plan, scan: Scan, target: Target | None) -> Record:
    """Run a cell and record what came of it.

    Parameters
    ----------
    plan : Plan
        The cell with its options.
    scan : Scan
        The scan, with the frames of the cell only.
    target : Target, optional
        What objects are compared with.

    Raises
    ------
    KeyboardInterrupt
        If Ctrl-C was pressed.
    """
    reset_peak_memory()
    started, clock = datetime.now(UTC), time.perf_counter()
    suite, cell = plan.suite, plan.cell
    sees_less = plan.held_out_fraction > 0
    run = _run_engine(plan, scan, target)
    halves = [
        _run_engine(plan, select_frames(scan, slice(first, None, 2)), None)
        for first in (0, 1)
        if suite.half_scans
    ]

    def score(snapshot: Snapshot, of_halves: Sequence[Snapshot] = ()) -> FullScore:
        return _full_score(plan, scan, target, snapshot, of_halves)

    cost = generator_cost(plan.options, scan, plan.run.chosen)
    limit, begun = suite.equal_seconds, run.snapshots[0].seconds
    return Record(
        suite=suite.name,
        cell=cell.coordinates,
        engine=cell.engine,
        seed=cell.seed,
        settings=plan.stated,
        settings_hash=plan.settings_hash,
        versions=versions(),
        device=device_name(torch.get_default_device()),
        threads=torch.get_num_threads(),
        started=started.isoformat(timespec="seconds"),
        engine_seconds=run.last.seconds,
        peak_memory_mib=peak_memory_mib(),
        n_parameters=None if cost is None else cost.n_parameters,
        flops=None if cost is None else cost.flops,
        stopped=run.stopped,
        band_edges=list(BAND_EDGES),
        trace=[Score(**_course(plan, snapshot)) for snapshot in run.snapshots],
        end=score(run.last, [half.last for half in halves]).model_copy(
            update=_coverage(plan, scan, target, run)
        ),
        best_held_out=score(run.best, [half.best for half in halves]) if sees_less else None,
        best_truth=None if run.best_by_error is None else score(run.best_by_error),
        equal_time=None if limit is None or limit < begun else score(run.at(limit)),
        wall_time_s=time.perf_counter() - clock,
    )


def half_scan_correlation(scan: Scan, first: Snapshot, second: Snapshot) -> RingCurve:
    """Fourier ring correlation of reconstructions from two halves of a scan, brought into register.

    Parameters
    ----------
    scan : Scan
        The whole scan, whose positions bound the area that is compared.
    first, second : Snapshot
        Reconstructions from one half of the frames each.
    """
    a, b = (snapshot.object.prod(axis=0) for snapshot in (first, second))
    area = evaluation.scanned_area(scan.positions_px, a.shape)
    b = evaluation.align(b, a, ramp=True, shift=True, mask=area).aligned
    rings = evaluation.fourier_ring_correlation(a, b, area)
    half_bit = evaluation.half_bit_threshold(rings.n_pixels)
    return RingCurve(
        frequencies=rings.frequencies.tolist(),
        correlation=rings.correlation.tolist(),
        half_bit=half_bit.tolist(),
        resolution_px=evaluation.resolution_px(rings, half_bit),
    )


def _run_engine(plan: Plan, scan: Scan, target: Target | None) -> EngineRun:
    """Run the engine of a plan, after the one that it starts from."""
    suite, cell, seconds = plan.suite, plan.cell, 0.0
    if plan.before is not None:
        before = _run_engine(plan.before, scan, None)
        if before.stopped not in (None, "out of time"):
            return before
        reached, seconds = before.last, before.last.seconds
        scan = dataclasses.replace(
            scan,
            object=reached.object,
            probe=reached.probe,
            positions_px=reached.positions_px.astype(np.float64),
        )
    held_out = np.zeros(scan.patterns.shape[-2:], dtype=bool)
    if plan.held_out_fraction > 0:
        held_out = hold_out(scan, plan.held_out_fraction, cell.seed)
    is_truth = target is not None and target.name == "ground truth"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # no pixels held out
        run = run_engine(
            plan.engine,
            plan.options,
            scan,
            held_out,
            target if is_truth else None,
            keep=plan.run.chosen,
            max_seconds=cell.max_seconds,
            n_snapshots=suite.n_snapshots,
            with_intervals=suite.intervals and target is not None,
            show_progress=False,
        )
    if run.stopped == "interrupted":
        raise KeyboardInterrupt(f"{cell.key} was interrupted.")
    for snapshot in run.snapshots:
        snapshot.seconds += seconds
    return run


def _coverage(plan: Plan, scan: Scan, target: Target | None, run: EngineRun) -> dict[str, float]:
    """How the intervals of the last object compare with the truth; empty where there are none."""
    intervals = run.intervals
    if target is None or intervals is None:
        return {}
    found, truth, area = target.aligned(run.last.object, scan, is_refined(plan.options))
    before = run.last.object.prod(axis=0)
    factor = np.linalg.norm(found[area]) / np.linalg.norm(before[area])
    compared = evaluation.coverage(
        *(found, truth, area),
        factor * intervals.amplitude,
        intervals.phase,
        intervals.standard_deviation,
    )
    return dict(zip(COVERAGE_COLUMNS, compared))


def _course(plan: Plan, snapshot: Snapshot) -> dict[str, Any]:
    """The values of a ``Score``, which a snapshot holds already."""
    return {
        "epoch": snapshot.epoch,
        "seconds": snapshot.seconds,
        "held_out": snapshot.held_out if plan.held_out_fraction > 0 else None,
        "error": snapshot.error,
    }


def _full_score(
    plan: Plan,
    scan: Scan,
    target: Target | None,
    snapshot: Snapshot,
    halves: Sequence[Snapshot],
) -> FullScore:
    values: dict[str, Any] = dict.fromkeys(METRICS)
    if target is not None:
        compared = target.aligned(snapshot.object, scan, is_refined(plan.options))
        values |= {
            name: metric.measure(*compared)
            for name, metric in METRICS.items()
            if target.name in metric.recorded_against
        }
        true = target.true_positions(scan)
        if true is not None and plan.options.probe_position_options.optimizable:
            for name, affine in zip(POSITION_COLUMNS, (False, True)):
                values[name] = evaluation.position_rms(snapshot.positions_px, true, affine)
    curve = half_scan_correlation(scan, *halves) if halves else None
    return FullScore(**_course(plan, snapshot), **values, half_scans=curve)
