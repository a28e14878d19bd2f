"""Trainings from their files to their results folders."""

import dataclasses
import importlib
import json
import signal
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w
from safetensors.torch import load_file
from typer.testing import CliRunner

import ptychi_neural.api as napi
from ptychi_neural.cli import app
from ptychi_neural.engine.state_files import write_state
from ptychi_neural.generators.files import load_generator
from ptychi_neural.runs import read_training_file, train
from ptychi_neural.runs.configuration import RunFileError, parse_changes
from ptychi_neural.runs.folders import results_folder
from ptychi_neural.runs.run_file import run_of
from ptychi_neural.scans import mean_pattern_probe
from ptychi_neural.simulation import simulate, write_simulation
from ptychi_neural.training.workflow import STATE_KIND
from scan_kinds import DISTANCE_M, KINDS, WAVELENGTH_M
from small_trainings import recipe

train_module = importlib.import_module("ptychi_neural.runs.train")

SIMULATION = (
    "simulation = { frame_shape = [16, 16], seed = SEED, "
    "scan = { kind = 'raster', n_y = 6, n_x = 6, step_px = 2.0 } }\n"
)
FILE = f"""
[training]
scans_in_memory = 1

[[scans]]
data = {{ folder = "measured", diffraction = "diffraction.h5", product = "product.h5" }}
probe_options = {{ optimizable = true }}

[[scans]]
fresh = "object"
{SIMULATION.replace("SEED", "1")}
[validation]
{SIMULATION.replace("SEED", "9")}
[reconstructor_options]
num_epochs = 2
random_seed = 0
default_device = "cpu"
allow_nondeterministic_algorithms = false

[reconstructor_options.start]
n_iterations = 3

[reconstructor_options.generator]
width = 4
unrolled = {{ n_splits = 2, n_layers = 1 }}

[probe_options]
optimizable = false
"""


@pytest.fixture
def training_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    write_simulation(simulate(recipe(0)), tmp_path / "measured")
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_training_file_gives_a_folder_and_its_train_toml_gives_it_again(training_file, tmp_path):
    assert "2 epochs, best score" in call(training_file)
    folder = tmp_path / "results" / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "generator-best.safetensors",
        "generator-last.safetensors",
        "provenance.json",
        "state.safetensors",
        "train.toml",
        "training.csv",
        "training.png",
    }
    table = pd.read_csv(folder / "training.csv")
    assert table.epoch.tolist() == [0, 1, 2]
    _, _, metadata = load_generator(folder / "generator-best.safetensors")
    assert metadata["score"] == table.score.min()
    assert metadata["epochs"] == table.score.argmin()
    assert len(metadata["scans"]) == 2
    assert metadata["validation"]["pixel_size_m"] == 1e-8
    assert json.loads((folder / "provenance.json").read_text())["epochs"] == 2

    call(folder / "train.toml", "--output", tmp_path / "again")
    one, other = (load_file(f / "generator-last.safetensors") for f in (folder, tmp_path / "again"))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_resumed_command_goes_on_and_refuses_other_options(training_file, tmp_path):
    assert "exists" in call_twice(training_file)
    changes = ["--set", "reconstructor_options.num_epochs=3"]
    whole = tmp_path / "whole"
    call(training_file, "--output", whole, *changes)
    output = call(training_file, "--resume", *changes, "--set", "probe_options.step_size=1", code=2)
    assert "other scans.0" not in output
    assert "probe_options.step_size" in output
    resumed = tmp_path / "results" / "tiny"
    (resumed / "notes.txt").write_text("mine")
    assert "3 epochs" in call(training_file, "--resume", *changes)
    listed = json.loads((resumed / "provenance.json").read_text())["files"]
    assert listed == sorted(path.name for path in resumed.iterdir() if path.name != "notes.txt")
    for name in ("generator-best.safetensors", "generator-last.safetensors"):
        one, other = load_file(resumed / name), load_file(whole / name)
        assert all(one[key].equal(other[key]) for key in one)
    assert "nothing to resume" in call(training_file, "--resume", "--output", "none", code=2)


def call_twice(path):
    call(path)
    return call(path, code=2)


def test_control_c_keeps_what_was_done(training_file, tmp_path, monkeypatch):
    training = read_training_file(training_file)
    whole = train(training, tmp_path / "whole", show_progress=False)
    workflow_class = napi.MultiscanTrainingWorkflow
    step = workflow_class.step

    def interrupted_step(self):
        signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(workflow_class, "step", interrupted_step)
        stopped = train(training, tmp_path / "stopped", show_progress=False)
    assert stopped.stopped == "interrupted"
    assert stopped.workflow.epoch == 0
    assert (tmp_path / "stopped" / "generator-last.safetensors").is_file()
    resumed = train(training, tmp_path / "stopped", resume=True, show_progress=False)
    pd.testing.assert_frame_equal(
        resumed.workflow.table.drop(columns="seconds").astype(float),
        whole.workflow.table.drop(columns="seconds").astype(float),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('fresh = "object"', "frash = true", "scans.frash: unknown key; did you mean fresh?"),
        ("n_y = 6", "n_y = -6", "scans[1].simulation.scan"),
        ('"diffraction.h5"', '"none.h5"', "scans[0].data.diffraction: no file"),
        ("num_epochs = 2", "num_epochs = -2", "reconstructor_options.num_epochs"),
        ('product = "product.h5"', 'product = "product.h5", reference = "x"', "data.reference"),
        ('fresh = "object"', 'fresh = "dose"', "scans.fresh: Input should be 'object'"),
        ("probe_options = { optim", 'fresh = "noise" #', "scans[0].fresh: needs a simulation"),
        ("[validation]", "[probe]", "validation: required"),
        ("scans_in_memory = 1", "scans_in_memory = 0", "training.scans_in_memory"),
        ("[training]", "[trainings]", "trainings"),
    ],
)
def test_what_is_wrong_with_a_training_file_is_named(training_file, old, new, message):
    training_file.write_text(FILE.replace(old, new))
    with pytest.raises(RunFileError) as caught:
        read_training_file(training_file)
    assert message in str(caught.value)


