"""Fixtures that more than one test file needs."""

import os
import signal
import time
from pathlib import Path

# Tests run side by side, and with more threads small arrays take several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from ptychi_neural.simulation import Raster, SimulationOptions, simulate

SLOW_TESTS_UNTIL = float(os.environ.get("PTYCHI_NEURAL_SLOW_TESTS_UNTIL", "inf"))
"""Time, in seconds since 1970, from which no slow test is begun any more."""

DATA = os.environ.pop("PTYCHI_NEURAL_DATA", "../shared/data")
"""The user's folder of measured data, in which commands of the tests would look for theirs."""


def pytest_runtest_setup(item):
    """A machine that is busy with other things leaves out what it has no time for, and says so."""
    if item.get_closest_marker("slow") and time.time() > SLOW_TESTS_UNTIL:
        pytest.skip("no time is left for slow tests")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real scans, kept beside the repository; tests that need them skip where they are absent."""
    repository = Path(__file__).resolve().parents[1]
    folder = repository / DATA
    if not folder.is_dir():
        pytest.skip(f"no measured data in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _signals_as_on_a_terminal():
    """Whoever starts the tests in the background has them ignore signals that they raise."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _restore_torch_defaults():
    """Tasks in double precision change torch's default for all that follows."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def simulated():
    """64 frames of 16x16 with plenty of light."""
    scan = Raster(n_y=8, n_x=8, step_px=2.0, jitter_px=0.5)
    return simulate(SimulationOptions(seed=3, frame_shape=(16, 16), scan=scan))


@pytest.fixture(scope="session")
def dim():
    """100 frames of 32x32 with 1000 photons each."""
    scan = Raster(n_y=10, n_x=10)
    return simulate(SimulationOptions(seed=21, photons_per_frame=1e3, scan=scan))
