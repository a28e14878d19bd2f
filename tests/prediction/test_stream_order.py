"""Frames and positions that come late, out of order, twice or never, and streams that go on."""

import numpy as np
import pytest
import torch

from ptychi_neural.generators.exact_sums import exactly_added
from trained_generators import predictor_of, saved, whole


@pytest.fixture(scope="module", params=["log", "unrolled"])
def expected(request, jittered, tmp_path_factory):
    """A predictor, and what it predicts of a whole scan at once."""
    chosen = {"architecture": "unrolled"} if request.param == "unrolled" else {"lifter": "log"}
    path = tmp_path_factory.mktemp("g") / "generator.safetensors"
    predictor = predictor_of(saved(jittered, path, **chosen))
    return predictor, whole(predictor, jittered)


def begun(expected, scan, **choices):
    predictor, offline = expected
    return predictor.stream(offline.probe, scan.object.shape[-2:], **choices)


def arrivals(seed):
    """Blocks of frames and of positions, some of them twice, in an order of their own each."""
    rng = np.random.default_rng(seed)
    events = []
    for what in ("patterns", "positions"):
        ids = np.concatenate([rng.permutation(36), rng.integers(36, size=8)])
        cuts = np.sort(rng.integers(1, len(ids), size=5))
        events += [(what, block) for block in np.split(ids, cuts) if len(block)]
    return [events[i] for i in rng.permutation(len(events))]


def send(stream, scan, events):
    taken = 0
    for what, ids in events:
        if what == "patterns":
            taken += stream.add_patterns(scan.patterns[ids], ids)
        else:
            taken += stream.add_positions(scan.positions_px[ids], ids)
    return taken


def assert_same(current, offline):
    np.testing.assert_array_equal(current.object, offline.object)
    np.testing.assert_array_equal(current.weight, offline.weight)
    np.testing.assert_array_equal(current.standard_deviation, offline.standard_deviation)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_arrival_gives_the_bits_of_the_whole_scan(seed, expected, jittered):
    stream = begun(expected, jittered)
    events = arrivals(seed)
    half = len(events) // 2
    taken = send(stream, jittered, events[:half])
    if stream.n_frames:
        stream.current()  # a look at what has come changes nothing
    taken += send(stream, jittered, events[half:])
    assert taken == stream.n_frames == 36
    assert stream.n_waiting == 0
    assert_same(stream.current(), expected[1])


def test_a_saved_stream_goes_on_in_another_process_with_the_same_bits(expected, jittered, tmp_path):
    events = arrivals(7)
    first = begun(expected, jittered)
    send(first, jittered, events[:6])
    first.save(tmp_path / "stream.safetensors")
    n_frames, n_waiting = first.n_frames, first.n_waiting
    second = begun(expected, jittered)
    second.load(tmp_path / "stream.safetensors")
    assert (second.n_frames, second.n_waiting) == (n_frames, n_waiting)
    assert n_frames > 0
    assert n_waiting > 0
    assert_same(second.current(), first.current())
    send(second, jittered, events[6:])
    assert_same(second.current(), expected[1])


def test_a_stream_goes_on_only_from_its_own_state(expected, jittered, tmp_path):
    stream = begun(expected, jittered)
    stream.add(jittered.patterns[:4], jittered.positions_px[:4], np.arange(4))
    stream.save(tmp_path / "stream.safetensors")
    predictor, offline = expected
    other = predictor.stream(2 * offline.probe, jittered.object.shape[-2:])
    with pytest.raises(ValueError, match="another probe"):
        other.load(tmp_path / "stream.safetensors")
    assert other.n_frames == 0


def test_frames_wait_in_a_bounded_ring_and_may_come_again(expected, jittered):
    stream = begun(expected, jittered, ring_size=10)
    with pytest.warns(UserWarning, match=r"left out 2 frames without a position.*\[0, 1\]"):
        assert stream.add_patterns(jittered.patterns[:12], np.arange(12)) == 0
    assert stream.n_waiting == 10
    assert stream.add_positions(jittered.positions_px, np.arange(36)) == 10
    assert stream.n_waiting == 0
    assert stream.add_patterns(jittered.patterns, np.arange(36)) == 26
    assert_same(stream.current(), expected[1])


def test_terms_add_up_exactly_in_any_order():
    rng = np.random.default_rng(0)
    given = torch.from_numpy(rng.normal(size=20000) * 1e4)
    terms = exactly_added(given, largest=1e4)
    sums = {float(terms[torch.from_numpy(rng.permutation(20000))].cumsum(0)[-1]) for _ in range(5)}
    assert len(sums) == 1
    assert float((terms - given).abs().max()) <= 1e4 * 2.0**-36
