"""The command under torchrun: the first process writes and tells, and all end together."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pandas as pd
import pytest

from ptychi_neural.comparison import compare
from ptychi_neural.runs import infer, reconstruct, train
from ptychi_neural.runs.run_file import parse_changes, read_run_file
from ptychi_neural.runs.training_file import read_training_file

RUN = """
[simulation]
frame_shape = [16, 16]
photons_per_frame = 1e4
scan = { kind = "raster", n_y = 6, n_x = 7, step_px = 2.5 }

[reconstructor_options]
num_epochs = 4
default_device = "cpu"
start = { n_iterations = 10 }
"""


def command(name, *arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*launcher, "-m", "ptychi_neural", name, *map(str, arguments)]


def call(name, *arguments, code=0):
    """What a command in two processes tells on stdout, or on stderr where it fails."""
    ended = subprocess.run(
        command(name, *arguments), env=environment(), capture_output=True, text=True, check=False
    )
    assert (ended.returncode == 0) == (code == 0), ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def assert_same_arrays(one, other, *names, tolerance=1e-4):
    for name in names:
        found, expected = array_in(one, name), array_in(other, name)
        assert (np.isfinite(found) == np.isfinite(expected)).all()
        apart = np.nan_to_num(found - expected)
        assert np.linalg.norm(apart) < tolerance * np.linalg.norm(np.nan_to_num(expected)), name


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_LOG_LEVEL": "ERROR"}


def array_in(folder, name="object"):
    with h5py.File(folder / "product.h5") as file:
        return file[name][()]


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "scan.toml"
    path.write_text(RUN)
    return path


@pytest.mark.slow
def test_the_command_writes_once_what_one_process_writes(run_file, tmp_path):
    told = call("reconstruct", run_file, "--output", tmp_path / "two")
    assert told.count("4 epochs in") == 1
    alone = reconstruct(read_run_file(tmp_path / "two" / "run.toml"), tmp_path / "one")
    assert_same_arrays(tmp_path / "two", alone.folder, "object")
    assert_same_arrays(tmp_path / "two", alone.folder, "object_std", tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("long", "event"),
    [("n_iterations = 100000", '"iteration"'), ("n_iterations = 1", '"validation"')],
)
def test_a_signal_to_the_launcher_ends_all_and_keeps_the_result(run_file, tmp_path, long, event):
    run = RUN.replace("n_iterations = 10", long).replace("[16, 16]", "[48, 48]")
    run_file.write_text(run.replace("num_epochs = 4", "num_epochs = 10000"))
    events = tmp_path / "events"
    with events.open("w") as stdout:
        arguments = ["--output", tmp_path / "two", "--progress", "json"]
        process = subprocess.Popen(
            command("reconstruct", run_file, *arguments),
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        while event not in events.read_text():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate()
    assert complaints.count("Finishing the batch") == 1
    assert '"cancelled": true' in events.read_text()
    assert np.isfinite(array_in(tmp_path / "two")).all()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_it_had_never_ended(run_file, tmp_path):
    """To the end of one that one process has done at once."""
    # With this seed held-out pixels do not end the run before its last epoch.
    longer = RUN.replace("[16, 16]", "[32, 32]").replace(
        "epochs = 4", "epochs = 60\nrandom_seed = 0"
    )
    run_file.write_text(longer)
    events, folder = tmp_path / "events", tmp_path / "two"
    with events.open("w") as stdout:
        process = subprocess.Popen(
            command("reconstruct", run_file, "--output", folder, "--progress", "json"),
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        while '"event": "epoch"' not in events.read_text():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate()
    left = folder / "checkpoint.safetensors"
    assert left.is_file(), (events.read_text()[-400:], messages)
    assert "60 epochs in" in call("reconstruct", run_file, "--output", folder, "--resume")
    assert not left.is_file()
    alone = reconstruct(read_run_file(folder / "run.toml"), tmp_path / "one")
    assert_same_arrays(folder, alone.folder, "object")
    assert "is complete" in call("reconstruct", run_file, "--output", folder, "--resume", code=1)


@pytest.mark.slow
def test_intervals_are_those_of_one_process(run_file, tmp_path):
    run_file.write_text(RUN + "[output]\nintervals = true\n")
    call("reconstruct", run_file, "--output", tmp_path / "two")
    alone = reconstruct(read_run_file(tmp_path / "two" / "run.toml"), tmp_path / "one")
    names = ("amplitude_interval", "phase_interval", "object_std")
    assert_same_arrays(tmp_path / "two", alone.folder, *names, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lsqml", "neural"])
def test_another_engine_goes_on_alone_and_this_one_on_all(run_file, tmp_path, engine):
    run_file.write_text(
        RUN + f'[refine]\nengine = "{engine}"\nreconstructor_options = {{ num_epochs = 3 }}\n'
    )
    assert "7 epochs in" in call("reconstruct", run_file, "--output", tmp_path / "two")
    alone = reconstruct(read_run_file(tmp_path / "two" / "run.toml"), tmp_path / "one")
    assert_same_arrays(tmp_path / "two", alone.folder, "object", "probe", tolerance=1e-3)


@pytest.mark.slow
def test_engines_are_compared_with_their_objects_of_one_process(run_file, tmp_path):
    setting = "lsqml.reconstructor_options.num_epochs=3"
    told = call(
        *("compare", run_file, "--engines", "lsqml,neural", "--output", tmp_path / "two"),
        *("--set", setting),
    )
    assert told.index("| lsqml") < told.index("| neural")
    run = read_run_file(tmp_path / "two" / "run.toml")
    changes = parse_changes([setting])
    alone = compare(run, ["lsqml", "neural"], tmp_path / "one", changes=changes)
    for name in ("lsqml", "neural"):
        with h5py.File(tmp_path / "two" / "objects.h5") as file:
            found = file[name]["object"][()]
        (expected,) = (engine.best.object for engine in alone.runs if engine.engine == name)
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


TRAINING = """
[simulation]
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 6, n_x = 6, step_px = 2.5 }

