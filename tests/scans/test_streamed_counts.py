"""Frames that arrive in blocks are repaired as a whole scan is."""

import numpy as np
import pytest

from ptychi_neural.scans import StreamedCounts, repair

SIZE = 32


def passes(counts, n_block, valid_pixel_mask=None):
    """Take in a scan in blocks, once more as long as the check asks for it."""
    check, n_passes = StreamedCounts(valid_pixel_mask), 0
    while n_passes == 0 or check.outdated:
        check.begin_again()
        n_passes += 1
        assert n_passes < 5
        kept = []
        for first in range(0, len(counts), n_block):
            numbers = np.arange(first, min(first + n_block, len(counts)))
            block = check.add(counts[numbers], numbers)
            kept += numbers[block.kept].tolist()
    return check, kept


def spoilt(sim, kind):
    counts = sim.counts.astype(np.float32)
    bad = np.zeros((SIZE, SIZE), bool)
    if kind == "gap":
        bad[:, 20:22] = True
        counts[:, bad] = 2.0**32 - 2
    elif kind == "hot":
        bad[2, 5] = bad[16, 20] = True
        counts[:, bad] = 100 * counts.max()
    elif kind == "dead":
        bad[16, 16] = True
        counts[:, bad] = 0
    elif kind == "stop":
        bad[13:19, 13:19] = True
        counts[:, bad] = 0
    elif kind == "nan":
        bad[3, 3] = True
        counts[70, 3, 3] = np.nan
    odd = []
    if kind == "bright":
        odd = [1, 60]
        counts[odd] *= 1000
    elif kind == "dark":
        odd = [0, 40]
        counts[odd] = 0
        counts[0, 4, 9] = counts[40, 7, 7] = counts[40, 20, 3] = 1
    return counts, bad, odd


@pytest.mark.parametrize("n_block", [3, 10, 64])
@pytest.mark.parametrize("kind", ["gap", "hot", "dead", "stop", "nan", "bright", "dark", "none"])
def test_blocks_are_repaired_as_the_whole_scan_is(simulated, kind, n_block):
    counts, bad, odd = spoilt(simulated(), kind)
    whole = repair(counts)
    check, kept = passes(counts, n_block)
    valid = (
        np.ones((SIZE, SIZE), bool) if check.valid_pixel_mask is None else check.valid_pixel_mask
    )
    np.testing.assert_array_equal(~valid, bad)
    assert kept == np.flatnonzero(whole.kept).tolist()
    assert sorted(check.dropped) == odd


def test_a_given_mask_is_trusted_about_dead_and_hot_pixels(simulated):
    counts, _, _ = spoilt(simulated(), "stop")
    given = np.ones((SIZE, SIZE), bool)
    given[0, 0] = False
    check, _ = passes(counts, 10, given)
    np.testing.assert_array_equal(check.valid_pixel_mask, given)
    counts[50, 3, 3] = np.inf
    check, _ = passes(counts, 10, given)
    given[3, 3] = False
    np.testing.assert_array_equal(check.valid_pixel_mask, given)
