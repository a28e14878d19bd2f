"""Intervals of amplitude and phase: what share of the true values they hold."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from ptychi_neural.evaluation import coverage, scanned_area
from ptychi_neural.prediction.deviation_intervals import Pair, intervals_of, measure_intervals
from small_tasks import make_task
from trained_generators import options_of

SIDE = 96


def noisy(object_, size, rng):
    """The object with errors of amplitude and phase of a local size."""
    amplitude, phase = (size * rng.standard_normal(object_.shape) for _ in range(2))
    return object_ * (1 + amplitude) * np.exp(1j * phase)


def from_repetition(object_, repeated, area, factor=1.0):
    """Intervals by one repetition, under even light."""
    return intervals_of(object_, [Pair(repeated, object_, factor)], area, np.ones(area.shape))


@pytest.fixture
def repeated():
    """An object, two noisy versions of it, the scanned area, and the local size of errors."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    size = 0.02 + 0.1 * x
    object_ = (0.8 + 0.2 * y) * np.exp(1j * (x + y))
    area = (np.abs(y - 0.5) < 0.45) & (np.abs(x - 0.5) < 0.45)
    return object_, noisy(object_, size, rng), noisy(object_, size, rng), area, size


def test_intervals_hold_nine_in_ten_values_and_follow_the_size_of_errors(repeated):
    object_, first, second, area, size = repeated
    found = from_repetition(object_, first, area)
    compared = coverage(
        *(second, object_, area), found.amplitude, found.phase, found.standard_deviation
    )
    assert compared.amplitude == pytest.approx(0.9, abs=0.02)
    assert compared.phase == pytest.approx(0.9, abs=0.02)
    assert compared.rank_correlation > 0.7
    assert np.isnan(found.amplitude[~area]).all()
    expected = size * np.abs(object_) * np.sqrt(2)
    assert np.median((found.standard_deviation / expected)[area]) == pytest.approx(1, abs=0.1)
    assert np.median((found.phase / size)[area]) == pytest.approx(1.645, abs=0.15)


def test_coarse_errors_count_everywhere_alike(repeated):
    object_, _, _, area, _ = repeated
    held = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        first, second = (
            object_ * np.exp(6j * ndimage.gaussian_filter(rng.normal(0, 0.2, area.shape), 8))
            for _ in range(2)
        )
        found = from_repetition(object_, first, area)
        held.append((np.abs(np.angle(second / object_)) <= found.phase)[area].mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.08)


def test_the_correction_scales_intervals_and_phases_stay_below_a_turn(repeated):
    object_, first, _, area, _ = repeated
    plain, scaled = (from_repetition(object_, first, area, scale) for scale in (1, 2))
    np.testing.assert_allclose(scaled.amplitude[area], 2 * plain.amplitude[area])
    np.testing.assert_allclose(scaled.standard_deviation[area], 2 * plain.standard_deviation[area])
    assert from_repetition(object_, first, area, 1e3).phase[area].max() == np.pi


def test_errors_of_the_wave_go_with_the_root_of_the_light(repeated):
    object_, _, _, area, _ = repeated
    rng = np.random.default_rng(5)
    object_ = object_ * (1 + 0.3 * np.sin(np.arange(SIDE)))
    light = 1 + 0.8 * np.sin(np.arange(SIDE) / 2)[:, None] * np.ones(SIDE)
    size = 0.03 / np.sqrt(light)  # Narrower stripes than errors are averaged over.
    noisy_wave = [
        object_
        + np.exp(1j * np.angle(object_)) * size * (rng.normal(size=(2, SIDE, SIDE)).T @ [1, 1j]).T
        for _ in range(2)
    ]
    found = intervals_of(object_, [Pair(noisy_wave[0], object_)], area, light)
    assert np.median(np.abs(found.standard_deviation / size / np.sqrt(2) - 1)[area]) < 0.1
    stripes = np.corrcoef(found.amplitude[area], size[area])[0, 1]
    assert stripes > 0.95
    compared = coverage(
        *(noisy_wave[1], object_, area), found.amplitude, found.phase, found.standard_deviation
    )
    assert compared.amplitude == pytest.approx(0.9, abs=0.02)
    assert compared.phase == pytest.approx(0.9, abs=0.02)


def test_halves_of_a_scan_tell_the_error_of_their_mean(repeated):
    object_, _, _, area, size = repeated
    rng = np.random.default_rng(6)
    halves = [noisy(object_, np.sqrt(2) * size, rng) for _ in range(2)]
    even = np.ones(area.shape)
    found = intervals_of(object_, [Pair(*halves, factor=0.5)], area, even)
    assert np.median((found.phase / size)[area]) == pytest.approx(1.645, abs=0.15)
    alone = from_repetition(object_, object_, area)
    both = intervals_of(
        object_, [Pair(*halves, factor=0.5), Pair(object_, object_)], area, even
    ).standard_deviation
    assert alone.standard_deviation[area].max() < 1e-12
    np.testing.assert_allclose(both[area], found.standard_deviation[area] / np.sqrt(2), rtol=1e-6)


