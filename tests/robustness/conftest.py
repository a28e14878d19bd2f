"""Small scans for tests of robustness."""

import pytest

from hostile_scans import Simulated
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


@pytest.fixture(scope="session")
def scans():
    """Simulated scans by their photons."""
    made = {}

    def make(photons=1e5):
        return made.setdefault(photons, Simulated(photons))

    return make


@pytest.fixture(scope="session")
def six_by_six():
    """36 frames of 16 x 16."""
    scan = Raster(n_y=6, n_x=6, step_px=2.5)
    return simulate(SimulationOptions(frame_shape=(16, 16), scan=scan))
