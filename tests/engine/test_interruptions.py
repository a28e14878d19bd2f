"""Bad input, losses that are not finite, and runs that are interrupted."""

import numpy as np
import pytest
import torch

from small_tasks import error_of, make_task, neural_options, object_of


def test_bad_pixels_are_masked_with_one_warning_that_counts_them(simulated, caplog):
    patterns = simulated.scan.patterns.astype(float)
    patterns[3, 0, 1] = np.nan
    patterns[5, 2, 2] = -4
    with caplog.at_level("WARNING", logger="ptychi_neural"):
        task = make_task(neural_options(), simulated.scan, diffraction_data=patterns)
    assert [r.message for r in caplog.records if "masked 2 pixels" in r.message]
    assert int((~task.dataset.valid_pixel_mask).sum()) == 2
    task.run(1)
    assert np.isfinite(object_of(task)).all()


def test_what_a_masked_pixel_counts_does_not_matter(simulated):
    mask = np.ones((16, 16), bool)
    mask[4, 5] = False
    objects = []
    for counts in (0, 60000):
        patterns = simulated.scan.patterns.astype(float)
        patterns[:, 4, 5] = np.arange(len(patterns)) * counts
        task = make_task(
            neural_options(), simulated.scan, diffraction_data=patterns, valid_pixel_mask=mask
        )
        task.run(2)
        objects.append(object_of(task))
    np.testing.assert_array_equal(*objects)


@pytest.mark.parametrize(
    ("name", "spoil", "named"),
    [
        ("diffraction_data", lambda a: np.log(a), "diffraction_data"),
        ("diffraction_data", lambda a: 0 * a, "no frame holds a count"),
        ("probe_data", lambda a: 0 * a, "carries no light"),
        ("probe_data", lambda a: np.full_like(a, np.nan), "probe"),
        ("object_data", lambda a: a * np.inf, "object"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input_is_refused_by_name(simulated, name, spoil, named):
    scan = simulated.scan
    data = {
        "diffraction_data": scan.patterns.astype(float),
        "probe_data": scan.probe,
        "object_data": scan.object,
    }
    with pytest.raises(ValueError, match=named):
        make_task(neural_options(), scan, **{name: spoil(data[name])})


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_finite_state(simulated):
    options = neural_options()
    task = make_task(options, simulated.scan)
    task.run(1)
    task.reconstructor.fit_loss = lambda predicted, *others: predicted.sum() * torch.nan
    with pytest.raises(FloatingPointError, match="epoch 1, batch 0"):
        task.run(1)
    assert np.isfinite(object_of(task)).all()


def test_a_start_that_is_interrupted_keeps_its_work(simulated):
    options = neural_options()
    options.reconstructor_options.start.n_iterations = 1000
    task = make_task(options, simulated.scan)
    calls = []

    def interrupt_after_20_iterations():
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt

    task.reconstructor.run_post_update_hooks = interrupt_after_20_iterations
    with pytest.raises(KeyboardInterrupt):
        task.run(10)
    assert error_of(task, simulated) < 0.3


def test_an_interrupted_run_keeps_its_work_and_can_go_on(simulated):
    task = make_task(neural_options(), simulated.scan)
    reconstructor = task.reconstructor
    hook = reconstructor.run_pre_epoch_hooks

    def interrupt_in_epoch_3():
        if reconstructor.current_epoch == 3:
            raise KeyboardInterrupt
        hook()

    reconstructor.run_pre_epoch_hooks = interrupt_in_epoch_3
    empty = error_of(task, simulated)
    with pytest.raises(KeyboardInterrupt):
        task.run(10)
    assert error_of(task, simulated) < empty
    reconstructor.run_pre_epoch_hooks = hook
    task.run(1)
    assert len(reconstructor.loss_tracker.table) == 4
