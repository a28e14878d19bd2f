"""Prediction of frames as they arrive."""

import dataclasses
import gc

import numpy as np
import pytest
import torch

from trained_generators import (
    cut,
    options_of,
    predictor_of,
    saved,
    streamed,
    whole,
)


@pytest.mark.parametrize("kind", ["log", "backprojection", "unrolled"])
def test_a_stream_in_any_order_gives_the_object_of_the_whole_scan(kind, jittered, tmp_path):
    chosen = {"architecture": "unrolled"} if kind == "unrolled" else {"lifter": kind}
    predictor = predictor_of(saved(jittered, tmp_path / "g.safetensors", **chosen))
    expected = whole(predictor, jittered)
    shuffled = np.random.default_rng(0).permutation(36)
    for batches in ([range(36)], [shuffled[:5], shuffled[5:30], shuffled[30:]]):
        current, n_new = streamed(predictor, jittered, expected.probe, [list(b) for b in batches])
        assert sum(n_new) == 36
        np.testing.assert_allclose(current.object, expected.object, atol=1e-5)
        np.testing.assert_allclose(current.weight, expected.weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            current.standard_deviation, expected.standard_deviation, atol=1e-5
        )
    last = batches[-1][-len(current.reprojection_error) :]
    np.testing.assert_allclose(
        current.reprojection_error, expected.reprojection_error[last], rtol=1e-3
    )


def test_known_frames_are_skipped_and_gaps_stay_empty(one_shot, scan):
    predictor = predictor_of(one_shot)
    once, _ = streamed(predictor, scan, scan.probe, [[0, 1, 2], [7, 30]])
    again, n_new = streamed(predictor, scan, scan.probe, [[0, 1, 1, 0, 2], [2, 7, 0], [30, 7]])
    assert n_new == [3, 1, 1]
    np.testing.assert_allclose(again.object, once.object, atol=1e-6)
    np.testing.assert_allclose(again.weight, once.weight, rtol=1e-6)
    all_of_them, _ = streamed(predictor, scan, scan.probe, [list(range(36))])
    missed = (once.weight == 0) & (all_of_them.weight > 0.5)
    assert missed.any()
    np.testing.assert_array_equal(once.object[0][missed], 1)


def tensors_in_memory():
    gc.collect()
    return sum(o.nbytes for o in gc.get_objects() if type(o) is torch.Tensor)


def test_memory_does_not_grow_with_the_frames(one_shot, scan):
    stream = predictor_of(one_shot).stream(scan.probe, scan.object.shape[-2:], batch_size=12)
    sizes = []
    for repeat in range(4):
        stream.add(scan.patterns, scan.positions_px, np.arange(36) + 36 * repeat)
        stream.current()
        sizes.append(tensors_in_memory())
    assert stream.n_frames == 144
    assert len(set(sizes[1:])) == 1


def test_frames_outside_the_canvas_are_refused_and_nothing_is_taken_in(one_shot, scan):
    stream = predictor_of(one_shot).stream(scan.probe, scan.object.shape[-2:])
    with pytest.raises(ValueError, match="No frame has arrived"):
        stream.current()
    positions = scan.positions_px[:2] + np.array([[0, 0], [0, 100]])
    with pytest.raises(ValueError, match=r"frame 8 .* outside the canvas"):
        stream.add(scan.patterns[:2], positions, [7, 8])
    with pytest.raises(ValueError, match=r"must have the shape \(n, 16, 16\)"):
        stream.add(scan.patterns[:2, :8], scan.positions_px[:2], [7, 8])
    with pytest.raises(ValueError, match="integer frame_ids"):
        stream.add(scan.patterns[:2], scan.positions_px[:2], [7])
    assert stream.n_frames == 0


def test_generators_that_need_all_frames_at_once_do_not_stream(scan, tmp_path):
    iterating = options_of(architecture="unrolled")
    iterating.reconstructor_options.generator.unrolled.n_iterations = 2
    projecting = options_of(architecture="unrolled")
    projecting.reconstructor_options.start.n_iterations = 3
    for name, options, reason in (
        ("iterating", iterating, "2 iterations"),
        ("projecting", projecting, "projections of all frames"),
        ("grouping", options_of(grid_size=2), "grid_size = 2"),
    ):
        predictor = predictor_of(saved(scan, tmp_path / name, epochs=1, options=options))
        with pytest.raises(ValueError, match=f"{reason}.* Use reconstruct"):
            predictor.stream(scan.probe, scan.object.shape[-2:])
        assert np.isfinite(whole(predictor, scan).object).all()