[[scans]]
simulation = { seed = 1 }

[[scans]]
fresh = "noise"
simulation = { seed = 2 }

[validation]
simulation = { seed = 3 }

[reconstructor_options]
num_epochs = 2
default_device = "cpu"
start = { n_iterations = 5 }
generator = { width = 4 }

[probe_options]
optimizable = false
"""


@pytest.mark.slow
def test_a_generator_is_trained_further_and_predicts(run_file, tmp_path):
    training, folder = tmp_path / "train.toml", tmp_path / "two"
    training.write_text(TRAINING)
    assert "2 epochs" in call("train", training, "--output", folder)
    more = "reconstructor_options.num_epochs=4"
    assert "4 epochs" in call("train", training, "--resume", "--set", more, "--output", folder)
    whole = read_training_file(folder / "train.toml", changes=parse_changes([more]))
    alone = train(whole, tmp_path / "one")
    columns = ["epoch", "loss", "score"]
    found = pd.read_csv(folder / "training.csv")[columns].to_numpy()
    expected = alone.workflow.table[columns].to_numpy(float)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    generator = folder / "generator-last.safetensors"
    arguments = (generator, "--diffraction", run_file, "--output")
    assert call("infer", *arguments, tmp_path / "predicted").count("42 frames") == 1
    infer(generator, run_file, output_folder=tmp_path / "alone")
    names = ("object", "object_std", "reprojection_error")
    assert_same_arrays(tmp_path / "predicted", tmp_path / "alone", *names, tolerance=1e-3)


@pytest.mark.slow
def test_what_is_refused_is_told_first_and_once(run_file):
    """Although the other process refuses it too, here before the first has told it."""
    late = "import os, time; time.sleep(6 * (os.environ['RANK'] == '0'))"
    program = run_file.with_name("late.py")
    program.write_text(f"{late}\nfrom ptychi_neural.cli import main\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    run_file.write_text(f'engine = "lsqml"\n{RUN}'.replace("start = { n_iterations = 10 }", ""))
    ended = subprocess.run(
        [*launcher, str(program), "reconstruct", str(run_file)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert ended.stderr.startswith("error: engine = 'lsqml': needs one process, not 2")
    assert ended.stderr.count("needs one process") == 1


@pytest.mark.slow
def test_a_run_file_that_is_missing_is_named_once(tmp_path):
    told = call("reconstruct", tmp_path / "none.toml", code=1)
    assert told.startswith(f"error: {tmp_path / 'none.toml'}: there is no such file")
    assert told.count("no such file") == 1
