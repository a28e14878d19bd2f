"""A search for settings: trials share their held-out pixels, and the best predicts them best."""

import signal
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.progress import Progress, telling
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.runs.tune import parse_choices, tune

RUN = """
[simulation]
seed = 3
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 8, n_x = 8, step_px = 2.0, jitter_px = 0.5 }

[reconstructor_options]
num_epochs = 0
default_device = "cpu"
start = { n_iterations = 10 }
validation = { held_out = 0.05 }

[probe_options]
optimizable = false
"""

DEFOCUS = "simulation.probe_defocus_error"


@pytest.fixture
def run_file(tmp_path):
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    return tmp_path / "run.toml"


def test_the_right_defocus_is_found_and_a_search_goes_on(run_file, tmp_path):
    pytest.importorskip("optuna")
    choices = parse_choices(
        [f"{DEFOCUS}=0.0,0.8", "reconstructor_options.start.n_iterations=8..12"]
    )
    run_file.write_text(f'output = {{ formats = ["npz"] }}\n{RUN}', encoding="utf-8")
    tune(run_file, choices, 3, tmp_path / "tuning")
    assert not (tmp_path / "tuning" / "trial-000" / "product.npz").exists()
    made = (tmp_path / "tuning" / "trial-000" / "product.h5").stat().st_mtime_ns
    found = tune(run_file, choices, 5, tmp_path / "tuning")
    assert (tmp_path / "tuning" / "trial-000" / "product.h5").stat().st_mtime_ns == made
    table = pd.read_csv(tmp_path / "tuning" / "table.csv")
    assert sorted(table.trial) == [0, 1, 2, 3, 4]
    assert set(table[DEFOCUS]) == {0.0, 0.8}
    lowest = table.groupby(DEFOCUS).held_out_loss.min()
    assert lowest[0.0] < lowest[0.8] - 0.1
    assert found.best[DEFOCUS] == 0.0
    best = read_run_file(tmp_path / "tuning" / "best.toml")
    assert best.simulation.probe_defocus_error == 0.0
    assert best.output.formats == ["npz"]
    n_iterations = found.best["reconstructor_options.start.n_iterations"]
    assert best.options.reconstructor_options.start.n_iterations == n_iterations
    with pytest.raises(ValueError, match="varies other keys"):
        tune(run_file, choices[:1], 5, tmp_path / "tuning")
    other = {"simulation.photons_per_frame": 10.0, DEFOCUS: 0.3, "output.formats": []}
    with pytest.raises(ValueError, match=r"with other simulation\.photons_per_frame; go on"):
        tune(run_file, choices, 5, tmp_path / "tuning", changes=other)


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        ("reconstructor_options.start.n_iterations=-5..-2", r"start\.n_iterations: .*not -5"),
        ("reconstructor_options.generator.widht=4,8", "did you mean width"),
        ("simulation.photons_per_frame=1e3,1e4", "differ in patterns"),
        ("data.crop.0=8,16", "differ in patterns"),
        ("reconstructor_options.random_seed=0..5", "held out of them"),
    ],
)
def test_what_cannot_be_tried_or_compared_is_refused_before_any_trial(
    run_file, tmp_path, vary, told
):
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match=told):
        tune(run_file, parse_choices([vary]), 2, tmp_path / "tuning")
    assert not (tmp_path / "tuning").exists()


def test_trials_are_counted_and_failed_ones_told(run_file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    module = sys.modules["ptychi_neural.runs.tune"]
    whole = module.reconstruct

    def reconstruct(run, *args, **kwargs):
        if run.simulation.probe_defocus_error == 0.8:
            raise ValueError("too far off")
        return whole(run, *args, **kwargs)

    monkeypatch.setattr(module, "reconstruct", reconstruct)
    monkeypatch.setattr("ptychi_neural.runs.progress.LINE_INTERVAL_S", 0.0)
    with telling(Progress(style="lines")):
        tune(run_file, parse_choices([f"{DEFOCUS}=0.0,0.8,0.4"]), 3, tmp_path / "tuning")
    told = capsys.readouterr().err
    assert "trial 3/3" in told
    assert "best held-out loss" in told
    assert "failed: too far off" in told


def test_values_that_go_with_some_of_the_others_are_tried_and_no_result_is_a_failure(
    run_file, tmp_path, monkeypatch
):
    pytest.importorskip("optuna")

    def reconstruct(*args, **kwargs):
        raise FloatingPointError("it diverged")

    monkeypatch.setattr(sys.modules["ptychi_neural.runs.tune"], "reconstruct", reconstruct)
    generator = "reconstructor_options.generator"  # a cnn has no blocks
    choices = [f"{generator}.architecture=cnn,cascaded", f"{generator}.block=fno,ptycho"]
    with pytest.raises(ValueError, match="none of 2 trials could be run"):
        tune(run_file, parse_choices(choices), 2, tmp_path / "tuning")


@pytest.mark.parametrize("change", ["engine=lsqml", "reconstructor_options.validation.held_out=0"])
def test_a_run_without_held_out_pixels_is_refused(run_file, tmp_path, change):
    pytest.importorskip("optuna")
    contents = [line for line in RUN.splitlines() if "validation" not in line]
    contents = [line for line in contents if "start =" not in line and "num_epochs" not in line]
    run_file.write_text("\n".join(contents), encoding="utf-8")
    command = ["tune", str(run_file), "--vary", "data.n_probe_modes=1,2", "--set", change]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "tuning")])
    assert done.exit_code == 2
    assert "tune scores by held-out pixels" in done.output