def test_simulated_scans_share_what_the_file_says_of_all(training_file):
    changes = parse_changes(["simulation.photons_per_frame=77", "simulation.seed=5"])
    training = read_training_file(training_file, changes=changes)
    assert training.scans[0].run.simulation is None
    for scan, seed in ((training.scans[1], 1), (training.validation, 9)):
        assert scan.run.simulation.photons_per_frame == 77
        assert scan.run.simulation.seed == seed  # its own


def test_the_training_files_that_come_with_the_package_are_valid(tmp_path):
    (tmp_path / "probes_and_objects.h5").touch()  # The measured probe may be absent.
    files = sorted((Path(__file__).resolve().parents[2] / "configs" / "training").glob("*.toml"))
    assert files
    for path in files:
        folder = tmp_path if "--data FOLDER" in path.read_text() else None
        assert len(read_training_file(path, data_folder=folder).scans) > 1


class Killed(BaseException):
    """Ends a training where nothing of it can react."""


def test_an_earlier_training_stays_until_the_new_one_is_complete(
    training_file, tmp_path, monkeypatch
):
    folder = tmp_path / "results" / "tiny"
    seed = ("--set", "reconstructor_options.random_seed=5")
    call(training_file)
    call(training_file, "--output", tmp_path / "whole", *seed)
    earlier = (folder / "generator-best.safetensors").read_bytes()
    (folder / "note.txt").touch()
    workflow_class = napi.MultiscanTrainingWorkflow
    save_state = workflow_class.save_state

    def save_and_die(self, path):
        save_state(self, path)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workflow_class, "save_state", save_and_die)
        patch.setattr("ptychi_neural.console.described", lambda error: ("killed", 9))
        call(training_file, "--overwrite", *seed, code=9)
    assert (folder / "generator-best.safetensors").read_bytes() == earlier

    save_between = train_module._save_between

    def save_and_stop(*arguments):
        fails = save_between(*arguments)
        signal.raise_signal(signal.SIGTERM)
        return fails

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_save_between", save_and_stop)
        longer = ("--set", "reconstructor_options.num_epochs=3")
        output = call(training_file, "--resume", *seed, *longer, code=130)
    assert "keeps the earlier training until this one is complete" in output
    assert (folder / "generator-best.safetensors").read_bytes() == earlier

    call(training_file, "--resume", *seed)
    new, whole = (load_file(f / "generator-last.safetensors") for f in (folder, tmp_path / "whole"))
    assert all(new[name].equal(whole[name]) for name in whole)
    assert (folder / "note.txt").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_two_trainings_do_not_write_to_the_same_folder(training_file, tmp_path):
    with results_folder(tmp_path / "results" / "tiny", in_place=True):
        for options in ([], ["--overwrite"], ["--resume"]):
            assert "another run writes to it" in call(training_file, *options, code=2)


def test_a_foreign_state_is_refused(training_file, tmp_path):
    call(training_file)
    folder = tmp_path / "results" / "tiny"
    generator = (folder / "generator-best.safetensors").read_bytes()
    longer = ("--set", "reconstructor_options.num_epochs=3")
    for content in (generator, b"", b"\x08" + bytes(7) + b'{"a":{}}', b"[" * 10000):
        (folder / "state.safetensors").write_bytes(content)
        assert "state.safetensors" in call(training_file, "--resume", *longer, code=2)
    write_state(folder / "state.safetensors", STATE_KIND, {"epoch": 1})
    assert "state of something else" in call(training_file, "--resume", *longer, code=2)


def test_scans_of_every_format_train_together(tmp_path):
    scan = simulate(recipe(0)).scan
    positions_px = scan.positions_px - scan.positions_px.mean(axis=0)
    scan = dataclasses.replace(
        scan,
        positions_px=positions_px,
        probe=mean_pattern_probe(scan.patterns),
        pixel_size_m=1e-8,
        wavelength_m=WAVELENGTH_M,
        detector_distance_m=DISTANCE_M,
    )
    sections = []
    for kind in KINDS:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        arguments = kind(folder, scan)
        files = [folder / name for name in arguments if not name.startswith("--")]
        keys = [name.removeprefix("--set=") for name in arguments if name.startswith("--")]
        run = run_of(files[0], files[1] if len(files) > 1 else None, keys)
        sections.append({"data": run.filled_in()["data"]})
    contents = tomllib.loads(FILE) | {"scans": sections, "validation": sections[0]}
    contents["reconstructor_options"]["num_epochs"] = 1
    path = tmp_path / "all.toml"
    path.write_text(tomli_w.dumps(contents))
    result = train(read_training_file(path), tmp_path / "out", show_progress=False)
    assert np.isfinite(result.workflow.table.score).all()
    _, _, metadata = load_generator(tmp_path / "out" / "generator-last.safetensors")
    described = metadata["scans"]
    assert len(described) == len(KINDS)
    for of_scan in described:
        assert of_scan["pixel_size_m"] == pytest.approx(1e-8)
        assert of_scan["probe_sha256"] == described[0]["probe_sha256"]
