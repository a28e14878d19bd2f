"""What becomes of defective counts: one table of inputs and of what exactly happens to them."""

import re

import numpy as np
import pytest

from hostile_scans import ROUTES, SIZE


def at(*places):
    mask = np.zeros((SIZE, SIZE), bool)
    for place in places:
        mask[place] = True
    return mask


MIDDLE = SIZE // 2
GAP = at(np.s_[:, 8:10])
STOP = np.hypot(*(np.indices((SIZE, SIZE)) - (SIZE - 1) / 2)) < 3
POINTS = at((2, 3), (MIDDLE, MIDDLE + 2))
QUARTER = at(np.s_[:MIDDLE, :MIDDLE])
CLUSTERS = at(np.s_[3, 5:7], np.s_[MIDDLE : MIDDLE + 2, MIDDLE + 1 : MIDDLE + 3])
NOTHING = at()


def marked(value, dtype, where=GAP):
    def spoil(sim):
        counts = sim.counts.astype(dtype)
        counts[:, where] = np.array(value).astype(dtype)
        return counts

    return spoil


def frames(change, *numbers):
    def spoil(sim):
        counts = sim.counts.astype(np.float64)
        for number in numbers:
            counts[number] = change(counts[number])
        return counts

    return spoil


def dark(n):
    rng = np.random.default_rng(5)
    return lambda frame: (
        rng.poisson(n / frame.size, frame.shape) + (np.indices(frame.shape).sum(0) == 3)
    )


def weaker(photons, change):
    """A scan of fewer photons, with frames that do not belong."""

    def spoil(sim):
        factor = photons / sim.intensities.sum(axis=(1, 2)).max()
        counts = np.random.default_rng(7).poisson(factor * sim.intensities)
        for number in (13, 30):
            counts[number] = change(counts[number])
        return counts

    return spoil


def stopped(photons):
    """A scan of fewer photons with a beam stop."""
    fewer = weaker(photons, lambda frame: frame)
    return lambda sim: np.where(STOP, 0, fewer(sim))


def behind(absorber, *numbers):
    """Frames behind an absorber that lets a part of the light through."""

    def spoil(sim):
        counts = sim.counts.copy()
        counts[list(numbers)] = np.random.default_rng(8).poisson(
            absorber * sim.intensities[list(numbers)]
        )
        return counts

    return spoil


def flash(sim):
    counts = sim.counts.copy()
    counts[7, 3, 4] = 1000
    counts[30, MIDDLE, MIDDLE + 2] = 100 * counts.max()
    return counts


def track(sim):
    """A particle that crosses many pixels in one frame."""
    counts = sim.counts.copy()
    counts[7, 4, 2:20] = 100 * counts.max()
    return counts


def bright(where, part=1.0, factor=100):
    """Pixels that are hot in a part of the frames, and count differently in each."""

    def spoil(sim):
        rng, counts = np.random.default_rng(6), sim.counts.astype(np.int64)
        shines = rng.random((len(counts), where.sum())) < part
        shown = rng.poisson(factor * counts.max(), shines.shape)
        counts[:, where] = np.where(shines, shown, counts[:, where])
        return counts

    return spoil


def both(first, *numbers, change):
    """Defective pixels, and frames that do not belong beside them."""

    def spoil(sim):
        counts = np.asarray(first(sim)).astype(np.float64)
        defective = (counts != sim.counts).any(axis=0)
        for number in numbers:
            counts[number] = np.where(defective, counts[number], change(counts[number]))
        return counts

    return spoil


