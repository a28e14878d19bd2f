"""Benchmark suites: what is run, kept and refused, and what tables and figures say."""

import json
import math
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import ptychi_neural.api as napi
from ptychi_neural.cli import app
from ptychi_neural.comparison.benchmark import benchmark, run_cell
from ptychi_neural.comparison.benchmark.tables import with_ratios
from ptychi_neural.comparison.markdown import markdown
from ptychi_neural.comparison.snapshots import Snapshot
from ptychi_neural.runs.reconstruct import build_task
from ptychi_neural.scans import Scan
from ptychi_neural.simulation import Raster, SimulationOptions, simulate

N_CELLS = 2 * 2 * 2


@pytest.fixture(scope="module")
def suite_file(tiny_suite, tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(tiny_suite)
    return path


@pytest.fixture(scope="module")
def finished(suite_file, tmp_path_factory):
    """The folder of the whole suite."""
    folder = tmp_path_factory.mktemp("results") / "tiny"
    assert benchmark(suite_file, folder, whole=True, show_progress=False).n_run == N_CELLS
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(finished, tmp_path / "tiny")


def run(suite_file, folder, **kwargs):
    return benchmark(suite_file, folder, whole=True, show_progress=False, **kwargs)


def records_of(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "records").iterdir())]


def table_lines(text):
    """Lines of Markdown without the spaces that align its tables."""
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def times_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}


def a_record(folder, **cell):
    """The path of the first record with these labels."""
    labels = {f"{name}={label}" for name, label in cell.items()}
    files = sorted((folder / "records").iterdir())
    return next(path for path in files if labels <= set(path.stem.split(",")))


WARM = """
[engines.warm]
engine = "lsqml"
after = "network-off"
judged_at = "best_truth"
held_out_fraction = 0
changes = { "reconstructor_options.num_epochs" = 4 }

[figures]"""


def test_an_engine_starts_from_what_another_leaves_and_is_compared_with_itself(
    tiny_suite, tmp_path
):
    path, folder = tmp_path / "warm.toml", tmp_path / "warm"
    path.write_text(tiny_suite.replace("[figures]", WARM))
    benchmark(path, folder, show_progress=False)
    lines = (folder / "table.md").read_text().split("## Head starts")[1].splitlines()
    shown = [[text.strip() for text in line.strip("|").split("|")] for line in lines[4:6]]
    for dose, row in zip(("1e3", "1e5"), shown):
        off, cold, warm = (
            json.loads(a_record(folder, dose=dose, engine=engine).read_text())
            for engine in ("network-off", "lsqml", "warm")
        )
        first = warm["trace"][0]
        assert (first["epoch"], first["error"]) == (0, off["end"]["error"])
        assert first["seconds"] > 0
        assert warm["settings"]["after.reconstructor_options.start.n_iterations"] == 4
        target = cold["trace"][-1]["error"]
        epochs = [score["epoch"] for score in warm["trace"] if score["error"] <= target]
        assert row[:5] == [dose, "75", "warm", "4", "1/1"]
        assert float(row[5]) == min(epochs, default=math.inf)


# --- records ---------------------------------------------------------------------------------


def test_every_cell_has_a_record_that_says_what_was_run_and_on_what(finished):
    records = records_of(finished)
    cells = {(*record["cell"].values(), record["engine"]) for record in records}
    assert len(records) == len(cells) == N_CELLS
    for record in records:
        cell = record["cell"]
        assert list(cell) == ["dose", "overlap", "object", "seed"]
        assert record["seed"] == int(cell["seed"])
        assert record["versions"]["torch"] == torch.__version__
        assert {"ptychi", "neuraloperator", "ptychi_neural", "commit"} <= set(record["versions"])
        assert record["device"].startswith("cpu")
        assert record["threads"] == torch.get_num_threads()
        assert record["peak_memory_mib"] > 50
        assert record["wall_time_s"] > record["engine_seconds"] > 0
        assert record["stopped"] is None


def test_a_record_states_what_differs_from_the_defaults_and_only_that(finished):
    settings = json.loads(a_record(finished, dose="1e3", engine="lsqml").read_text())["settings"]
    assert settings["simulation.photons_per_frame"] == 1e3
    assert settings["simulation.scan.step_px"] == 2.5
    assert settings["reconstructor_options.num_epochs"] == 4
    assert settings["reconstructor_options.batching_mode"] == "compact"
    assert settings["held_out_fraction"] == 0
    assert "simulation.scan.jitter_px" not in settings
    assert "probe_options.support_constraint.enabled" not in settings


