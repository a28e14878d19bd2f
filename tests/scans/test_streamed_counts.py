"""Frames that arrive in blocks are repaired as a whole scan is."""

import numpy as np
import pytest

from ptychi_neural.engine.state_files import read_state, with_arrays, with_tensors, write_state
from ptychi_neural.scans import StreamedCounts, repair

SIZE = 32


def passes(counts, n_block, valid_pixel_mask=None, renewed=lambda check: check):
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
            check = renewed(check)
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


def dark(n, frames):
    def spoil(counts):
        rng = np.random.default_rng(1)
        counts[frames] = rng.poisson(n / SIZE**2, (len(frames), SIZE, SIZE))

    return spoil


def cut(part):
    def spoil(counts):
        np.minimum(counts, int(part * counts.max()), out=counts)

    return spoil


def cut_in_one_pixel(counts):
    counts[:, 16, 16] = np.minimum(counts[:, 16, 16], int(0.7 * counts.max()))
    counts[:, 16, 16] += counts.max() - counts[:, 16, 16].max()


def stuck(counts):
    counts[:, 16, 18] = 3


def flash(counts):
    counts[40, 3, 4] = 100 * counts.max()


def hot_in_a_third(counts):
    rng = np.random.default_rng(3)
    shown = rng.poisson(30 * counts.max(), len(counts))
    counts[:, 3, 4] = np.where(rng.random(len(counts)) < 0.3, shown, counts[:, 3, 4])


def behind_an_absorber(counts):
    counts[[5, 50]] //= 30


def untouched(counts):
    """True light alone."""


SPREAD, FIRST = range(4, 100, 8), range(12)
RARE = {
    "cut at 0.6": cut(0.6),
    "cut at 0.8": cut(0.8),
    "cut in one pixel": cut_in_one_pixel,
    "stuck": stuck,
    "flash": flash,
    "hot in a third": hot_in_a_third,
    **{f"{n} counts in twelve dark frames": dark(n, SPREAD) for n in (1, 2, 5, 12, 100)},
    **{f"{n} counts while the shutter was closed": dark(n, FIRST) for n in (1, 5, 44, 100)},
    "weak frames": behind_an_absorber,
    "true light": untouched,
}


@pytest.mark.parametrize("n_block", [1, 8, 16])
@pytest.mark.parametrize("photons", [1e3, 1e5])
@pytest.mark.parametrize("kind", RARE)
def test_what_many_blocks_tell_together_is_found(simulated, kind, photons, n_block):
    counts = simulated(photons).counts.astype(np.int64)
    RARE[kind](counts)
    whole = repair(counts)
    check, kept = passes(counts, n_block)
    np.testing.assert_equal(check.valid_pixel_mask, whole.valid_pixel_mask)
    assert kept == np.flatnonzero(whole.kept).tolist()


def test_a_shutter_that_opens_late_does_not_make_frames_too_bright(simulated):
    counts = simulated().counts.astype(np.int64)
    dark(44, range(60))(counts)
    repaired = repair(counts)
    assert np.flatnonzero(repaired.kept).tolist() == list(range(60, 100))
    assert "dropped 60 frames with next to no light: 0 to 59" in repaired.report
    _, kept = passes(counts, 8)
    assert kept == list(range(60, 100))


@pytest.mark.parametrize("kind", ["cut at 0.8", "5 counts in twelve dark frames", "stuck"])
def test_what_earlier_blocks_told_is_kept_in_a_file(simulated, tmp_path, kind):
    counts = simulated().counts.astype(np.uint32)
    RARE[kind](counts)

    def renewed(check):
        path = tmp_path / "state.safetensors"
        write_state(path, "check", {"check": with_tensors(check.state_dict())})
        other = StreamedCounts()
        other.load_state_dict(with_arrays(read_state(path, "check")["check"]))
        return other

    direct, kept = passes(counts, 8)
    read, kept_after_reading = passes(counts, 8, renewed=renewed)
    np.testing.assert_equal(read.valid_pixel_mask, direct.valid_pixel_mask)
    assert kept_after_reading == kept
    assert read.dropped == direct.dropped


def test_a_state_of_an_earlier_version_is_read(simulated):
    counts = simulated().counts
    check = StreamedCounts()
    check.add(counts[:20], np.arange(20))
    earlier = check.state_dict().pop("earlier")
    old = check.state_dict() | {name: earlier[name] for name in ("valid", "counts", "light")}
    del old["earlier"]
    other = StreamedCounts()
    other.load_state_dict(old | {"known_as_dark": np.zeros(20, bool)})
    assert other.add(counts[20:], np.arange(20, 100)).kept.all()
    np.testing.assert_allclose(other.light, np.sort(counts.sum((1, 2))))


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
