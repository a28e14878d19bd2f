"""Reconstructions that are killed or interrupted, and go on as if they had never ended."""

import importlib
import json
import signal
import tempfile

import h5py
import numpy as np
import pytest
import torch
from ptychi.reconstructors.lsqml import LSQMLReconstructor
from typer.testing import CliRunner

from ptychi_neural import evaluation
from ptychi_neural.cli import app
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.state_files import read_state, write_state
from ptychi_neural.runs import checkpoints, result
from ptychi_neural.runs.checkpoints import CHECKPOINT, Checkpoints
from ptychi_neural.scans import read_product
from small_runs import RUN

REFINED = RUN + '[refine]\nengine = "lsqml"\nreconstructor_options = { num_epochs = 3 }\n'
RECONSTRUCT = importlib.import_module("ptychi_neural.runs.reconstruct")
CHECKPOINT_EPOCHS = [*12 * [0], 0, 1, 2, 3, 4, 5, *8 * [5]]
"""Number of epochs before each checkpoint: four follow the iterations of the initial reconstruction
of everything, four those without each of two splits, and as many those that were put off."""

SEED = ("--set", "reconstructor_options.random_seed=7")


class Killed(BaseException):
    """Ends a run where nothing of it can react."""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for figure in ("loss_figure", "reconstruction_figure"):  # They take most of the time.
        monkeypatch.setattr(evaluation, figure, lambda *args, **kwargs: None)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN)
    return path