def test_the_reprojection_error_is_that_of_the_amplitudes(one_shot, scan):
    current, _ = streamed(predictor_of(one_shot), scan, scan.probe, [list(range(36))])
    rows = slice(32, 36)  # the last batch of 8 holds four
    expected = []
    for pattern, position in zip(scan.patterns[rows], scan.positions_px[rows]):
        patch = cut(current.object[0], position)
        far = np.fft.fftshift(np.fft.fft2(scan.probe[0] * patch), axes=(-2, -1))
        predicted, measured = (np.abs(far) ** 2).sum(0), pattern.astype(float)
        difference = ((np.sqrt(predicted) - np.sqrt(measured)) ** 2).sum()
        expected.append(np.sqrt(difference / measured.sum()))
    np.testing.assert_allclose(current.reprojection_error, expected, rtol=1e-4)


def test_frames_without_counts_have_no_part_in_the_mean_error(one_shot, scan):
    current, _ = streamed(predictor_of(one_shot), scan, scan.probe, [list(range(36))])
    errors = current.reprojection_error
    assert current.mean_reprojection_error == errors.mean()
    some = dataclasses.replace(current, reprojection_error=np.append(errors, np.inf))
    none = dataclasses.replace(current, reprojection_error=np.array([np.inf]))
    assert some.mean_reprojection_error == pytest.approx(errors.mean())
    assert np.isnan(none.mean_reprojection_error)
    with pytest.raises(FloatingPointError, match="predicts NaN"):
        dataclasses.replace(current, reprojection_error=np.append(errors, np.nan))


def test_frames_of_another_object_show_in_the_reprojection_error(unrolled, scan):
    predictor = predictor_of(unrolled)
    stream = predictor.stream(whole(predictor, scan).probe, scan.object.shape[-2:])
    stream.add(scan.patterns, scan.positions_px, np.arange(36))
    trusted = stream.current().reprojection_error
    foreign = scan.patterns[::-1].transpose(0, 2, 1)[:9]
    stream.add(foreign, scan.positions_px[:9], np.arange(100, 109))
    assert stream.current().reprojection_error.mean() > 1.5 * trusted.mean()


def test_defects_of_arriving_frames_are_masked_and_told(one_shot, scan):
    predictor = predictor_of(one_shot)
    patterns = scan.patterns.astype(np.float32)
    bad = patterns.copy()
    bad[:, 3, 5] = 2.0**32 - 2
    bad[4] = np.nan
    others = np.delete(np.arange(36), 4)
    valid = np.ones((16, 16), bool)
    valid[3, 5] = False
    clean = predictor.stream(scan.probe, scan.object.shape[-2:], valid_pixel_mask=valid)
    assert clean.add(patterns[others] * valid, scan.positions_px[others], others) == 35
    stream = predictor.stream(scan.probe, scan.object.shape[-2:])
    with pytest.warns(UserWarning, match=r"masked 1 pixel .* at \(3, 5\), dropped 1 .*frame: 4"):
        assert stream.add(bad, scan.positions_px, np.arange(36)) == 35
    np.testing.assert_array_equal(stream.valid_pixel_mask, valid)
    assert stream.n_frames == 35
    np.testing.assert_allclose(stream.current().object, clean.current().object, atol=1e-6)


def test_a_frame_that_later_ones_show_to_be_odd_is_told(one_shot, scan):
    stream = predictor_of(one_shot).stream(scan.probe, scan.object.shape[-2:])
    patterns = scan.patterns.astype(np.float32)
    patterns[1] *= 1000
    stream.add(patterns[:2], scan.positions_px[:2], [0, 1])
    with pytest.warns(UserWarning, match="came earlier were taken in"):
        stream.add(patterns[2:], scan.positions_px[2:], np.arange(2, 36))