def test_scores_are_those_of_the_epochs_they_are_named_after(finished):
    for record in records_of(finished):
        trace = pd.DataFrame(record["trace"])
        assert trace.epoch.unique().tolist() == [0, 1, 2, 3, 4]
        assert trace.seconds.is_monotonic_increasing
        assert record["end"]["epoch"] == 4
        assert record["best_truth"]["error"] == trace.error.min() < trace.error[0]
        in_time = trace[trace.seconds <= 0.05].iloc[-1]
        assert record["equal_time"]["epoch"] == in_time.epoch
        if record["engine"] == "lsqml":
            assert record["best_held_out"] is None
            assert trace.held_out.isna().all()
        else:
            assert record["best_held_out"]["held_out"] == trace.held_out.min()


def test_errors_of_the_bands_add_up_to_the_error(finished):
    for record in records_of(finished):
        end = record["end"]
        assert math.hypot(*end["error_by_band"]) == pytest.approx(end["error"], rel=1e-5)
        assert -1 < end["ssim_amplitude"] < 1
        assert -1 < end["ssim_phase"] < 1
        assert float(end["frc_resolution_px"]) >= 2


def test_two_halves_that_differ_by_what_no_scan_can_tell_are_resolved_to_the_pixel():
    rng = np.random.default_rng(0)
    texture = np.kron(rng.normal(size=(32, 32)), np.ones((2, 2)))
    object_ = np.exp(1j * texture)[None]
    y, x = np.indices(object_.shape[-2:])
    turned = 2j * object_ * np.exp(0.05j * y - 0.02j * x)
    noise = np.exp(1j * rng.normal(size=object_.shape))
    positions = np.indices((9, 9)).reshape(2, -1).T * 5.0 - 20
    probe = np.ones((1, 1, 16, 16), complex)
    scan = Scan(np.ones((81, 16, 16)), positions, probe, object_, 1e-8)

    def resolution(*objects):
        halves = (Snapshot(1, 1.0, 0.0, None, o, probe, positions) for o in objects)
        return run_cell.half_scan_correlation(scan, *halves).resolution_px

    assert resolution(object_, turned) == 2
    assert resolution(object_, noise) > 8


# --- running, stopping, going on -------------------------------------------------------------


def test_a_second_run_does_nothing(suite_file, finished):
    before = times_of(finished)
    assert run(suite_file, finished).n_run == 0
    assert times_of(finished) == before


def test_the_reduced_form_takes_its_cells_from_the_same_records(suite_file, folder):
    result = benchmark(suite_file, folder, show_progress=False)
    assert result.n_run == 0
    assert len(result.cells) == N_CELLS / 2
    assert set(result.cells.seed) == {"1"}


def test_chosen_labels_are_run_in_the_place_of_those_of_the_form(suite_file, tmp_path):
    def run_only(*only):
        result = benchmark(suite_file, tmp_path / "tiny", only=only, show_progress=False)
        return result.n_run, [tuple(row) for row in result.cells[["dose", "seed", "engine"]].values]

    first = ("1e3", "0", "lsqml")  # the reduced form has seed 1
    assert run_only("seed=0", "engine=lsqml", "dose=1e3") == (1, [first])
    second, third = ("1e3", "1", "lsqml"), ("1e5", "1", "lsqml")
    assert run_only("engine=lsqml", "dose=1e3, 1e5") == (2, [first, second, third])
    assert run_only("dose=1e3", "engine=lsqml", "dose=1e5")[0] == 0


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("seed=7", "--only seed: there is no 7, only 0, 1"),
        ("seed", "--only seed: there is no , only 0, 1"),
        ("dosage=1e3", "--only dosage: there is no such name, only dose, overlap, object, seed, e"),
    ],
)
def test_labels_that_a_suite_has_not_are_refused(suite_file, tmp_path, only, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        benchmark(suite_file, tmp_path / "tiny", only=[only])
    assert not (tmp_path / "tiny").exists()


def test_an_interrupted_benchmark_keeps_what_is_finished_and_goes_on(
    suite_file, tmp_path, monkeypatch
):
    whole_run = run_cell.run_engine
    n_calls = 0

    def interrupted(*args, **kwargs):
        nonlocal n_calls
        n_calls += 1
        run = whole_run(*args, **kwargs)
        run.stopped = "interrupted" if n_calls == 3 else run.stopped
        return run

    monkeypatch.setattr(run_cell, "run_engine", interrupted)
    folder = tmp_path / "tiny"
    with pytest.raises(KeyboardInterrupt) as caught:
        run(suite_file, folder)
    assert f"2 of {N_CELLS} cells" in " ".join(caught.value.__notes__)
    kept = times_of(folder)
    assert len(kept) == 2
    assert run(suite_file, folder).n_run == N_CELLS - 2
    assert kept.items() <= times_of(folder).items()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda text: text[:100], "is no record of a benchmark"),
        (lambda text: text.replace('"epoch": 0', '"epoch": "x"', 1), "trace.0.epoch"),
        (lambda text: text.replace('"threads"', '"strands"'), "threads"),
        (lambda text: text.replace('"seed": "0"', '"seed": "7"'), "of another cell"),
        (
            lambda text: text.replace('num_epochs": 4', 'num_epochs": 5'),
            r"other settings \(reconstructor_options.num_epochs\)",
        ),
        (lambda text: text.replace('settings_hash": "', 'settings_hash": "0'), "a default has"),
    ],
)
def test_a_record_that_is_not_what_it_should_be_is_refused(suite_file, folder, harm, message):
    path = a_record(folder, engine="lsqml", seed="0")
    path.write_text(harm(path.read_text()))
    before = times_of(folder)
    with pytest.raises(ValueError, match=message) as caught:
        run(suite_file, folder)
    assert str(path) in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert times_of(folder) == before