def test_edges_have_larger_intervals_where_the_repetition_errs_there(repeated):
    _, _, _, area, _ = repeated
    rng = np.random.default_rng(8)
    disks = ndimage.gaussian_filter((rng.random(area.shape) > 0.99) * 60.0, 4) > 1
    object_ = np.exp(1j * ndimage.gaussian_filter(disks * 1.0, 1))
    size = 0.01 + 0.2 * np.hypot(*np.gradient(np.angle(object_)))
    first, second = (noisy(object_, size, rng) for _ in range(2))
    found = from_repetition(object_, first, area)
    compared = coverage(
        *(second, object_, area), found.amplitude, found.phase, found.standard_deviation
    )
    assert compared.rank_correlation > 0.75  # .66 by averages over the neighbourhood alone
    assert compared.amplitude == pytest.approx(0.9, abs=0.02)
    assert compared.phase == pytest.approx(0.9, abs=0.02)


def test_a_factor_that_both_halves_lost_is_no_missing_structure(repeated):
    object_, first, _, area, _ = repeated
    even = np.ones(area.shape)
    plain, scaled = (
        intervals_of(object_, [Pair(first, object_)], area, even, removed).amplitude[area]
        for removed in ((), [0.1 * object_, 0.1 * object_])
    )
    assert np.abs(scaled / plain - 1).max() < 0.05


def test_what_is_removed_from_both_halves_is_missing_and_what_differs_is_noise(repeated):
    object_, _, _, area, _ = repeated
    rng = np.random.default_rng(7)
    texture, *noise = ndimage.gaussian_filter(rng.normal(size=(5, *area.shape)), (0, 1, 1))
    size = 0.05 / texture.std()
    turn = np.exp(1j * np.angle(object_))
    stripes = size * 1j * turn * texture
    small = Pair(object_ * (1 + 1e-3), object_)
    of_noise = [size * turn * (noise[k] + 1j * noise[k + 1]) for k in (0, 2)]
    even = np.ones(area.shape)
    missed, told = (
        intervals_of(object_, [small], area, even, removed)
        for removed in ((), [n + stripes for n in of_noise])
    )
    truth = object_ + stripes
    shares = [
        coverage(object_, truth, area, found.amplitude, found.phase, found.standard_deviation).phase
        for found in (missed, told)
    ]
    assert shares[0] < 0.1
    assert shares[1] > 5 * shares[0]
    only_noise = intervals_of(object_, [small], area, even, of_noise)
    assert np.median(only_noise.standard_deviation[area]) < 0.02
    assert np.median(told.standard_deviation[area]) == pytest.approx(0.05, rel=0.25)


def test_an_object_that_repeats_exactly_has_intervals_of_no_width(repeated):
    object_, _, _, area, _ = repeated
    found = from_repetition(object_, object_, area)
    assert max(found.amplitude[area].max(), found.phase[area].max()) < 1e-12  # of rounding


def test_a_reconstruction_is_repeated_from_its_own_counts(scan):
    options = options_of(architecture="unrolled")
    options.probe_options.optimizable = False
    options.reconstructor_options.start.n_iterations = 10
    task = make_task(options, scan)
    task.run(2)
    before = task.get_data_to_cpu("object", True)
    torch.manual_seed(1)
    found, again = (measure_intervals(task, options, scan, seed=seed) for seed in (0, 0))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    np.testing.assert_array_equal(task.get_data_to_cpu("object", True), before)
    np.testing.assert_array_equal(found.amplitude, again.amplitude)
    area = scanned_area(scan.positions_px, before.shape)
    for values in (found.amplitude, found.phase, found.standard_deviation):
        assert (values[area] > 0).all()
        assert np.isnan(values[~area]).all()
    other = measure_intervals(task, options, scan, seed=1)
    assert not np.array_equal(found.amplitude, other.amplitude, equal_nan=True)


@pytest.mark.parametrize(("start_loss", "n_applied"), [(np.inf, 3), (-np.inf, 0)])
def test_repetition_and_halves_are_made_by_the_network_if_the_result_is(
    scan, monkeypatch, start_loss, n_applied
):
    options = options_of(architecture="unrolled")
    options.reconstructor_options.start.n_iterations = 10
    options.reconstructor_options.validation.held_out = 0.03
    task = make_task(options, scan)
    task.run(2)
    task.reconstructor.judge.start_loss = start_loss
    made = []
    network = type(task.reconstructor.generator)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args: made.append(args) or forward(*args))
    measure_intervals(task, options, scan)
    assert len(made) == n_applied
