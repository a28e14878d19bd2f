"""Frames that do not belong, in a stream whose frames have not come yet."""

import numpy as np

from ptychi_neural.scans.earlier_frames import EarlierFrames
from ptychi_neural.scans.odd_frames import FEWEST_FRAMES, evenly_lit


def test_no_frames_are_looked_through_after_others():
    y, x = np.mgrid[:16, :16] - 8
    sum_of_earlier = 1e6 * np.exp(-(y**2 + x**2) / 8)
    earlier = EarlierFrames.none(np.ones((16, 16), bool))
    earlier.counts, earlier.light = sum_of_earlier, np.full(FEWEST_FRAMES, 1e6)
    found = evenly_lit(
        np.zeros((0, 16, 16), "u2"),
        np.zeros(0),
        np.zeros(0, bool),
        np.ones((16, 16), bool),
        1.0,
        earlier,
    )
    assert found.shape == (0,)