def test_overwrite_runs_again_what_does_not_fit_and_nothing_else(suite_file, folder):
    path = a_record(folder, engine="lsqml")
    path.write_text("{}")
    before = times_of(folder)
    assert run(suite_file, folder, overwrite=True).n_run == 1
    after = times_of(folder)
    assert {name for name in after if after[name] != before[name]} == {path.name}


def test_a_generator_that_was_trained_anew_is_not_the_one_that_was_run(tiny_suite, tmp_path):
    def train(seed):
        options = napi.NeuralPtychographyOptions()
        options.reconstructor_options.random_seed = seed
        options.reconstructor_options.generator.width = 2
        simulated = simulate(SimulationOptions(frame_shape=(16, 16), scan=Raster(n_y=6, n_x=6)))
        task = build_task(options, simulated.scan)
        task.run(0)
        task.reconstructor.save_generator(path, overwrite=True)

    path, suite = tmp_path / "generator-1.safetensors", tmp_path / "trained.toml"
    by_seed = tmp_path / "generator-{seed}.safetensors"  # the reduced form has seed 1
    checkpoint = f'"reconstructor_options.generator.checkpoint" = "{by_seed}"'
    engine = f'"reconstructor_options.num_epochs" = 0, {checkpoint}'
    engines = f'[engines]\ntrained = {{ engine = "neural", changes = {{ {engine} }} }}\n'
    reduced = '[reduced]\nengines = ["trained"]\naxes = { dose = ["1e3"] }'
    suite.write_text(tiny_suite.replace("[engines]\n", engines).replace("[reduced]", reduced))
    train(0)
    results = tmp_path / "results"
    assert benchmark(suite, results, whole=False, show_progress=False).n_run == 1
    train(0)
    assert benchmark(suite, results, whole=False, show_progress=False).n_run == 0
    train(1)
    with pytest.raises(ValueError, match=r"other settings \(generator_sha256\)"):
        benchmark(suite, results, whole=False, show_progress=False)


def test_a_suite_with_other_settings_does_not_mix_its_records_with_earlier_ones(
    tiny_suite, tmp_path, folder
):
    other = tmp_path / "other.toml"
    other.write_text(tiny_suite.replace("max_seconds = 20", "max_seconds = 21"))
    with pytest.raises(ValueError, match=r"other settings \(max_seconds\)"):
        run(other, folder)


def test_a_folder_of_something_else_is_left_alone(suite_file, tmp_path):
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(FileExistsError, match="--output"):
        run(suite_file, tmp_path)
    assert (tmp_path / "table.md").read_text() == "mine"


# --- tables and figures ----------------------------------------------------------------------


