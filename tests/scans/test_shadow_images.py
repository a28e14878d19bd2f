"""Shadow images tell the magnification and the orientation; far-field patterns do not move."""

import itertools

import pytest

from ptychi_neural.scans.shadow_images import find_shadow
from shadow_scans import shadow_scan


@pytest.mark.parametrize("flags", list(itertools.product((False, True), repeat=3)))
def test_the_pixel_and_the_orientation_are_found(flags):
    frames, positions = shadow_scan(2.5e-7)
    transpose, flip_y, flip_x = flags
    stored = frames[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    stored = stored.swapaxes(1, 2) if transpose else stored  # undone first
    found = find_shadow(stored, None, positions)
    assert found.pixel_size == pytest.approx(2.5e-7, rel=0.02)
    assert (found.transpose, found.flip_y, found.flip_x) == flags


def test_a_hot_pixel_hides_nothing():
    frames, positions = shadow_scan(2.5e-7)
    frames[:, 3, 40] = 10_000_000
    found = find_shadow(frames, None, positions)
    assert found.pixel_size == pytest.approx(2.5e-7, rel=0.02)
    assert found.lit == 1


def test_large_frames_tell_the_size_of_their_own_pixels():
    frames, positions = shadow_scan(2.5e-7)
    larger = frames.repeat(6, axis=1).repeat(6, axis=2)  # 288 x 288
    assert find_shadow(larger, None, positions).pixel_size == pytest.approx(2.5e-7 / 6, rel=0.02)


def test_far_field_patterns_show_none(simulated):
    scan = simulated().scan()
    assert find_shadow(scan.patterns, None, scan.positions_px) is None
