"""Commands that are killed at random moments, or that find the disk full."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.generators.files import load_generator
from ptychi_neural.scans import read_product
from small_runs import RUN

SCRIPT = Path(__file__).resolve().parents[1] / "killed_commands.py"


@pytest.mark.slow
def test_commands_that_are_killed_at_random_moments_lose_nothing(tmp_path):
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "killed", "5", "2"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    for name in ("reconstruct", "train", "infer"):
        assert f"{name}: 5 kills" in done.stdout


@pytest.fixture
def small_disk(tmp_path, request):
    """A disk of so many KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={request.param}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", disk]).returncode != 0:
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [60, 80, 120, 200], indirect=True)
@pytest.mark.parametrize("name", ["result", "."])
def test_on_a_full_disk_the_product_is_saved_first(tmp_path, small_disk, name):
    (tmp_path / "tiny.toml").write_text(RUN)
    folder = small_disk / name
    result = CliRunner().invoke(
        app, ["reconstruct", str(tmp_path / "tiny.toml"), "--output", str(folder)]
    )
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "figure.png could not be written" in result.output
    assert "Incomplete, without" in result.output
    assert read_product(folder / "product.h5").object.shape[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [4, 12, 32], indirect=True)
def test_a_simulation_that_finds_the_disk_full_leaves_whole_files_only(tmp_path, small_disk):
    (tmp_path / "tiny.toml").write_text(RUN)
    command = ["simulate", tmp_path / "tiny.toml", "--output", small_disk / "data"]
    done = subprocess.run(
        [sys.executable, "-m", "ptychi_neural", *command], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"\w+\.h5: no space left on device; make room", done.stderr)
    for path in (small_disk / "data").iterdir():
        with h5py.File(path) as file:
            assert all(file[name][()] is not None for name in file)


TRAINING = """
scans = [{ simulation = { seed = 1 } }]
validation = { simulation = { seed = 2 } }
simulation = { frame_shape = [16, 16], scan = { kind = "raster", n_y = 4, n_x = 4, step_px = 2.5 } }
[reconstructor_options]
num_epochs = 2
default_device = "cpu"
start = { n_iterations = 2 }
generator = { width = 4 }
"""


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [28], indirect=True)
def test_a_training_that_finds_the_disk_full_saves_its_generator_elsewhere(
    tmp_path, small_disk, monkeypatch
):
    (tmp_path / "train.toml").write_text(TRAINING)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = ["train", str(tmp_path / "train.toml"), "--output", str(small_disk / "result")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert result.output.count("the training could not be saved") == 1
    (best,) = tmp_path.glob("ptychi-neural-*/generator-best.safetensors")
    assert f"The best is {best}" in result.output
    load_generator(best)


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [28], indirect=True)
def test_a_comparison_that_finds_the_disk_full_keeps_its_tables(tmp_path, small_disk):
    (tmp_path / "tiny.toml").write_text(RUN)
    command = ["compare", str(tmp_path / "tiny.toml"), "--engines", "network-off"]
    result = CliRunner().invoke(app, [*command, "--output", str(small_disk / "result")])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "Incomplete, without objects.h5" in result.output
    left = {path.name for path in (small_disk / "result").iterdir()}
    assert {"comparison.md", "comparison.csv", "trace.csv", "provenance.json"} <= left
    assert "objects.h5" not in left


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", [16], indirect=True)
def test_a_disk_without_room_for_the_product_is_told_before_anything_is_computed(
    tmp_path, small_disk
):
    (tmp_path / "tiny.toml").write_text(RUN)
    result = CliRunner().invoke(
        app, ["reconstruct", str(tmp_path / "tiny.toml"), "--output", str(small_disk / "result")]
    )
    assert result.exit_code == 2
    assert "Make room" in result.output
    assert "projections" not in result.output
    assert [*small_disk.iterdir()] == []
