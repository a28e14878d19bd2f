"""A tiny run file and its scan, and a tiny benchmark suite."""

import pytest

from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.simulation import simulate

RUN = """
engine = "neural"

[simulation]
frame_shape = [16, 16]
photons_per_frame = 1e4

[simulation.scan]
kind = "raster"
n_y = 6
n_x = 5
step_px = 2.5

[reconstructor_options]
num_epochs = 2
batch_size = 12
random_seed = 3
default_device = "cpu"

[reconstructor_options.start]
n_iterations = 4

[reconstructor_options.generator]
width = 4

[probe_options]
optimizable = false
"""


TINY = """
name = "tiny"
description = "Two doses."
baselines = ["lsqml"]
max_seconds = 20
equal_seconds = 0.05
n_snapshots = 4
objects = ["dead_leaves"]
seeds = [0, 1]

[base.simulation]
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 6, n_x = 6 }

[base.reconstructor_options]
default_device = "cpu"

[base.probe_options]
optimizable = false

[axes]
dose = [
    { label = "1e3", bar = 1e-6, changes = { "simulation.photons_per_frame" = 1e3 } },
    { label = "1e5", bar = 1, engine = "lsqml", changes = { simulation.photons_per_frame = 1e5 } },
]
overlap = [{ label = "75", changes = { "simulation.scan.step_px" = 2.5 } }]

[engines]
network-off = { changes = { "reconstructor_options.start.n_iterations" = 4 } }

[engines.lsqml]
judged_at = "best_truth"
held_out_fraction = 0
changes = { "reconstructor_options.num_epochs" = 4 }

[figures]
map = ["dose", "overlap"]
curves = "dose"

[reduced]
seeds = [1]
"""


@pytest.fixture(scope="session")
def tiny_suite():
    """Contents of a suite of eight cells, four in its reduced form."""
    return TINY


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """A tiny run; the current directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN)
    return path


@pytest.fixture
def run(run_file):
    return read_run_file(run_file)


@pytest.fixture
def simulated(run):
    return simulate(run.simulation)