def test_the_table_holds_the_medians_of_the_records(suite_file, finished):
    table = run(suite_file, finished).table.set_index(["dose", "engine"])
    records = records_of(finished)
    judged = {"network-off": "best_held_out", "lsqml": "best_truth"}
    for dose in ("1e3", "1e5"):
        scores = {
            engine: [
                record[moment]
                for record in records
                if (record["engine"], record["cell"]["dose"]) == (engine, dose)
            ]
            for engine, moment in judged.items()
        }
        for engine, found in scores.items():
            row = table.loc[(dose, engine)]
            assert row["cells"] == "2/2"
            for name in ("error", "ssim_phase", "seconds"):
                assert row[name] == pytest.approx(np.median([score[name] for score in found]))
        errors = [[score["error"] for score in found] for found in scores.values()]
        ratios = np.divide(*errors)  # records are sorted, so seeds correspond
        assert table.loc[(dose, "network-off"), "ratio"] == pytest.approx(np.median(ratios))
        assert table.loc[(dose, "lsqml"), "ratio"] == 1
        row = table.loc[(dose, "network-off")]
        assert (row["ratio_min"], row["ratio_max"]) == pytest.approx((ratios.min(), ratios.max()))
        assert (row["error_min"], row["error_max"]) == (min(errors[0]), max(errors[0]))
    written = pd.read_csv(finished / "table.csv", dtype={"dose": str})
    assert written["error"].tolist() == pytest.approx(table["error"].tolist())


def test_the_bar_is_met_where_the_ratio_of_the_engine_it_asks_is_not_above_it(finished):
    lines = table_lines((finished / "table.md").read_text())
    header = next(line for line in lines if "bar" in line and line.startswith("|"))
    columns = [name.strip() for name in header.split("|")]
    for dose, engine, met in (("1e3", "network-off", "no"), ("1e5", "lsqml", "yes")):
        row = next(line for line in lines if line.startswith(f"| {dose} |")).split("|")
        shown = {name: value.strip() for name, value in zip(columns, row)}
        assert (shown["engine"], shown["met"]) == (engine, met)


def test_missing_records_are_shown_as_missing(suite_file, folder):
    a_record(folder, dose="1e3", engine="lsqml", seed="0").unlink()
    for seed in "01":
        a_record(folder, dose="1e5", engine="lsqml", seed=seed).unlink()
    before = times_of(folder)
    result = run(suite_file, folder, figures_only=True)
    assert result.n_run == 0
    assert times_of(folder) == before
    table = result.table.set_index(["dose", "engine"])
    assert table.loc[("1e3", "lsqml"), "cells"] == "1/2"
    assert table.loc[("1e5", "lsqml"), "cells"] == "0/2"
    assert math.isnan(table.loc[("1e5", "lsqml"), "error"])
    assert math.isnan(table.loc[("1e5", "network-off"), "ratio"])
    ratios = result.cells.set_index(["dose", "seed", "engine"])["ratio"]
    assert math.isnan(ratios["1e3", "0", "network-off"])
    assert table.loc[("1e3", "network-off"), "ratio"] == ratios["1e3", "1", "network-off"]
    lines = table_lines((folder / "table.md").read_text())
    row = next(line for line in lines if "| 1e5 | 75" in line)
    assert "| - |" in row
    assert "2/4" in row


def test_without_any_record_there_is_nothing_to_draw(suite_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="no records to draw"):
        run(suite_file, tmp_path / "empty", figures_only=True)
    assert not (tmp_path / "empty").exists()


def test_no_ratio_is_told_where_one_of_the_baselines_is_missing():
    cells = pd.DataFrame(
        {"engine": ["neural", "lsqml", "rpie"], "seed": 0, "error": [0.1, 0.2, np.nan]}
    )
    assert with_ratios(cells, ["seed"], ["lsqml", "rpie"])["ratio"].isna().all()
    assert with_ratios(cells, ["seed"], ["lsqml"])["ratio"][0] == 0.5
    lines = table_lines(markdown(cells))
    assert "| neural | 0 | 0.1 |" in lines
    assert "| rpie | 0 | - |" in lines


@pytest.mark.parametrize("name", ["convergence", "curves", "map"])
def test_figures_are_drawn_from_the_records(finished, name):
    picture = plt.imread(finished / f"{name}.png")
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].std() > 0.05


def test_a_metric_that_no_cell_has_is_not_drawn(tiny_suite, folder, tmp_path):
    metrics = '[figures]\nmetrics = ["position_rms_px", "error"]'
    (tmp_path / "tiny.toml").write_text(tiny_suite.replace("[figures]", metrics))
    (folder / "curves.png").unlink()
    run(tmp_path / "tiny.toml", folder, figures_only=True)
    assert (folder / "curves.png").is_file()
    assert not (folder / "curves_position_rms_px.png").exists()