def saturated(sim):
    return np.minimum(sim.counts, sim.counts.max() // 2)


def unit(factor, dtype=np.float64):
    return lambda sim: (sim.counts * factor).astype(dtype)


MARKERS = [
    (f"{dtype} 2^{bits} - {less}", marked(2**bits - less, dtype), GAP, [], "gap marker|overflown")
    for dtype, bits in [
        ("i2", 15), ("u2", 16), (">u2", 16), ("u4", 20), ("i4", 31), ("u4", 32), ("i8", 63),
        ("u8", 64), ("f4", 16), ("f4", 20), ("f4", 32), ("f8", 32),
    ]
    for less in (1, 2, 3)
]  # fmt: skip

TABLE = [
    *MARKERS,
    ("minus one in an int32 gap", marked(-1, "i4"), GAP, [], "negative"),
    ("NaN in a gap", marked(np.nan, "f4"), GAP, [], "NaN"),
    ("infinite points", marked(np.inf, "f4", POINTS), POINTS, [], "Inf"),
    ("an unheard-of marker", marked(123456, "f4"), GAP, [], "saturated|stuck"),
    ("beam stop of zeros", marked(0, "u4", STOP), STOP, [], "without counts"),
    *[(f"beam stop at {photons} photons", stopped(photons), STOP, [], "without counts")
      for photons in (700, 1000)],
    ("dead pixel", marked(0, "u4", at((MIDDLE, MIDDLE))), at((MIDDLE, MIDDLE)), [], "dead"),
    ("hot pixels", marked(10**6, "u4", POINTS), POINTS, [], "hot"),
    ("stuck pixel", marked(3, "u4", at((MIDDLE, MIDDLE))), at((MIDDLE, MIDDLE)), [], "stuck"),
    ("flashes in single frames", flash, at((3, 4), (MIDDLE, MIDDLE + 2)), [], "flash|hot"),
    ("a copy of a copy of 2^32 - 1", marked(np.float32(2**32 - 1), "f8"), GAP, [], "gap marker"),
    ("a gap of fractions", marked(50000.5, "f8"), GAP, [], "saturated|stuck"),
    ("a quarter of unheard-of numbers", marked(123456, "f4", QUARTER), QUARTER, [], "saturated"),
    ("clusters of hot pixels", bright(CLUSTERS), CLUSTERS, [], "hot"),
    ("a row of hot pixels", bright(at(3)), at(3), [], "hot"),
    ("hot in a third of the frames", bright(POINTS, 0.3, 30), POINTS, [], "flash|hot"),
    ("a particle's track", track, at(np.s_[4, 2:20]), [], "flash|hot"),
    ("hot pixels and bright frames", both(bright(POINTS), 3, 30, change=lambda f: f * 1000), POINTS,
     [3, 30], "far too bright"),
    ("flashes and dark frames", both(flash, 3, 20, change=dark(100)),
     at((3, 4), (MIDDLE, MIDDLE + 2)), [3, 20], "flash|hot"),
    ("beam stop and dark frames", both(marked(0, "u4", STOP), 3, 30, change=dark(100)), STOP,
     [3, 30], "without counts"),
    ("two frames of 10 dark counts", frames(dark(10), 3, 30), NOTHING, [3, 30], "no light"),
    ("frames of 100 dark counts", frames(dark(100), 3, 30), NOTHING, [3, 30], "no light|evenly"),
    ("12 dark counts beside 3,000", weaker(3e3, dark(12)), NOTHING, [13, 30], "shutter was closed"),
    ("44 dark counts beside 7,000", weaker(7e3, dark(44)), NOTHING, [13, 30], "no light"),
    ("frames behind an absorber", behind(1e-3, 5, 31, 32), NOTHING, [], "^$"),
    ("frames behind too strong an absorber", behind(5e-5, 5, 31, 32), NOTHING, [5, 31, 32],
     "or which lie behind a strong absorber: there count longer"),
    ("a frame of 90,000 dark counts", frames(dark(90000), 9), NOTHING, [9], "evenly"),
    ("frames 1000 times brighter", frames(lambda f: f * 1000, 3, 30), NOTHING, [3, 30], "bright"),
    ("an empty frame", frames(lambda f: f * 0, 40), NOTHING, [40], "empty"),
    ("a frame of NaN", frames(lambda f: f * np.nan, 40), NOTHING, [40], "broken"),
    ("a weak frame", frames(lambda f: f // 30, 5), NOTHING, [], "^$"),
    ("a bright frame", frames(lambda f: f * 5, 5), NOTHING, [], "^$"),
    *[(f"unit {factor:g}", unit(factor), NOTHING, [], "^$") for factor in (0.37, 1e20)],
    ("unit 1e20 in single precision", unit(1e20, np.float32), NOTHING, [], "^$"),
    ("nothing wrong", unit(1, "u4"), NOTHING, [], "^$"),
    ("big-endian", unit(1, ">u4"), NOTHING, [], "^$"),
    ("negative strides", lambda sim: sim.counts[:, ::-1, ::-1], NOTHING, [], "^$"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("spoil", "masked", "dropped", "told"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE]
)
def test_defects_are_masked_dropped_and_told(scans, tmp_path, route, spoil, masked, dropped, told):
    sim = scans()
    valid, gone, message = ROUTES[route](sim, spoil(sim), tmp_path)
    np.testing.assert_array_equal(NOTHING if valid is None else ~valid, masked)
    assert gone == dropped
    assert re.search(told, message), message


@pytest.mark.parametrize("route", ["file", "array"])
@pytest.mark.parametrize("largest", [1e-12, 1.0])
def test_patterns_that_never_exceed_one_count_are_told_to_be_none(scans, tmp_path, route, largest):
    sim = scans()
    factor = largest / sim.counts.max()
    valid, gone, message = ROUTES[route](sim, sim.counts * factor, tmp_path)
    assert valid is None
    assert gone == []
    unit = float(re.search("no counts, since none .* 1: divide .* one, (.*) by", message)[1])
    assert unit == pytest.approx(factor, rel=0.5)


@pytest.mark.parametrize("route", ["file", "array"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (np.sqrt, "square roots of counts: square them"),
        (np.log1p, r"log\(1 \+ counts\): take exp\(x\) - 1"),
        (lambda counts: np.log2(counts + 1.0), r"log2\(1 \+ counts\): take 2\^x - 1"),
        (lambda counts: np.log10(counts + 1.0), r"log10\(1 \+ counts\): take 10\^x - 1"),
    ],
    ids=["root", "log", "log2", "log10"],
)
def test_what_counts_were_changed_into_is_told_beside_a_gap(scans, tmp_path, route, change, told):
    sim = scans()
    patterns = np.where(GAP, 2.0**32, change(sim.counts))
    valid, _, message = ROUTES[route](sim, patterns, tmp_path)
    assert not valid[GAP].any()
    assert re.search(told, message), message


def test_saturated_pixels_are_masked_on_every_route(scans, tmp_path):
    sim = scans(1e6)
    counts = saturated(sim)
    clipped = (counts == counts.max()).any(axis=0)
    for route in ROUTES.values():
        valid, gone, message = route(sim, counts, tmp_path)
        np.testing.assert_array_equal(~valid, clipped)
        assert gone == []
        assert "saturated" in message
