"""How many iterations there are, where held-out pixels tell."""

from unittest.mock import MagicMock

import numpy as np
import pytest

import ptychi_neural.api as napi
from ptychi_neural.engine.iterations import Iterations


def n_done(course, until=60, most=100):
    """Number of iterations where deviances take a course over the number of iterations."""

    class OfKnownDeviance(Iterations):
        deviance = excess = property(lambda self: course[self.n_done])  # of many counts

        def _stop_if_lost(self, before):
            """Nothing is lost here."""

    scan, projections = MagicMock(), MagicMock(converged=False)
    scan.options, scan.split = napi.NeuralReconstructorOptions(), 0
    projections.iterate.return_value = np.nan
    iterations = OfKnownDeviance(scan, projections, MagicMock(), MagicMock(), MagicMock())
    iterations.watched_from = 20
    iterations.begin("joint", until, most, with_probe=True)
    for _ in iterations.run():
        iterations.go_on_while_it_helps()
    assert iterations.n_done == iterations.until
    return iterations.n_done


FALLS = 50 * 0.99 ** np.arange(201)
STAYS = np.concatenate([FALLS[:30], np.full(171, FALLS[30])])


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        (FALLS, 100),  # above the noise, and ever closer
        (STAYS, 60),  # above it, and no closer
        (FALLS / 30, 60),  # at the noise, and closer
    ],
)
def test_iterations_go_on_where_they_come_closer_to_the_noise(course, expected):
    assert n_done(course) == expected
