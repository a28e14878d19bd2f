"""Folders that tune, watch, train and benchmark add to: tried before anything is computed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.folders import results_folder
from ptychi_neural.runs.growing_folder import growing_folder
from small_runs import RUN

TEMPLATE = 'data = { diffraction = "{scan}.h5" }'
TRAINING = """
scans = [{ simulation = {} }]
validation = { simulation = { seed = 1 } }
"""

COMMANDS = {
    "tune": ["tune", "run.toml", "--vary", "reconstructor_options.batch_size=6,12"],
    "watch": ["watch", "scans", "template.toml", "--once"],
    "train": ["train", "train.toml"],
    "reconstruct": ["reconstruct", "run.toml"],
}


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(RUN)
    Path("template.toml").write_text(TEMPLATE)
    Path("train.toml").write_text(TRAINING)
    Path("scans").mkdir()
    Path("file").write_text("mine")
    Path("circle").symlink_to("circle")


@pytest.mark.parametrize("output", ["file", "file/results", "x" * 300, "circle", "/proc/results"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_with_the_remedy(command, output):
    if command == "tune":
        pytest.importorskip("optuna")
    done = CliRunner().invoke(app, [*COMMANDS[command], "--output", output])
    assert done.exit_code == 2, done.output
    assert "--output FOLDER writes elsewhere" in done.output
    assert len(done.output.splitlines()) == 1
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("command", ["tune", "train", "reconstruct", "benchmark"])
def test_a_folder_that_another_command_writes_to_is_refused(command):
    if command == "tune":
        pytest.importorskip("optuna")
    arguments = COMMANDS.get(command, ["benchmark", "smoke"])
    with results_folder("results/mine"):
        done = CliRunner().invoke(app, [*arguments, "--output", "results/mine"])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("error: results/mine: another run writes to it.")
    assert not Path("results/mine").exists()


def test_what_a_search_reads_is_not_replaced():
    pytest.importorskip("optuna")
    Path("best.toml").write_text(RUN)
    arguments = ["tune", "best.toml", *COMMANDS["tune"][2:], "--output", "."]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "holds best.toml, which this command reads and would replace" in done.output
    assert Path("best.toml").read_text() == RUN


def test_links_are_followed_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "link").symlink_to("somewhere")
    growing_folder("link")
    assert list((tmp_path / "somewhere").iterdir()) == []