def call(*arguments, code=0):
    done = CliRunner().invoke(app, ["reconstruct", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def killed_after(monkeypatch, run_file, n_checkpoints, *arguments):
    """Run until a checkpoint has been written, and end as a killed process does."""
    save, written = Checkpoints.save, []

    def save_and_die(self, reconstructor):
        save(self, reconstructor)
        written.append(reconstructor.current_epoch)
        if len(written) == n_checkpoints:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        patch.setattr("ptychi_neural.console.described", lambda error: ("killed", 9))
        call(run_file, *arguments, code=9)


def contents(folder):
    """All that a reconstruction has come to."""
    with h5py.File(folder / "product.h5") as file:
        arrays = {name: data[()] for name, data in file.items() if isinstance(data, h5py.Dataset)}
    text = {name: (folder / name).read_text() for name in ("losses.csv", "validation.csv")}
    return arrays, text


def assert_same(one, other):
    assert set(one[0]) == set(other[0])
    assert "object" in one[0]
    for name, array in one[0].items():
        np.testing.assert_array_equal(array, other[0][name], err_msg=name)
    assert one[1] == other[1]


@pytest.mark.parametrize(
    ("contents_of_file", "n_checkpoints", "after_what"),
    [
        pytest.param(RUN, 1, "iteration 1 of an initial reconstruction", marks=pytest.mark.slow),
        (RUN, 7, "iteration 3 of an initial reconstruction"),  # One of the first.
        (RUN, 20, "iteration 2 of an initial reconstruction"),  # One of those that were put off.
        (REFINED, 27, "epoch 6"),
    ],
)
def test_a_killed_run_that_is_resumed_equals_one_that_was_never_killed(
    run_file, tmp_path, monkeypatch, contents_of_file, n_checkpoints, after_what
):
    run_file.write_text(contents_of_file)
    call(run_file, "--output", "whole", *SEED)
    killed_after(monkeypatch, run_file, n_checkpoints, "--output", "killed", *SEED)
    assert not (tmp_path / "killed").exists()
    output = call(run_file, "--output", "killed", "--resume")  # It knows the seed.
    assert f"Going on after {after_what}." in output
    assert_same(contents(tmp_path / "killed"), contents(tmp_path / "whole"))
    assert not (tmp_path / "killed" / CHECKPOINT).exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_run_that_is_killed_while_it_saves_goes_on_from_its_checkpoint(
    run_file, tmp_path, monkeypatch
):
    def die(*args, **kwargs):
        raise Killed

    call(run_file, "--output", "whole", *SEED)
    with monkeypatch.context() as patch:
        patch.setattr(RECONSTRUCT, "draw", die)
        patch.setattr("ptychi_neural.console.described", lambda error: ("killed", 9))
        call(run_file, "--output", "killed", *SEED, code=9)
    (left,) = tmp_path.glob(".killed.*.partial")
    assert (left / "product.h5").is_file()
    assert "Going on after iteration 4" in call(run_file, "--output", "killed", "--resume")
    assert_same(contents(tmp_path / "killed"), contents(tmp_path / "whole"))
    assert not (tmp_path / "killed" / CHECKPOINT).exists()


@pytest.mark.parametrize("minibatch", [0, 1])
def test_ctrl_c_in_a_batch_leaves_a_checkpoint_of_the_epoch(
    run_file, tmp_path, monkeypatch, minibatch
):
    rarely = ("--set", "output.checkpoint_minutes=1000")
    call(run_file, "--output", "whole", *SEED, *rarely)
    of_batch = NeuralReconstructor.run_post_differentiation_hooks

    def press(self, *args):
        if (self.current_epoch, self.current_minibatch) == (3, minibatch):
            signal.raise_signal(signal.SIGINT)
        of_batch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(NeuralReconstructor, "run_post_differentiation_hooks", press)
        call(run_file, "--output", "stopped", *SEED, *rarely, code=130)
    assert "Going on after epoch 4" in call(run_file, "--output", "stopped", *rarely, "--resume")
    assert_same(contents(tmp_path / "stopped"), contents(tmp_path / "whole"))


@pytest.mark.parametrize("contents_of_file", [RUN, REFINED])
def test_an_interrupted_run_saves_what_it_has_and_goes_on(
    run_file, tmp_path, monkeypatch, contents_of_file
):
    run_file.write_text(contents_of_file)
    call(run_file, "--output", "whole", *SEED)
    save = Checkpoints.save

    def save_and_stop(self, reconstructor):
        save(self, reconstructor)
        if reconstructor.current_epoch == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        call(run_file, "--output", "stopped", *SEED, code=130)
    stopped = tmp_path / "stopped"
    assert json.loads((stopped / "provenance.json").read_text())["stopped"] == "interrupted"
    assert (stopped / CHECKPOINT).is_file()
    call(run_file, "--output", "stopped", "--resume")
    assert_same(contents(stopped), contents(tmp_path / "whole"))
    assert not (stopped / CHECKPOINT).exists()
    assert "complete" in call(run_file, "--output", "stopped", "--resume", code=2)


def test_a_signal_while_the_result_is_saved_leaves_the_intervals_to_the_resumed_run(
    run_file, tmp_path, monkeypatch
):
    intervals, save = ("--set", "output.intervals=true"), RECONSTRUCT.save
    call(run_file, "--output", "whole", *SEED, *intervals)

    def save_and_stop(*args):
        save(*args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RECONSTRUCT, "save", save_and_stop)
        call(run_file, "--output", "stopped", *SEED, *intervals, code=130)
    stopped = tmp_path / "stopped"
    assert json.loads((stopped / "provenance.json").read_text())["stopped"] == "interrupted"
    left_out = set(contents(tmp_path / "whole")[0]) - set(contents(stopped)[0])
    assert {"amplitude_interval", "phase_interval"} <= left_out
    call(run_file, "--output", "stopped", "--resume", *intervals)
    assert_same(contents(stopped), contents(tmp_path / "whole"))


def test_what_a_killed_run_left_is_told_and_removed_when_asked(run_file, tmp_path, monkeypatch):
    killed_after(monkeypatch, run_file, 2)
    (left,) = (tmp_path / "results").glob(".tiny.*.partial")
    output = call(run_file)
    assert f"{left} was left by a killed run. --resume goes on from there" in output
    assert left.exists()
    assert "It is removed" in call(run_file, "--overwrite")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["tiny"]


def test_only_the_same_run_is_resumed(run_file, tmp_path, monkeypatch):
    assert "nothing to resume" in call(run_file, "--resume", code=2)
    killed_after(monkeypatch, run_file, 2)
    other = ("--resume", "--set", "reconstructor_options.generator.width=5")
    assert "generator.width" in call(run_file, *other, code=2)
    (left,) = (tmp_path / "results").glob(".tiny.*.partial")
    whole = (left / CHECKPOINT).read_bytes()
    for damaged in (whole[:-9], b"", b"GIF89a", whole[:8] + b"{" * 1000 + whole[1008:]):
        (left / CHECKPOINT).write_bytes(damaged)
        assert str(left / CHECKPOINT) in call(run_file, "--resume", code=2)
    call(run_file, "--output", "state", *SEED)  # A generator is no state.
    generator = tmp_path / "state" / "generator.safetensors"
    (left / CHECKPOINT).write_bytes(generator.read_bytes())
    assert "no training state" in call(run_file, "--resume", code=2)


def test_a_run_is_resumed_with_the_files_that_it_began_with(run_file, tmp_path, monkeypatch):
    call_of_others = [str(run_file), "--output", "data"]
    assert CliRunner().invoke(app, ["simulate", *call_of_others]).exit_code == 0
    section = '[data]\ndiffraction = "data/diffraction.h5"\nproduct = "data/product.h5"\n'
    run_file.write_text(section + RUN[RUN.index("[output]") :])
    killed_after(monkeypatch, run_file, 15)
    product = tmp_path / "data" / "product.h5"
    whole = product.read_bytes()
    with h5py.File(product, "r+") as file:
        file["probe_position_x_m"][...] = file["probe_position_x_m"][()][::-1]
    told = call(run_file, "--resume", code=2)
    assert "checkpoint.safetensors: the state is that of a scan with other positions" in told
    product.write_bytes(whole)
    (left,) = (tmp_path / "results").glob(".tiny.*.partial")
    good = (left / CHECKPOINT).read_bytes()
    state = read_state(left / CHECKPOINT, "reconstruction")
    state["scan"]["epoch"] = 600
    write_state(left / CHECKPOINT, "reconstruction", state)
    assert "it is in epoch 600 of 6. To begin anew" in call(run_file, "--resume", code=2)
    (left / CHECKPOINT).write_bytes(good)
    assert "Going on after epoch 2" in call(run_file, "--resume")


def test_what_is_damaged_is_named_and_kept_as_it_was(run_file, tmp_path, monkeypatch):
    save = Checkpoints.save

    def save_and_stop(self, reconstructor):
        save(self, reconstructor)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_stop)
        call(run_file, "--output", "stopped", *SEED, code=130)
    for name, damaged in (
        (CHECKPOINT, b""),
        (CHECKPOINT, (tmp_path / "stopped" / CHECKPOINT).read_bytes()[:-100]),
        (CHECKPOINT, (tmp_path / "stopped" / "generator.safetensors").read_bytes()),
        ("provenance.json", b"[1]"),
        ("provenance.json", b"\xff"),
        ("run.toml", b"reconstructor_options = 4"),
    ):
        path = tmp_path / "stopped" / name
        whole = path.read_bytes()
        path.write_bytes(damaged)
        told = call(run_file, "--output", "stopped", "--resume", code=2)
        assert f"stopped/{name}" in told
        assert "saved by then" not in told
        path.write_bytes(whole)
    call(run_file, "--output", "stopped", "--resume")


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(run_file, tmp_path, monkeypatch):
    def full(path, reconstructor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_training_state", full)
    output = call(run_file)
    assert output.count("no checkpoint could be written") == 1
    assert (tmp_path / "results" / "tiny" / "product.h5").is_file()


def test_checkpoints_are_written_as_often_as_the_file_says(run_file, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, task: saved.append(task.current_epoch))
    call(run_file, "--set", "output.checkpoint_minutes=60")
    assert saved == []
    call(run_file, "--overwrite")
    assert saved == CHECKPOINT_EPOCHS


def test_where_the_product_cannot_be_written_it_is_saved_elsewhere(run_file, tmp_path, monkeypatch):
    write = result.write_product

    def full(path, *args, **kwargs):
        if tmp_path / "results" in path.parents:
            raise OSError(28, "No space left on device")
        return write(path, *args, **kwargs)

    monkeypatch.setattr(result, "write_product", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    output = call(run_file, code=1)
    (product,) = tmp_path.glob("ptychi-neural-*/product.h5")
    assert f"It is {product}" in output
    assert np.isfinite(read_product(product).object).all()


def test_a_run_that_ends_with_nan_is_no_result(run_file, tmp_path, monkeypatch):
    """LSQML's loss can be finite while the probe is not."""
    run = LSQMLReconstructor.run

    def spoiled(self, *args, **kwargs):
        run(self, *args, **kwargs)
        with torch.no_grad():
            self.parameter_group.probe.set_data(self.parameter_group.probe.data * np.nan)

    monkeypatch.setattr(LSQMLReconstructor, "run", spoiled)
    run_file.write_text(RUN[: RUN.index("[reconstructor_options.start]")])
    output = call(run_file, "--set", "engine=lsqml", code=1)
    assert "The probe became NaN" in output
    assert not (tmp_path / "results" / "tiny").exists()
