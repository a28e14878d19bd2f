"""The command line, from arguments to files."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomli_w
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.lsqml import LSQMLReconstructor
from typer.testing import CliRunner

from ptychi_neural.cli import _plain_errors, app
from ptychi_neural.runs import build_task
from ptychi_neural.runs.attend import run_attended
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.scans import read_product, write_scan

COMMAND = shutil.which("ptychi-neural", path=Path(sys.executable).parent)

RUN = """
engine = "lsqml"

[simulation]
frame_shape = [16, 16]

[simulation.scan]
kind = "raster"
n_y = 6
n_x = 5
step_px = 2.5

[reconstructor_options]
num_epochs = 2
batch_size = 12
default_device = "cpu"
"""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A tiny run; the current directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN)
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def the_object(folder):
    return read_product(folder / "product.h5").object


def test_help_answers_within_a_second():
    def seconds() -> float:
        """CPU seconds of the command alone, however busy the machine is."""
        with subprocess.Popen([COMMAND, "--help"], stdout=subprocess.PIPE, text=True) as process:
            assert "reconstruct" in process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_a_run_writes_one_complete_folder(run_file, tmp_path):
    output = call("reconstruct", run_file).output
    folder = tmp_path / "results" / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "figure.png",
        "loss.png",
        "losses.csv",
        "metrics.json",
        "product.h5",
        "provenance.json",
        "run.toml",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    with h5py.File(folder / "product.h5") as product:
        assert product["object"].dtype.kind == "c"
        assert product["probe"].shape == (1, 1, 16, 16)
        assert product["probe_position_x_m"].shape == (30,)
        assert list(product["loss_epochs"]) == [0, 1]
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["epochs"] == 2
    assert provenance["stopped"] is None
    assert {"python", "torch", "ptychi", "neuraloperator"} < set(provenance["versions"])
    assert (
        provenance["seed"]
        == read_run_file(folder / "run.toml").options.reconstructor_options.random_seed
    )
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 < metrics["complex_error"] < 1
    assert f"complex_error: {metrics['complex_error']:.4f}" in output
    assert re.search(r"2 epochs in \d", output)


def test_one_epoch_is_told_in_the_singular(run_file, tmp_path):
    output = call("reconstruct", run_file, "--set=reconstructor_options.num_epochs=1").output
    assert re.search(r"tiny: 1 epoch in \d", output)
    product = read_product(tmp_path / "results" / "tiny" / "product.h5")
    assert product.comments.endswith("Reconstructed: lsqml, 1 epoch.")


def test_the_filled_in_run_file_gives_the_same_object_again(run_file, tmp_path):
    changes = ("--set", "reconstructor_options.batching_mode=random")
    call("reconstruct", run_file, "--output", tmp_path / "first", *changes)
    call("reconstruct", tmp_path / "first" / "run.toml", "--output", tmp_path / "second")
    np.testing.assert_array_equal(the_object(tmp_path / "first"), the_object(tmp_path / "second"))


def test_an_earlier_result_is_replaced_only_when_asked(run_file, tmp_path):
    folder = tmp_path / "results" / "tiny"
    call("reconstruct", run_file)
    (folder / "note.txt").touch()
    before = (folder / "product.h5").read_bytes()

    refusal = call("reconstruct", run_file, code=2).output
    assert "--overwrite" in refusal
    assert "epoch" not in refusal  # before the run, not after it
    assert (folder / "product.h5").read_bytes() == before

    call("reconstruct", run_file, "--overwrite", "--set", "reconstructor_options.num_epochs=1")
    assert (folder / "note.txt").exists()  # It is the user's.
    assert json.loads((folder / "provenance.json").read_text())["epochs"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_folder_that_is_no_result_is_never_replaced(run_file, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    output = call("reconstruct", run_file, "--output", "thesis", "--overwrite", code=2).output
    assert "no results folder" in output
    assert (tmp_path / "thesis" / "thesis.tex").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ZeroDivisionError("no range")])
def test_a_figure_that_cannot_be_drawn_does_not_end_the_run(run_file, tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("ptychi_neural.evaluation.loss_figure", fail)
    output = call("reconstruct", run_file, code=1 if isinstance(error, OSError) else 0).output
    assert "loss.png could not be written" in output
    folder = tmp_path / "results" / "tiny"
    assert np.isfinite(the_object(folder)).all()
    assert (folder / "figure.png").exists()


def test_what_was_saved_before_a_failure_is_kept_and_named(run_file, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise SystemError("something unforeseen")

    monkeypatch.setattr("ptychi_neural.runs.folders._list_files", fail)
    output = call("reconstruct", run_file, code=1).output
    (kept,) = (tmp_path / "results").iterdir()
    assert f"What was saved by then is in {kept}" in output
    assert "Traceback" not in output
    assert np.isfinite(the_object(kept)).all()


def test_wrong_input_is_told_without_a_traceback(run_file, tmp_path):
    run_file.write_text(RUN + "num_epoch = 3\n")
    output = call("reconstruct", run_file, code=2).output
    assert "reconstructor_options.num_epoch: unknown key; did you mean num_epochs?" in output
    assert "Traceback" not in output
    assert "missing.toml" in call("reconstruct", "missing.toml", code=2).output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("refined", ["false", "true"])
def test_a_diverged_run_ends_with_the_epoch_and_the_likely_cause(run_file, tmp_path, refined):
    changes = [f"--set=probe_position_options.optimizable={refined}"]  # They leave the object.
    changes += ["--set=engine=rpie", "--set=object_options.step_size=1e30"]
    output = call("reconstruct", run_file, *changes, code=1).output
    assert "epoch 0" in output
    assert "step size" in output
    assert not (tmp_path / "results" / "tiny").exists()


def test_simulated_files_are_reconstructed_and_compared_with_a_reference(run_file, tmp_path):
    call("simulate", run_file, "--output", tmp_path / "data" / "scan")
    measured = tmp_path / "measured.toml"
    measured.write_text(
        '[data]\ndiffraction = "scan/diffraction.h5"\nproduct = "scan/product.h5"\n'
        'reference = "scan/truth.h5"\nn_probe_modes = 2\n'
        + RUN[: RUN.index("[simulation]")].replace('engine = "lsqml"', "")
        + RUN[RUN.index("[reconstructor_options]") :]
    )
    changes = ("--set", "engine=lsqml", "--set", "object_options.pixel_size_m=3e-8")
    call("reconstruct", measured, "--data", tmp_path / "data", *changes)
    result = tmp_path / "results" / "measured"
    assert read_product(result / "product.h5").probe.shape == (1, 2, 16, 16)
    assert json.loads((result / "metrics.json").read_text())["phase_correlation"] > 0
    options = read_run_file(result / "run.toml").options
    assert options.data_options.wavelength_m == pytest.approx(1.24e-10)  # the scan's
    assert options.object_options.pixel_size_m == 3e-8  # the run file's


def test_simulate_takes_options_without_a_file_and_overwrites_only_when_asked(run_file, tmp_path):
    options = ("--set", "simulation.name=mine", "--set", "simulation.frame_shape=[8, 8]")
    call("simulate", *options)
    with h5py.File(tmp_path / "simulated" / "mine" / "diffraction.h5") as file:
        assert file["dp"].shape == (400, 8, 8)
    assert "--overwrite" in call("simulate", *options, code=2).output
    call("simulate", *options, "--overwrite")


def test_the_neural_engine_saves_its_generator_and_starts_from_it(run_file, tmp_path):
    small = ("--set", "engine=neural", "--set", "reconstructor_options.generator.width=4")
    call("reconstruct", run_file, "--output", "first", *small)
    assert (tmp_path / "first" / "generator.safetensors").stat().st_size > 0
    checkpoint = "reconstructor_options.generator.checkpoint"
    start = ("--set", f"{checkpoint}=first/generator.safetensors")
    call("reconstruct", run_file, "--output", "second", *small, *start)
    run = read_run_file(tmp_path / "second" / "run.toml")
    assert run.options.reconstructor_options.generator.checkpoint == str(
        tmp_path / "first" / "generator.safetensors"
    )
    missing = call("reconstruct", run_file, *small, "--set", f"{checkpoint}=x", code=2).output
    assert f"{checkpoint}: no file {tmp_path / 'x'}" in missing


def test_inspect_tells_shapes_dose_and_overlap(run_file, tmp_path):
    call("simulate", run_file, "--output", "scan", "--set", "simulation.photons_per_frame=1000")
    told = dict(re.findall(r"(.+?): +(.*)", call("inspect", "scan").output))
    assert told["patterns"].startswith("(30, 16, 16)")
    assert 950 < float(told["counts per frame"].split()[0]) < 1050
    assert told["positions"].startswith("30 ")
    assert 0 < int(told["overlap"].rstrip("%")) < 100
    assert "patterns" in call("inspect", "scan/diffraction.h5").output
    assert "overlap" in call("inspect", "scan/truth.h5").output
    call("reconstruct", run_file)
    assert "complex_error" in call("inspect", "results/tiny").output
    assert "nothing.h5" in call("inspect", "nothing.h5", code=2).output


def test_init_writes_a_run_file_once(run_file, tmp_path):
    call("init", "new.toml")
    assert "[reconstructor_options]" in (tmp_path / "new.toml").read_text()
    assert "new.toml" in call("init", "new.toml", code=2).output
    assert call("init", "other.toml", "--quiet", "--log", "log.txt").output == ""
    assert "other.toml: " in (tmp_path / "log.txt").read_text()


@pytest.fixture
def task(run_file) -> PtychographyTask:
    from ptychi_neural.simulation import simulate

    run = read_run_file(run_file)
    return build_task(run.options, simulate(run.simulation).scan)


def press_ctrl_c_in_batch(task, number, times=1):
    """Let Ctrl-C be pressed in the middle of a batch; returns the list of finished batches."""
    finished = []
    run_minibatch = task.reconstructor.run_minibatch

    def pressed(*args, **kwargs):
        if len(finished) == number:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        run_minibatch(*args, **kwargs)
        finished.append(number)

    task.reconstructor.run_minibatch = pressed
    return finished


def test_ctrl_c_finishes_the_batch(task):
    handler = signal.getsignal(signal.SIGINT)
    finished = press_ctrl_c_in_batch(task, 4)  # three batches an epoch
    assert run_attended(task, show_progress=False) is True
    assert len(finished) == 5
    assert len(task.reconstructor.loss_tracker.table) == 1
    assert signal.getsignal(signal.SIGINT) is handler
    assert "run_post_update_hooks" not in vars(task.reconstructor)


def test_ctrl_c_in_the_first_epoch_saves_a_result_without_losses(run_file, tmp_path, monkeypatch):
    run_minibatch = LSQMLReconstructor.run_minibatch

    def pressed(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)
        run_minibatch(*args, **kwargs)

    monkeypatch.setattr(LSQMLReconstructor, "run_minibatch", pressed)
    output = call("reconstruct", run_file, code=130).output
    assert "0 epochs" in output
    assert (tmp_path / "results" / "tiny" / "figure.png").exists()
    assert np.isfinite(the_object(tmp_path / "results" / "tiny")).all()


def test_the_second_ctrl_c_stops_at_once(task):
    finished = press_ctrl_c_in_batch(task, 1, times=2)
    with pytest.raises(KeyboardInterrupt):
        run_attended(task, show_progress=False)
    assert len(finished) == 1


def test_a_run_that_is_not_interrupted_does_all_epochs(task):
    assert run_attended(task, show_progress=False) is False
    assert len(task.reconstructor.loss_tracker.table) == 2


def test_ctrl_c_saves_a_result_and_exits_with_130(run_file, tmp_path):
    changes = ["--set", "reconstructor_options.num_epochs=1000000"]
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        process = subprocess.Popen([COMMAND, "reconstruct", run_file, *changes], stderr=stream)
    try:
        while "loss" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    finally:
        process.kill()
    folder = tmp_path / "results" / "tiny"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["stopped"] == "interrupted"
    losses = (folder / "losses.csv").read_text().splitlines()[1:]
    assert len(losses) == provenance["epochs"] > 0
    assert np.isfinite(the_object(folder)).all()


def test_neuraloperator_leaves_the_filters_of_warnings_as_they_are():
    code = (
        "import warnings, ptychi_neural.generators\n"
        "print(any(action == 'once' and kind is UserWarning "
        "for action, _, kind, _, _ in warnings.filters))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("logger", ["ptychi.api.task", "ptychi.forward_models"])
def test_what_every_task_of_a_training_says_is_told_once(caplog, logger):
    for _ in range(2):
        with _plain_errors():
            for message in ("no GPU", "no GPU", "many frames"):
                logging.getLogger(logger).warning(message)
    assert caplog.messages == 2 * ["no GPU", "many frames"]


def test_a_data_folder_that_takes_the_place_of_the_files_is_told_once(
    tmp_path, monkeypatch, simulated
):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "elsewhere"
    data.mkdir()
    write_scan(data / "scan.h5", simulated.scan)
    scan = '[data]\ndiffraction = "scan.h5"\n'
    (tmp_path / "run.toml").write_text(scan)
    one = {"data": {"diffraction": "scan.h5"}}
    training = {"scans": [one, one], "validation": one}
    (tmp_path / "train.toml").write_text(tomli_w.dumps(training))
    taken = f"data.folder is {data}"
    few = [
        "--set=reconstructor_options.num_epochs=0",
        "--set=reconstructor_options.start.n_iterations=1",
    ]
    output = call("reconstruct", "run.toml", "--data", data, *few).output
    assert output.count(f"{taken} (--data)") == 1
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(data))
    output = call("train", "train.toml", *few).output
    assert output.count(f"{taken} (PTYCHI_NEURAL_DATA)") == 1
    assert taken in call("inspect", "run.toml").output
    assert taken not in call("inspect", "run.toml", "--quiet").output
    assert taken not in call("inspect", data / "scan.h5").output  # names its folder itself
    shutil.copy(data / "scan.h5", tmp_path)
    (data / "scan.h5").unlink()
    assert taken not in call("inspect", "run.toml").output


def test_files_of_a_simulation_that_are_taken_from_the_data_folder_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "probe.npy", np.ones((16, 16), complex))
    (tmp_path / "data").mkdir()
    shutil.copy(tmp_path / "probe.npy", tmp_path / "data")
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(tmp_path / "data"))
    changes = ["kind='file'", "path='probe.npy'"]
    changes = [f"--set=simulation.probe.{change}" for change in changes]
    output = call("simulate", "--set=simulation.frame_shape=[16,16]", *changes).output
    assert f"simulation.probe.path is {tmp_path / 'data' / 'probe.npy'}" in output