def test_optuna_is_an_extra(run_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = CliRunner().invoke(app, ["tune", str(run_file), "--vary", "data.n_probe_modes=1,2"])
    assert done.exit_code == 2
    assert "pip install optuna" in done.output


@pytest.mark.parametrize(
    "text",
    ["a=1", "a", "a=1..b", "a=3..1", "a=1,1", "a=1..2..3", "=1,2", "a=1..inf", "a=1..9999999999"],
)
def test_what_is_no_choice_is_refused(text):
    with pytest.raises(ValueError, match=r"KEY=|dotted\.key|at most 2147483647"):
        parse_choices([text])


@pytest.mark.parametrize(("stopped", "trial"), [(None, 2), ("interrupted", 2), ("interrupted", 1)])
def test_an_interrupted_search_keeps_its_trials_and_goes_on(
    run_file, tmp_path, monkeypatch, stopped, trial
):
    pytest.importorskip("optuna")
    module = sys.modules["ptychi_neural.runs.tune"]
    whole, n_calls = module.reconstruct, 0

    def signalled(*args, **kwargs):
        nonlocal n_calls
        n_calls += 1
        result = whole(*args, **kwargs)
        if n_calls == trial:
            signal.raise_signal(signal.SIGTERM)
            result.stopped = stopped
        return result

    monkeypatch.setattr(module, "reconstruct", signalled)
    command = ["tune", str(run_file), "--vary", f"{DEFOCUS}=0.0,0.4,0.8", "--trials", "3"]
    command += ["--output", str(tmp_path / "tuning")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130, done.output
    assert "Stopped early: interrupted" in done.output
    table = pd.read_csv(tmp_path / "tuning" / "table.csv")
    assert len(table) == trial
    assert table.held_out_loss.notna().sum() == trial - bool(stopped)
    assert CliRunner().invoke(app, command).exit_code == 0
    table = pd.read_csv(tmp_path / "tuning" / "table.csv")
    assert table.held_out_loss.notna().sum() == 3
    assert set(table[DEFOCUS]) == {0.0, 0.4, 0.8}


def test_each_combination_of_values_is_tried_once(run_file, tmp_path):
    pytest.importorskip("optuna")
    choices = parse_choices(
        [f"{DEFOCUS}=0.0,0.8", "reconstructor_options.start.n_iterations=3,4,5"]
    )
    found = tune(run_file, choices, 20, tmp_path / "tuning")
    assert len(found.table) == 6
    assert len(found.table[[choice.key for choice in choices]].drop_duplicates()) == 6
    assert len(tune(run_file, choices, 20, tmp_path / "tuning").table) == 6


def test_a_search_without_a_trial_that_could_be_run_leaves_nothing(run_file, tmp_path):
    pytest.importorskip("optuna")
    run_file.write_text(RUN.replace("seed = 3", "seed = 3\nphotons_per_frame = 1e-9"))
    choices = parse_choices([f"{DEFOCUS}=0.0,0.8"])
    with pytest.raises(ValueError, match="none of 2 trials could be run"):
        tune(run_file, choices, 2, tmp_path / "tuning")
    assert {path.name for path in tmp_path.iterdir()} == {"run.toml"}
    run_file.write_text(RUN)
    tune(run_file, choices, 1, tmp_path / "tuning")
    held = {path.name for path in (tmp_path / "tuning").iterdir()}
    assert {"table.csv", "best.toml", "trial-000"} <= held
