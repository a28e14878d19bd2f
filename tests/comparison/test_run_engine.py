"""Engines on one scan: what they are given, and how they are watched and stopped."""

import dataclasses

import numpy as np
import pytest

from ptychi_neural.comparison import EngineRun, Snapshot
from ptychi_neural.comparison.engines import engine_options
from ptychi_neural.comparison.held_out_pixels import hold_out, withhold
from ptychi_neural.comparison.run_engine import run_engine
from ptychi_neural.comparison.target import Target
from ptychi_neural.engine.start import Start
from ptychi_neural.runs import build_task

SHORT = {
    "neural": {},
    "network-off": {"reconstructor_options": {"start": {"n_iterations": 4}}},
    **{
        name: {"reconstructor_options": {"num_epochs": 4}}
        for name in ("lsqml", "lsqml-poisson", "rpie", "dm", "autodiff")
    },
}


@pytest.mark.parametrize("name", SHORT)
def test_no_engine_sees_the_counts_at_held_out_pixels(run, simulated, name):
    held_out = hold_out(simulated.scan, 0.1)
    other = dataclasses.replace(simulated.scan, patterns=simulated.scan.patterns.copy())
    other.patterns[:, held_out] = 1000
    options = engine_options(name, run, SHORT[name])
    ours, theirs = (
        run_engine(name, options, scan, held_out, show_progress=False).last
        for scan in (simulated.scan, other)
    )
    assert np.abs(ours.object - simulated.scan.object).max() > 0.01
    np.testing.assert_array_equal(ours.object, theirs.object)
    assert ours.held_out < theirs.held_out


@pytest.mark.parametrize("name", ["lsqml", "neural"])
def test_being_watched_does_not_change_an_engine(run, simulated, name):
    held_out = hold_out(simulated.scan, 0.1)
    options = engine_options(name, run, SHORT[name])
    watched = run_engine(name, options, simulated.scan, held_out, show_progress=False)
    task = build_task(options, withhold(simulated.scan, held_out))
    task.run()
    np.testing.assert_array_equal(watched.last.object, task.get_data_to_cpu("object", True))


def test_all_engines_start_from_the_same_and_share_what_the_run_file_says(run, simulated):
    held_out = hold_out(simulated.scan, 0.1)
    for name, changes in SHORT.items():
        options = engine_options(name, run, changes)
        assert options.reconstructor_options.random_seed == 3
        assert options.probe_options.optimizable is False
        start = run_engine(
            name, options, simulated.scan, held_out, max_seconds=0, show_progress=False
        ).snapshots[0]
        assert (start.epoch, start.seconds) == (0, 0)
        np.testing.assert_allclose(start.object, simulated.scan.object)
        np.testing.assert_allclose(start.probe, simulated.scan.probe, rtol=1e-6)


def test_the_neural_engine_is_the_run_files_and_baselines_are_strong(run):
    neural = engine_options("neural", run).reconstructor_options
    assert (neural.num_epochs, neural.generator.width, neural.start.n_iterations) == (2, 4, 4)
    off = engine_options("network-off", run).reconstructor_options
    assert (off.num_epochs, off.batch_size) == (0, 12)
    assert (off.start, off.validation) == (neural.start, neural.validation)
    lsqml = engine_options("lsqml", run).reconstructor_options
    assert (lsqml.batching_mode, lsqml.momentum_acceleration_gain) == ("compact", 0.5)
    assert engine_options("lsqml-poisson", run).reconstructor_options.noise_model == "poisson"
    assert engine_options("autodiff", run).reconstructor_options.loss_function == "mse_sqrt"
    changes = {"reconstructor_options": {"num_epochs": 7}}
    assert engine_options("rpie", run, changes).reconstructor_options.num_epochs == 7


def test_a_course_tells_best_equal_time_and_last():
    nothing = np.zeros(0)
    course = EngineRun(
        "lsqml",
        {},
        [
            Snapshot(epoch, seconds, held_out, error, nothing, nothing, nothing)
            for epoch, seconds, held_out, error in (
                (0, 0.0, 9.0, 0.9),
                (1, 2.0, np.nan, 0.8),
                (2, 4.0, 1.0, 0.3),
                (3, 6.0, 2.0, 0.2),
            )
        ],
    )
    assert course.best.epoch == 2
    assert course.best_by_error.epoch == 3
    assert [course.at(seconds).epoch for seconds in (0, 3.9, 4, 100)] == [0, 1, 2, 3]
    assert course.last.epoch == 3


def test_an_engine_whose_time_is_up_keeps_what_it_has(run, simulated):
    options = engine_options("lsqml", run)
    held_out = hold_out(simulated.scan, 0.1)
    course = run_engine(
        "lsqml", options, simulated.scan, held_out, max_seconds=1e-9, show_progress=False
    )
    assert course.stopped == "out of time"
    assert [snapshot.epoch for snapshot in course.snapshots][-1] == 1


def test_time_may_be_up_in_the_projections_without_a_split(run, simulated, monkeypatch):
    done = []

    def reconstruct(start, scan):
        done.append(scan.split)
        reconstructed(start, scan)

    def now():
        return 1e9 if done[-1:] == [1] else 0.0

    reconstructed = Start.reconstruct
    monkeypatch.setattr(Start, "reconstruct", reconstruct)
    monkeypatch.setattr("ptychi_neural.comparison.watch.time.perf_counter", now)
    held_out = hold_out(simulated.scan, 0.1)
    options = engine_options("neural", run)
    options.reconstructor_options.validation.trial_epochs = None  # All splits are made at once.
    course = run_engine(
        "neural", options, simulated.scan, held_out, max_seconds=60, show_progress=False
    )
    assert course.stopped == "out of time"
    assert done == [None, 0, 1]
    assert course.last.epoch == options.reconstructor_options.start.n_iterations


def test_snapshots_are_spread_over_the_epochs(run, simulated):
    options = engine_options("rpie", run, {"reconstructor_options": {"num_epochs": 9}})
    held_out = hold_out(simulated.scan, 0.1)
    course = run_engine(
        "rpie", options, simulated.scan, held_out, n_snapshots=3, show_progress=False
    )
    assert [snapshot.epoch for snapshot in course.snapshots] == [0, 3, 6, 9]
    assert course.settings["reconstructor_options.num_epochs"] == 9
    assert "reconstructor_options.displayed_loss_function" not in course.settings


@pytest.mark.slow
def test_total_variation_is_chosen_by_held_out_likelihood_or_by_the_truth(run, simulated):
    held_out = hold_out(simulated.scan, 0.1)
    weight = "reconstructor_options.start.total_variation"

    def course(held_out=held_out, truth=None, **start):
        changes = {"reconstructor_options": {"start": {"n_iterations": 20, **start}}}
        options = engine_options("network-off-tv", run, changes)
        return run_engine(
            "network-off-tv",
            options,
            simulated.scan,
            held_out,
            truth,
            total_variation_weights=(1e-3, 10.0),
            show_progress=False,
        )

    chosen = course()
    assert chosen.settings[weight] == 1e-3
    assert "0.001, 10.0" in chosen.remark
    given = course(total_variation=10.0)
    assert given.settings[weight] == 10.0
    assert given.remark is None
    assert given.best.held_out > chosen.best.held_out

    nothing = np.zeros_like(held_out)
    by_truth = course(nothing, Target(simulated.truth.object, "ground truth"))
    assert by_truth.settings[weight] == 1e-3
    assert "by error" in by_truth.remark
    with pytest.raises(ValueError, match="total_variation"):
        course(nothing)
