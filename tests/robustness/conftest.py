"""Small scans for tests of robustness."""

import pytest

from hostile_scans import Simulated


@pytest.fixture(scope="session")
def scans():
    """Simulated scans by their photons."""
    made = {}

    def make(photons=1e5):
        return made.setdefault(photons, Simulated(photons))

    return make