# --- the command -----------------------------------------------------------------------------


def test_the_command_goes_on_with_a_benchmark(suite_file, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "results" / "benchmarks" / "tiny")
    result = CliRunner().invoke(app, ["benchmark", str(suite_file)])
    assert result.exit_code == 0, result.output
    assert "0 cells run, 4 of 4 recorded" in result.output
    result = CliRunner().invoke(app, ["benchmark", str(suite_file), "--only", "seed=0"])
    assert "0 cells run, 8 of 8 recorded" in result.output


# --- positions and bars ------------------------------------------------------------------------

POSITIONS = """
[base.probe_position_options]
optimizable = true

[axes]"""


def test_errors_of_refined_positions_are_those_of_the_frames_that_are_reconstructed(
    tiny_suite, tmp_path
):
    path, folder = tmp_path / "positions.toml", tmp_path / "positions"
    changed = tiny_suite.replace("[axes]", POSITIONS).replace("seeds = [0, 1]", "seeds = [1]")
    changed = changed.replace(
        '[{ label = "75",', '[{ label = "75", frames = { every = 3 },'
    ).replace(
        '"simulation.scan.step_px" = 2.5',
        '"simulation.scan.step_px" = 2.5, "simulation.position_error_px" = 0.4',
    )
    still = '"reconstructor_options.num_epochs" = 4, "probe_position_options.step_size" = 0.0 }'
    head, lsqml = changed.split("[engines.lsqml]")
    lsqml = lsqml.replace('"reconstructor_options.num_epochs" = 4 }', still)
    path.write_text(f"{head}[engines.lsqml]{lsqml}")
    benchmark(path, folder, show_progress=False)
    simulated = simulate(
        SimulationOptions(
            frame_shape=(16, 16),
            scan=Raster(n_y=6, n_x=6, step_px=2.5),
            seed=1,
            position_error_px=0.4,
        )
    )
    error = (simulated.scan.positions_px - simulated.truth.positions_px)[::3]
    expected = np.sqrt(np.mean((error - error.mean(axis=0)) ** 2))
    found = json.loads(a_record(folder, dose="1e5", engine="lsqml").read_text())["end"]
    assert found["position_rms_px"] == pytest.approx(expected, rel=1e-4)  # the step size is 0
    assert found["position_rms_no_affine_px"] < found["position_rms_px"]
    text = (folder / "table.md").read_text()
    assert "position rms (px) | baseline's seconds | baseline's position rms (px)" in text


def test_the_table_tells_the_time_that_the_best_baseline_took_to_its_best_epoch(folder, suite_file):
    table = run(suite_file, folder, figures_only=True).cells
    theirs = table[table["engine"] == "lsqml"].set_index(["dose", "seed"])["seconds"]
    for row in table.itertuples():
        assert row.baseline_seconds == theirs[row.dose, row.seed]


def test_a_bar_may_hold_where_several_axes_come_together(tiny_suite, folder, tmp_path):
    bars = 'bars = [{ at = { dose = "1e3", overlap = "75" }, ratio = 0.123 }]\nseeds = [0, 1]'
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_suite.replace("seeds = [0, 1]", bars).replace("bar = 1e-6,", ""))
    run(path, folder, figures_only=True)
    rows = [line for line in table_lines((folder / "table.md").read_text()) if "| 75 |" in line]
    assert "| 0.123 |" in rows[0]
    assert "| 1 |" in rows[1]
    assert "0.123" not in rows[1]


def test_a_cell_that_fails_does_not_end_the_others(suite_file, tmp_path, monkeypatch):
    whole_run, calls = run_cell.run_engine, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA error: an illegal memory access")
        done = whole_run(*args, **kwargs)
        done.stopped = "the loss became nan" if len(calls) == 3 else done.stopped
        return done

    monkeypatch.setattr(run_cell, "run_engine", failing)
    folder = tmp_path / "tiny"
    arguments = ["benchmark", str(suite_file), "--output", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "failed: RuntimeError: CUDA error" in result.output
    n_cells = N_CELLS // 2  # The reduced form.
    assert f"{n_cells - 1} cells run, {n_cells - 1} of {n_cells} recorded" in result.output
    assert "2 cells failed or diverged" in result.output
    monkeypatch.setattr(run_cell, "run_engine", whole_run)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert f"1 cell run, {n_cells} of {n_cells} recorded" in result.output
