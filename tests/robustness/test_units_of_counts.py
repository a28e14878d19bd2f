"""Counts in any unit: whatever is made of them is what is made of the counts themselves."""

import dataclasses

import numpy as np
import pytest

from ptychi_neural.comparison.held_out_pixels import held_out_likelihood, hold_out
from ptychi_neural.evaluation import complex_error
from ptychi_neural.prediction.deviation import reprojection_error
from ptychi_neural.scans.defects import arbitrary_unit
from small_tasks import default_options, make_task, neural_options, object_of
from trained_generators import predictor_of, saved, whole

UNITS = (1e-16, 1e-3, 1e20)


def in_unit(scan, unit):
    return dataclasses.replace(scan, patterns=(scan.patterns * unit).astype(np.float32))


def fitted(options, scan, **replaced):
    task = make_task(options, scan, **replaced)
    task.run()
    return task


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("architecture", ["unrolled", "hybrid_uno"])
def test_an_object_does_not_depend_on_the_unit(simulated, architecture, unit):
    """The unit is found by the noise, and errs by some percent: so may the object."""
    options = default_options if architecture == "unrolled" else neural_options
    tasks = []
    for scan in (simulated.scan, in_unit(simulated.scan, unit)):
        of_scan = options(num_epochs=5) if architecture == "unrolled" else options()
        of_scan.object_options.remove_object_probe_ambiguity.enabled = False
        of_scan.reconstructor_options.start.n_iterations = 30 if architecture == "unrolled" else 0
        least = scan.patterns[scan.patterns > 0].min()
        of_scan.reconstructor_options.exclude_measured_pixels_below = 1.5 * float(least)
        tasks.append(fitted(of_scan, scan))
    counts, other = tasks
    assert complex_error(object_of(other)[0], object_of(counts)[0]) < 0.02
    probes = [task.get_data_to_cpu("probe", as_numpy=True) for task in tasks]
    peaks = [np.abs(probe).max() for probe in probes]
    assert peaks[1] / np.sqrt(unit) == pytest.approx(peaks[0], rel=0.02)
    errors = [
        reprojection_error(task.reconstructor.scan, task.get_data("object")).mean().item()
        for task in tasks
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_runs_go_on_in_another_unit(simulated):
    """The second of two runs begins where the first one ended."""
    task = make_task(default_options(3), in_unit(simulated.scan, 1e-16))
    task.run()
    before = task.get_data_to_cpu("probe", as_numpy=True)
    task.run(1)
    after = task.get_data_to_cpu("probe", as_numpy=True)
    assert complex_error(after[0, 0], before[0, 0]) < 0.02
    assert np.abs(after).max() == pytest.approx(np.abs(before).max(), rel=0.05)


@pytest.mark.parametrize("lifter", ["log", "standardized"])
def test_a_trained_generator_predicts_the_same(simulated, tmp_path, lifter):
    path = saved(simulated.scan, tmp_path / "g.safetensors", lifter=lifter)
    predictor = predictor_of(path)
    scan = in_unit(simulated.scan, 1e-16)
    true_unit = dataclasses.replace(
        scan, patterns=scan.patterns / np.float32(arbitrary_unit(scan.patterns))
    )
    found, expected = whole(predictor, scan), whole(predictor, true_unit)
    np.testing.assert_allclose(found.object, expected.object, atol=1e-4)
    errors = found.reprojection_error.mean(), expected.reprojection_error.mean()
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    patches = predictor.predict(scan.patterns)
    np.testing.assert_allclose(patches, predictor.predict(true_unit.patterns), atol=1e-4)


def test_a_stream_refuses_another_unit_and_takes_the_counts(simulated, tmp_path):
    predictor = predictor_of(saved(simulated.scan, tmp_path / "g.safetensors", lifter="log"))
    scan, ids = in_unit(simulated.scan, 1e-16), np.arange(len(simulated.scan.patterns))
    stream = predictor.stream(simulated.scan.probe, scan.object.shape[-2:])
    with pytest.raises(ValueError, match=r"Divide patterns by 1\.3e-16 and the probe"):
        stream.add(scan.patterns, scan.positions_px, ids)
    assert stream.n_frames == 0
    assert stream.add(simulated.scan.patterns, scan.positions_px, ids) == len(ids)


@pytest.mark.parametrize("unit", UNITS)
def test_the_likelihood_of_held_out_pixels_is_that_of_counts(simulated, unit):
    held_out = hold_out(simulated.scan, 0.1)
    truth = simulated.truth
    of_counts, other = (
        held_out_likelihood(truth.object, truth.probe, truth.positions_px, scan, held_out)
        for scan in (simulated.scan, in_unit(simulated.scan, unit))
    )
    assert other == pytest.approx(of_counts, rel=0.1)


@pytest.mark.parametrize(
    "numbers",
    [
        lambda counts: counts,
        lambda counts: counts * 1000,
        lambda counts: counts * 0.37,
        lambda counts: counts + np.random.default_rng(0).normal(0, 0.1, counts.shape).clip(0),
        lambda counts: counts[:2],
    ],
    ids=["counts", "gain", "a part of a count", "read noise", "two frames"],
)
def test_ordinary_counts_are_left_as_they_are(simulated, numbers):
    assert arbitrary_unit(numbers(simulated.scan.patterns.astype(np.float32))) == 1


def test_what_is_masked_tells_of_no_unit(simulated):
    patterns = 0.37 * simulated.scan.patterns
    valid = np.ones((16, 16), bool)
    patterns[:, :4], valid[:4] = 0.5, False
    assert arbitrary_unit(patterns) == 1  # A gap whose number never changes counts nothing.
    patterns[:, :4] += np.random.default_rng(0).random((len(patterns), 4, 16))
    assert arbitrary_unit(patterns) != 1
    assert arbitrary_unit(patterns, valid) == 1
