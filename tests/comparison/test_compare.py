"""Comparisons of engines: what is written, and what is refused."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.comparison import ENGINES
from ptychi_neural.comparison.engines import engine_options
from ptychi_neural.evaluation import complex_error, scanned_area
from ptychi_neural.runs.run_file import RunFileError, read_run_file
from ptychi_neural.simulation import write_simulation

COMMAND = shutil.which("ptychi-neural", path=Path(sys.executable).parent)


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def few_epochs(*names, n=4):
    return [
        part for name in names for part in ("--set", f"{name}.reconstructor_options.num_epochs={n}")
    ]


def test_a_comparison_writes_one_folder_and_prints_its_table(run_file, tmp_path, simulated):
    names = ["network-off", "lsqml", "rpie"]
    done = subprocess.run(
        [
            COMMAND, "compare", run_file, "--engines", ",".join(names), "--seconds", "1e9",
            "--set", "network-off.reconstructor_options.start.n_iterations=5",
            *few_epochs("lsqml", "rpie"),
        ],
        capture_output=True, text=True, check=True, env=os.environ | {"TQDM_MININTERVAL": "0"},
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
    assert re.search(r"^simulated frames \d+/\d.* left", done.stderr, re.MULTILINE)  # In 30 s.

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
        *few_epochs("rpie", n=50), "--set", "rpie.object_options.step_size=1e6", code=1,
    ).output  # fmt: skip
    assert "Failed or diverged: rpie" in output
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
    text = run_file.read_text()
    head, tail = text.split("[simulation]")[0], text.split("step_px = 2.5")[1]
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
        ("lsqml=5", "name a key, as lsqml.reconstructor_options"),
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
    assert (folder / "note.txt").exists()  # It is the user's.


def test_an_engine_that_fails_does_not_end_the_others(run_file, tmp_path, monkeypatch):
    compare_module = importlib.import_module("ptychi_neural.comparison.compare")
    run_engine = compare_module.run_engine

    def failing(name, *args, **kwargs):
        if name == "rpie":
            raise RuntimeError("CUDA error: an illegal memory access")
        return run_engine(name, *args, **kwargs)

    monkeypatch.setattr(compare_module, "run_engine", failing)
    monkeypatch.setattr(compare_module, "_draw", lambda *args: None)
    names = ["rpie", "lsqml"]
    output = call(
        *("compare", run_file, "--engines", ",".join(names), *few_epochs("lsqml", n=2)), code=1
    ).output
    assert "Failed or diverged: rpie" in output
    table = pd.read_csv(tmp_path / "results" / "tiny-comparison" / "comparison.csv")
    assert table.engine.tolist() == ["lsqml"]
    for seconds in ("nan", "inf", "0", "-1"):
        assert "above 0" in call("compare", run_file, "--seconds", seconds, code=2).output
