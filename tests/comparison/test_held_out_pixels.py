"""Pixels that no engine sees: how they are chosen and withheld, and what their counts tell."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import poisson

from ptychi_neural.comparison.held_out_pixels import held_out_likelihood, hold_out, withhold
from ptychi_neural.scans import Scan


def test_held_out_pixels_are_a_share_of_the_valid_ones(simulated):
    valid = np.ones((16, 16), bool)
    valid[:, :4] = False
    scan = dataclasses.replace(simulated.scan, valid_pixel_mask=valid)
    held_out = hold_out(scan, 0.1, seed=1)
    assert held_out.sum() == round(0.1 * 192)
    assert not held_out[~valid].any()
    np.testing.assert_array_equal(held_out, hold_out(scan, 0.1, seed=1))
    assert (held_out != hold_out(scan, 0.1, seed=2)).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1e-4])
def test_a_share_that_leaves_no_pixel_on_one_side_is_refused(simulated, fraction):
    with pytest.raises(ValueError, match="held_out"):
        hold_out(simulated.scan, fraction)


def test_withheld_counts_are_masked_and_replaced_by_those_of_a_neighbour(simulated):
    held_out = hold_out(simulated.scan, 0.1)
    seen = withhold(simulated.scan, held_out)
    np.testing.assert_array_equal(seen.valid_pixel_mask, ~held_out)
    np.testing.assert_array_equal(
        seen.patterns[:, ~held_out], simulated.scan.patterns[:, ~held_out]
    )
    kept = np.argwhere(~held_out)
    for y, x in np.argwhere(held_out):
        distance = np.hypot(*(kept - (y, x)).T)
        nearest = kept[distance == distance.min()]
        candidates = [simulated.scan.patterns[:, j, i].tolist() for j, i in nearest]
        assert seen.patterns[:, y, x].tolist() in candidates


def test_held_out_likelihood_is_that_of_poisson_counts():
    rng = np.random.default_rng(0)
    positions = np.array([[-3.0, 2.0], [0.0, -4.0], [3.0, 1.0]])
    object_ = rng.uniform(0.5, 1, (1, 20, 22)) * np.exp(1j * rng.uniform(-1, 1, (1, 20, 22)))
    probe = rng.normal(size=(1, 2, 8, 8)) + 1j * rng.normal(size=(1, 2, 8, 8))
    expected = np.empty((3, 8, 8))
    for frame, (y, x) in zip(expected, positions.astype(int)):
        patch = object_[0, 10 + y - 4 : 10 + y + 4, 11 + x - 4 : 11 + x + 4]
        far = np.fft.fftshift(np.fft.fft2(probe[0] * patch), axes=(-2, -1))
        frame[:] = (np.abs(far) ** 2).sum(0)
    counts = rng.poisson(0.01 * expected)
    valid = np.ones((8, 8), bool)
    valid[0] = False
    scan = Scan(counts, positions, probe, object_, 1e-8, valid_pixel_mask=valid)
    held_out = hold_out(scan, 0.2)
    kept = valid & ~held_out
    mean = expected[:, held_out] * counts[:, kept].sum() / expected[:, kept].sum()
    likelihood = held_out_likelihood(object_, probe, positions, scan, held_out)
    assert likelihood == pytest.approx(-poisson.logpmf(counts[:, held_out], mean).mean(), rel=1e-5)
    other_scale = held_out_likelihood(7 * object_, probe, positions, scan, held_out)
    assert other_scale == pytest.approx(likelihood, rel=1e-5)


def test_the_truth_is_likelier_than_the_start(simulated):
    held_out = hold_out(simulated.scan, 0.1)
    truth, start = (
        held_out_likelihood(s.object, s.probe, s.positions_px, simulated.scan, held_out)
        for s in (simulated.truth, simulated.scan)
    )
    assert truth < start
