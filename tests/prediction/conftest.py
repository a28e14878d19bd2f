"""Two scans of 36 frames, and generators that were fitted to one of them."""

import pytest

from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from trained_generators import FRAME, saved


@pytest.fixture(scope="session")
def scan():
    """36 frames of 16x16 at whole pixels."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.0)
    return simulate(SimulationOptions(seed=3, frame_shape=FRAME, scan=raster)).scan


@pytest.fixture(scope="session")
def jittered():
    """36 frames of 16x16 at fractions of pixels."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.5)
    return simulate(SimulationOptions(seed=4, frame_shape=FRAME, scan=raster)).scan


@pytest.fixture(scope="session")
def one_shot(scan, tmp_path_factory):
    return saved(scan, tmp_path_factory.mktemp("g") / "one_shot.safetensors", lifter="log")


@pytest.fixture(scope="session")
def unrolled(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("g") / "unrolled.safetensors"
    return saved(scan, path, architecture="unrolled")
