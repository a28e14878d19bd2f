"""How many iterations there are, where held-out pixels tell."""

from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

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
    projections.object = torch.ones(1, 32, 32, dtype=torch.complex64)
    scan.model.dataset.patterns = torch.empty(0, 32, 32)
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


def n_done_of_objects(change, best_at=10, split=None, refined=True, until=120, **start):
    """Number of iterations where the coarse object changes by a share of its contrast in ten
    iterations, and held-out pixels are predicted best at one of them."""
    rows = torch.arange(64.0)[:, None].expand(64, 64) / 64
    first = torch.exp(1j * torch.sin(2 * torch.pi * rows))[None]
    other = torch.exp(1j * torch.cos(4 * torch.pi * rows.T))[None]

    class Watched(Iterations):
        def _stop_if_lost(self, before):
            """Nothing is lost here."""

    scan, judge, bar = MagicMock(), MagicMock(judges=True), MagicMock()
    scan.options, scan.split = napi.NeuralReconstructorOptions(), 0
    for name, value in start.items():
        setattr(scan.options.start, name, value)
    scan.model.refines_probe_or_positions = refined
    scan.model.dataset.patterns = torch.empty(0, 32, 32)
    scan.model.stitching.total_weight.return_value = torch.ones(64, 64)
    projections = MagicMock(converged=False, object=first)
    judge.deviance.return_value = 1.0
    iterations = Watched(scan, projections, judge, bar, MagicMock())
    scan.split = split

    def iterate(**_):
        n_done = iterations.n_done
        fine = (-1) ** (torch.arange(64) + n_done)
        projections.object = first + change / 10 * n_done * other + fine
        return 1e-4 * abs(n_done - best_at)

    projections.iterate.side_effect = iterate
    iterations.watched_from = 20
    iterations.begin("joint", until, until, with_probe=True)
    for _ in iterations.run():
        pass
    return iterations.n_done


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"change": 0.005}, 70),  # the first time that it is asked for
        ({"change": 0.005, "best_at": 75}, 100),  # predicted better for longer
        ({"change": 0.1}, 120),  # the coarse object comes still
        ({"change": 0.005, "best_at": 200}, 120),  # predicted better all the time
        ({"change": 0.005, "split": 0}, 120),  # a split has the number of all
        ({"change": 0.005, "refined": False}, 120),  # a known probe
        ({"change": 0.005, "n_iterations": 120}, 120),  # as asked for
        ({"change": 0.005, "rest_change": 0.0}, 120),
    ],
)
def test_iterations_end_where_only_noise_changes(case, expected):
    assert n_done_of_objects(**case) == expected
