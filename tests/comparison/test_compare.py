"""Engines side by side: what they are given, how they are judged, what is written."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.stats import poisson
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.comparison import ENGINES, EngineRun, Snapshot, engines
from ptychi_neural.comparison.engines import (
    engine_options,
    held_out_likelihood,
    hold_out,
    run_engine,
    withhold,
)
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.evaluation import complex_error, scanned_area
from ptychi_neural.runs import build_task
from ptychi_neural.runs.run_file import RunFileError, read_run_file
from ptychi_neural.scans import Scan
from ptychi_neural.simulation import simulate, write_simulation

COMMAND = shutil.which("ptychi-neural", path=Path(sys.executable).parent)

RUN = """
engine = "neural"

[simulation]
frame_shape = [16, 16]
photons_per_frame = 1e4

[simulation.scan]
kind = "raster"
n_y = 6
n_x = 5
step_px = 2.5

[reconstructor_options]
num_epochs = 2
batch_size = 12
random_seed = 3
default_device = "cpu"

[reconstructor_options.start]
n_iterations = 4

[reconstructor_options.generator]
width = 4

[probe_options]
optimizable = false
"""

SHORT = {
    "neural": {},
    "network-off": {"reconstructor_options": {"start": {"n_iterations": 4}}},
    **{
        name: {"reconstructor_options": {"num_epochs": 4}}
        for name in ("lsqml", "lsqml-poisson", "rpie", "dm", "autodiff")
    },
}


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A tiny run; the current directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN)
    return path


@pytest.fixture
def run(run_file):
    return read_run_file(run_file)


@pytest.fixture
def simulated(run):
    return simulate(run.simulation)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def few_epochs(*names, n=4):
    return [
        part for name in names for part in ("--set", f"{name}.reconstructor_options.num_epochs={n}")
    ]


# --- what the engines are given ----------------------------------------------------------------


def test_held_out_pixels_are_a_share_of_the_valid_ones(simulated):
    valid = np.ones((16, 16), bool)
    valid[:, :4] = False
    scan = dataclasses.replace(simulated.scan, valid_pixel_mask=valid)
    held_out = hold_out(scan, 0.1, seed=1)
    assert held_out.sum() == round(0.1 * 192)
    assert not held_out[~valid].any()
    np.testing.assert_array_equal(held_out, hold_out(scan, 0.1, seed=1))
    assert (held_out != hold_out(scan, 0.1, seed=2)).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1e-4])
def test_a_share_that_leaves_no_pixel_on_one_side_is_refused(simulated, fraction):
    with pytest.raises(ValueError, match="held_out"):
        hold_out(simulated.scan, fraction)


def test_withheld_counts_are_masked_and_replaced_by_those_of_a_neighbour(simulated):
    held_out = hold_out(simulated.scan, 0.1)
    seen = withhold(simulated.scan, held_out)
    np.testing.assert_array_equal(seen.valid_pixel_mask, ~held_out)
    np.testing.assert_array_equal(
        seen.patterns[:, ~held_out], simulated.scan.patterns[:, ~held_out]
    )
    kept = np.argwhere(~held_out)
    for y, x in np.argwhere(held_out):
        distance = np.hypot(*(kept - (y, x)).T)
        nearest = kept[distance == distance.min()]
        candidates = [simulated.scan.patterns[:, j, i].tolist() for j, i in nearest]
        assert seen.patterns[:, y, x].tolist() in candidates


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
    assert (off.num_epochs, off.batch_size, off.start.n_iterations) == (0, 12, 200)
    lsqml = engine_options("lsqml", run).reconstructor_options
    assert (lsqml.batching_mode, lsqml.momentum_acceleration_gain) == ("compact", 0.5)
    assert engine_options("lsqml-poisson", run).reconstructor_options.noise_model == "poisson"
    assert engine_options("autodiff", run).reconstructor_options.loss_function == "mse_sqrt"
    changes = {"reconstructor_options": {"num_epochs": 7}}
    assert engine_options("rpie", run, changes).reconstructor_options.num_epochs == 7


# --- how they are judged -----------------------------------------------------------------------


def test_held_out_likelihood_is_that_of_poisson_counts():
    rng = np.random.default_rng(0)
    positions = np.array([[-3.0, 2.0], [0.0, -4.0], [3.0, 1.0]])
    object_ = rng.uniform(0.5, 1, (1, 20, 22)) * np.exp(1j * rng.uniform(-1, 1, (1, 20, 22)))
    probe = rng.normal(size=(1, 2, 8, 8)) + 1j * rng.normal(size=(1, 2, 8, 8))
    expected = np.empty((3, 8, 8))
    for frame, (y, x) in zip(expected, positions.astype(int)):
        patch = object_[0, 10 + y - 4 : 10 + y + 4, 11 + x - 4 : 11 + x + 4]
        far = np.fft.fftshift(np.fft.fft2(probe[0] * patch), axes=(-2, -1))
        frame[:] = (np.abs(far) ** 2).sum(0)
    counts = rng.poisson(0.01 * expected)
    valid = np.ones((8, 8), bool)
    valid[0] = False
    scan = Scan(counts, positions, probe, object_, 1e-8, valid_pixel_mask=valid)
    held_out = hold_out(scan, 0.2)
    kept = valid & ~held_out
    mean = expected[:, held_out] * counts[:, kept].sum() / expected[:, kept].sum()
    likelihood = held_out_likelihood(object_, probe, positions, scan, held_out)
    assert likelihood == pytest.approx(-poisson.logpmf(counts[:, held_out], mean).mean(), rel=1e-5)
    other_scale = held_out_likelihood(7 * object_, probe, positions, scan, held_out)
    assert other_scale == pytest.approx(likelihood, rel=1e-5)


def test_the_truth_is_likelier_than_the_start(simulated):
    held_out = hold_out(simulated.scan, 0.1)
    truth, start = (
        held_out_likelihood(s.object, s.probe, s.positions_px, simulated.scan, held_out)
        for s in (simulated.truth, simulated.scan)
    )
    assert truth < start


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

    def project(reconstructor, split, from_object):
        done.append(split)
        projected(reconstructor, split, from_object)

    def now():
        return 1e9 if done[-1:] == [1] else 0.0

    projected = NeuralReconstructor.project
    monkeypatch.setattr(NeuralReconstructor, "project", project)
    monkeypatch.setattr("ptychi_neural.comparison.engines.time.perf_counter", now)
    held_out = hold_out(simulated.scan, 0.1)
    options = engine_options("neural", run)
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


def test_total_variation_is_chosen_by_held_out_likelihood_or_by_the_truth(
    run, simulated, monkeypatch
):
    monkeypatch.setattr(engines, "TOTAL_VARIATION_WEIGHTS", (1e-3, 10.0))
    held_out = hold_out(simulated.scan, 0.1)
    weight = "reconstructor_options.start.total_variation"

    def course(held_out=held_out, truth=None, **start):
        changes = {"reconstructor_options": {"start": {"n_iterations": 20, **start}}}
        options = engine_options("network-off-tv", run, changes)
        return run_engine(
            "network-off-tv", options, simulated.scan, held_out, truth, show_progress=False
        )

    chosen = course()
    assert chosen.settings[weight] == 1e-3
    assert "0.001, 10.0" in chosen.remark
    given = course(total_variation=10.0)
    assert given.settings[weight] == 10.0
    assert given.remark is None
    assert given.best.held_out > chosen.best.held_out

    nothing = np.zeros_like(held_out)
    by_truth = course(nothing, simulated.truth)
    assert by_truth.settings[weight] == 1e-3
    assert "by error" in by_truth.remark
    with pytest.raises(ValueError, match="total_variation"):
        course(nothing)


# --- what is written ---------------------------------------------------------------------------


def test_a_comparison_writes_one_folder_and_prints_its_table(run_file, tmp_path, simulated):
    names = ["network-off", "lsqml", "rpie"]
    done = subprocess.run(
        [
            COMMAND, "compare", run_file, "--engines", ",".join(names), "--seconds", "1e9",
            "--set", "network-off.reconstructor_options.start.n_iterations=5",
            *few_epochs("lsqml", "rpie"),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    folder = tmp_path / "results" / "tiny-comparison"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny-comparison"]
    assert {path.name for path in folder.iterdir()} == {
        "comparison.csv",
        "comparison.md",
        "comparison.png",
        "error_over_time.png",
        "objects.h5",
        "provenance.json",
        "run.toml",
        "trace.csv",
    }
    table = pd.read_csv(folder / "comparison.csv").set_index("engine")
    trace = pd.read_csv(folder / "trace.csv").groupby("engine")
    assert list(table.index) == names
    for name, course in trace:
        row = table.loc[name]
        best = course.loc[course.held_out_nll.idxmin()]
        assert row.best_held_out_nll == pytest.approx(best.held_out_nll)
        assert row.best_epoch == best.epoch
        assert row.end_error == pytest.approx(course.error.iloc[-1])
        assert row.equal_time_epoch == row.end_epoch == course.epoch.iloc[-1]
        assert 0 < row.end_error < course.error.iloc[0]
        assert -1 <= row.best_phase_ssim <= 1
    assert "batching_mode=compact momentum_acceleration_gain=0.5" in table.settings["lsqml"]

    report = (folder / "comparison.md").read_text()
    printed = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert printed == [line for line in report.splitlines() if line.startswith("|")]
    assert len(printed) == 3 * (2 + len(names))
    assert any(f"{table.best_error['lsqml']:.4f}" in line for line in printed)
    for picture in ("comparison.png", "error_over_time.png"):
        assert picture in report
    assert "lsqml (2 of 3)" in done.stderr
    assert "epoch 4/4" in done.stderr

    with h5py.File(folder / "objects.h5") as file:
        np.testing.assert_array_equal(file["ground_truth"], simulated.truth.object)
        area = scanned_area(simulated.scan.positions_px, file["ground_truth"].shape)
        error = complex_error(file["lsqml/object"][0], file["ground_truth"][0], area)
        assert error == pytest.approx(table.best_error["lsqml"], rel=1e-5)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["engines"]["rpie"]["reconstructor_options.num_epochs"] == 4
    assert read_run_file(folder / "run.toml").options == read_run_file(run_file).options


def test_an_engine_that_diverges_or_cannot_run_does_not_stop_the_others(
    run_file, tmp_path, monkeypatch
):
    def refuse(*args, **kwargs):
        raise NotImplementedError("not with these frames")

    monkeypatch.setattr("ptychi.reconstructors.dm.DMReconstructor.check_inputs", refuse)
    output = call(
        "compare", run_file, "--engines", "rpie,dm,lsqml", *few_epochs("lsqml"),
        *few_epochs("rpie", n=50), "--set", "rpie.object_options.step_size=1e6",
    ).output  # fmt: skip
    assert "- rpie: stopped: " in output
    assert "- dm: could not be run: not with these frames" in output
    table = pd.read_csv(tmp_path / "results" / "tiny-comparison" / "comparison.csv")
    assert list(table.engine) == ["rpie", "lsqml"]
    assert table.end_epoch[0] < 50
    assert table.end_epoch[1] == 4


def test_ctrl_c_writes_what_is_done_by_then(run_file, tmp_path, monkeypatch):
    from ptychi.reconstructors.lsqml import LSQMLReconstructor

    run_minibatch = LSQMLReconstructor.run_minibatch

    def pressed(self, *args, **kwargs):
        if self.current_epoch == 2:
            signal.raise_signal(signal.SIGINT)
        run_minibatch(self, *args, **kwargs)

    monkeypatch.setattr(LSQMLReconstructor, "run_minibatch", pressed)
    names = "rpie,lsqml,dm"
    output = call(
        "compare", run_file, "--engines", names, *few_epochs("rpie", "lsqml"), code=130
    ).output
    assert "- lsqml: stopped: interrupted" in output
    table = pd.read_csv(tmp_path / "results" / "tiny-comparison" / "comparison.csv")
    assert list(table.engine) == ["rpie", "lsqml"]
    assert list(table.end_epoch) == [4, 2]


@pytest.mark.parametrize("names", ["lsqml,rpie", "lsqml"])
def test_without_truth_engines_are_compared_with_the_first(run_file, tmp_path, simulated, names):
    write_simulation(simulated, tmp_path / "files")
    head, tail = RUN.split("[simulation]")[0], RUN.split("step_px = 2.5")[1]
    data = '[data]\nfolder = "files"\ndiffraction = "diffraction.h5"\nproduct = "product.h5"\n'
    run_file.write_text(head + data + tail)
    call("compare", run_file, "--engines", names, *few_epochs(*names.split(","), n=2))
    folder = tmp_path / "results" / "tiny-comparison"
    table = pd.read_csv(folder / "comparison.csv")
    assert not any("error" in column or "ssim" in column for column in table)
    assert (folder / "comparison.png").stat().st_size > 10_000
    assert (folder / "error_over_time.png").stat().st_size > 10_000


def test_unknown_engines_and_keys_are_refused_before_anything_runs(run_file, tmp_path, run):
    output = call("compare", run_file, "--engines", "lsqml,lsqlm", code=2).output
    assert "lsqlm; choose from neural, network-off, network-off-tv, lsqml" in output
    assert all(name in output for name in ENGINES)
    for key, said in (
        ("lsqml.reconstructor_options.num_epoch=3", "did you mean num_epochs?"),
        ("lsqml.reconstructor_options.num_epochs=many", "not 'many'"),
        ("rpie.reconstructor_options.num_epochs=3", "add it to --engines"),
        ("reconstructor_options.num_epoch=3", "did you mean num_epochs?"),
    ):
        assert said in call("compare", run_file, "--engines", "lsqml", "--set", key, code=2).output
    assert "seconds" in call("compare", run_file, "--seconds", "0", code=2).output
    assert not (tmp_path / "results").exists()
    with pytest.raises(RunFileError, match="engine lsqml"):
        engine_options("lsqml", run, {"reconstructor_options": {"num_epochs": 0}})


def test_an_earlier_comparison_is_replaced_only_when_asked(run_file, tmp_path):
    folder = tmp_path / "side-by-side"
    folder.mkdir()
    (folder / "provenance.json").touch()
    (folder / "note.txt").touch()
    arguments = ["compare", run_file, "--engines", "lsqml", *few_epochs("lsqml", n=1)]
    arguments += ["--output", folder]
    assert "--overwrite" in call(*arguments, code=2).output
    assert (folder / "note.txt").exists()
    call(*arguments, "--overwrite")
    assert (folder / "comparison.md").exists()
    assert not (folder / "note.txt").exists()
