"""Hostile arrays and options of a task: one table of what is handed in and of what is said."""

import numpy as np
import pytest

from small_tasks import error_of, make_task, neural_options, object_of

N, SIZE = 36, 16
FORWARD = "reconstructor_options.forward_model_options"


def at_frame_3(value):
    return lambda positions: np.where(np.arange(len(positions)) == 3, value, positions)


def changed(name, function):
    """What a function makes of an array of the task."""
    return lambda arrays: {name: function(arrays[name])}


def given(**arrays):
    return lambda _: arrays


PATTERNS, PROBE, OBJECT = "diffraction_data", "probe_data", "object_data"
X, Y, MASK = "probe_position_x_px", "probe_position_y_px", "valid_pixel_mask"

REFUSED = [
    ("text", changed(PATTERNS, lambda a: a.astype(str)), PATTERNS),
    ("dates", changed(PATTERNS, lambda a: a.astype("M8[s]")), PATTERNS),
    ("no frames", changed(PATTERNS, lambda a: a[:0]), PATTERNS),
    ("no pixels", changed(PATTERNS, lambda a: a[:, :0]), PATTERNS),
    ("no patterns", given(diffraction_data=None), PATTERNS),
    ("a number", given(diffraction_data=5), PATTERNS),
    ("a frame too few", changed(PATTERNS, lambda a: a[:-1]), "positions"),
    ("odd sides", lambda arrays: {k: arrays[k][..., :15, :15] for k in (PATTERNS, PROBE)}, "even"),
    ("1e33 to the count", changed(PATTERNS, lambda a: a * 1e33), "divide them by"),
    ("a position of 1e30", changed(X, at_frame_3(1e30)), X),
    ("an infinite position", changed(X, at_frame_3(np.inf)), X),
    ("complex positions", changed(X, lambda a: a + 0j), "real numbers"),
    ("metres", lambda arrays: {k: arrays[k] * 1e-8 for k in (X, Y)}, "metres"),
    ("one place", lambda arrays: {k: arrays[k] * 0 for k in (X, Y)}, "batching_mode"),
    ("fewer x than y", changed(X, lambda a: a[:-1]), X),
    ("one NaN in the probe", changed(PROBE, lambda a: np.where(a == a.flat[5], np.nan, a)), PROBE),
    ("five axes", changed(PROBE, lambda a: a[None]), PROBE),
    ("half a probe", changed(PROBE, lambda a: a[..., :8]), "probe size"),
    ("no modes", changed(PROBE, lambda a: a[:, :0]), PROBE),
    ("a small object", changed(OBJECT, lambda a: a[:, :10, :10]), "lie outside"),
    ("no slices", changed(OBJECT, lambda a: a[:0]), OBJECT),
    ("NaN in the mask", given(valid_pixel_mask=np.full((SIZE, SIZE), np.nan)), MASK),
    ("half a mask", given(valid_pixel_mask=np.ones((8, SIZE), bool)), MASK),
    ("NaN weights", given(opr_mode_weights_data=np.full((N, 1), np.nan)), "opr_mode_weights_data"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_arrays_that_are_no_scan_are_refused_by_name(six_by_six, change, told):
    with pytest.raises((ValueError, TypeError), match=told):
        make_task(neural_options(), six_by_six.scan, **change(arrays_of(six_by_six.scan)))


TAKEN = [
    ("whole-pixel positions", lambda arrays: {k: np.round(arrays[k]).astype(int) for k in (X, Y)}),
    ("half precision", changed(PATTERNS, lambda a: a.astype("f2"))),
    ("long doubles", changed(PATTERNS, lambda a: a.astype("longdouble"))),
    ("a list", changed(PATTERNS, lambda a: a.tolist())),
    ("every second of a doubled array", changed(PATTERNS, lambda a: np.repeat(a, 2, 0)[::2])),
    ("columns first", changed(PATTERNS, np.asfortranarray)),
    ("minus zero", changed(PATTERNS, lambda a: np.where(a == 0, -0.0, a))),
    ("big-endian probe", changed(PROBE, lambda a: a.astype(">c16"))),
    ("a mask of whole numbers", given(valid_pixel_mask=np.ones((SIZE, SIZE), int))),
]


@pytest.mark.parametrize("change", [c[1] for c in TAKEN], ids=[c[0] for c in TAKEN])
def test_arrays_of_any_kind_give_the_same_object(six_by_six, change):
    options = neural_options()
    options.reconstructor_options.start.n_iterations = 6
    usual, task = (
        make_task(options, six_by_six.scan, **replaced)
        for replaced in ({}, change(arrays_of(six_by_six.scan)))
    )
    for each in (usual, task):
        each.run()
    assert error_of(task, six_by_six) < 1.1 * error_of(usual, six_by_six)


OPTIONS = [
    ("object_options", "slice_spacings_m", [1e-6], "has 1 spacings, an object of 1 slices has 0"),
    (FORWARD, "diffraction_pattern_blur_sigma", 1e9, "blur_sigma: .*0 to 100 pixels"),
    (FORWARD, "diffraction_pattern_blur_sigma", -1.0, "blur_sigma: .*0 to 100 pixels"),
    (FORWARD, "pad_for_shift", 10**6, "pad_for_shift: .*0 to 1024 pixels"),
]


@pytest.mark.parametrize(("group", "name", "value", "told"), OPTIONS)
def test_options_that_no_scan_has_are_refused_by_name(six_by_six, group, name, value, told):
    options = neural_options()
    holder = options
    for part in group.split("."):
        holder = getattr(holder, part)
    setattr(holder, name, value)
    with pytest.raises(ValueError, match=told):
        make_task(options, six_by_six.scan)


@pytest.mark.parametrize("n_epochs", [-2, 1.5, "two", np.nan])
def test_numbers_of_epochs_that_are_none_are_refused_and_the_task_goes_on(six_by_six, n_epochs):
    task = make_task(neural_options(), six_by_six.scan)
    with pytest.raises(ValueError, match=r"n_epochs is .*; give a whole number of epochs"):
        task.run(n_epochs)
    task.run(np.int64(1))
    assert np.isfinite(object_of(task)).all()


def arrays_of(scan):
    return {
        PATTERNS: scan.patterns,
        OBJECT: scan.object,
        PROBE: scan.probe,
        X: scan.positions_px[:, 1],
        Y: scan.positions_px[:, 0],
    }
