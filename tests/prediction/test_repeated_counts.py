"""Counts of a repeated measurement: Poisson-distributed, and continuous in what is expected."""

import numpy as np
import pytest
from scipy import stats

from ptychi_neural.prediction.repeated_counts import (
    LEAST_SHARE,
    MANY,
    counts_of_frame,
    poisson_quantiles,
)


@pytest.mark.parametrize("mean", [0.0, 1e-6, 0.05, 1.0, 12.5, 300.0, 1e4])
def test_quantiles_are_those_of_scipy(mean):
    shares = np.random.default_rng(0).random(2000).clip(LEAST_SHARE, 1 - LEAST_SHARE)
    shares[:2] = LEAST_SHARE, 1 - LEAST_SHARE
    means = np.full(shares.shape, mean)
    np.testing.assert_array_equal(
        poisson_quantiles(shares, means), stats.poisson.ppf(shares, means)
    )


def test_of_many_counts_one_may_be_missed():
    shares = np.random.default_rng(0).random(200)
    means = np.full(shares.shape, 10 * MANY)
    apart = poisson_quantiles(shares, means) - stats.poisson.ppf(shares, means)
    assert np.abs(apart).max() <= 1


def test_means_that_differ_by_rounding_draw_almost_the_same_counts():
    means = np.random.default_rng(1).exponential(20.0, (64, 64))
    drawn, again = (counts_of_frame(m, 3, 7) for m in (means, means * (1 + 1e-6)))
    assert np.abs(drawn - again).sum() <= 5  # of 8e4 counts; 0.08 on average
    assert drawn.mean() == pytest.approx(means.mean(), rel=0.01)


@pytest.mark.parametrize("other", [(4, 7), (3, 8)])
def test_other_seeds_and_frames_draw_other_counts(other):
    means = np.full((32, 32), 100.0)
    one, two = counts_of_frame(means, 3, 7), counts_of_frame(means, *other)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.15
    assert one.var() == pytest.approx(100, rel=0.2)
