"""The command under torchrun: the first process writes and tells, and all end together."""

import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from ptychi_neural.runs import reconstruct
from ptychi_neural.runs.run_file import read_run_file

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


def command(run_file, *more):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*launcher, "-m", "ptychi_neural", "reconstruct", str(run_file), *more]


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
    ended = subprocess.run(
        command(run_file, "--output", str(tmp_path / "two")),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.count("4 epochs in") == 1
    alone = reconstruct(read_run_file(tmp_path / "two" / "run.toml"), tmp_path / "one")
    for name in ("object", "object_std"):
        found, expected = array_in(tmp_path / "two", name), array_in(alone.folder, name)
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


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
        arguments = ["--output", str(tmp_path / "two"), "--progress", "json"]
        process = subprocess.Popen(
            command(run_file, *arguments),
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
def test_what_is_refused_is_told_first_and_once(run_file):
    """Although the other process refuses it too, here before the first has told it."""
    late = "import os, time; time.sleep(6 * (os.environ['RANK'] == '0'))"
    program = run_file.with_name("late.py")
    program.write_text(f"{late}\nfrom ptychi_neural.cli import main\nmain()\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*launcher, str(program), "reconstruct", str(run_file), "--resume"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert ended.stderr.startswith("error: --resume: needs one process")
    assert ended.stderr.count("needs one process") == 1
