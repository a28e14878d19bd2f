"""Generators and frames of another size than those of their training."""

import dataclasses

import numpy as np
import pytest

from resampled_scan import RESIZABLE, relative_error, resampled, resampled_task
from trained_generators import SPECTRAL, options_of, predictor_of, saved


@pytest.mark.parametrize(
    ("chosen", "pixel"),
    [
        pytest.param(SPECTRAL, 0.5, id="spectral at twice the resolution"),
        pytest.param({"architecture": "unrolled"}, 1.0, id="unrolled with twice the field of view"),
        *(
            pytest.param(chosen, 0.5, id=chosen["architecture"], marks=pytest.mark.slow)
            for chosen in RESIZABLE
        ),
    ],
)
def test_frames_of_twice_the_size_are_predicted_with_an_error_of_the_same_size(
    chosen, pixel, tmp_path
):
    task = resampled_task(options_of(**chosen), 16)
    task.run(20)
    task.reconstructor.save_generator(tmp_path / "g.safetensors")
    predictor = predictor_of(tmp_path / "g.safetensors")
    errors = []
    for n, pixel_of_frame in ((16, 1.0), (32, pixel)):
        patterns, positions, probe, truth = resampled(n, pixel_of_frame)
        predicted = predictor.reconstruct(patterns, positions, probe, truth.shape)
        errors.append(relative_error(predicted, truth))
    empty = dataclasses.replace(predicted, object=np.ones_like(predicted.object))
    assert errors[0] < 0.6 * relative_error(empty, truth)
    assert errors[1] < 1.1 * errors[0]


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"architecture": "cnn", "lifter": "backprojection"}, "its convolutions"),
        ({"architecture": "hybrid_uno", "lifter": "backprojection"}, "its convolutions"),
        ({"architecture": "cascaded"}, "reciprocal"),
        (SPECTRAL | {"block": "ptycho"}, "3x3 convolutions"),
        (SPECTRAL | {"architecture": "fno", "block": "ptycho"}, "its convolutions"),
        (SPECTRAL | {"architecture": "u_fno"}, "its convolutions"),
    ],
)
def test_generators_that_are_bound_to_their_frame_size_say_why(chosen, reason, scan, tmp_path):
    predictor = predictor_of(saved(scan, tmp_path / "g.safetensors", epochs=1, **chosen))
    patterns, positions, probe, truth = resampled(32)
    with pytest.raises(
        ValueError, match=f"16 x 16 pixels and cannot work with 32 x 32: .*{reason}"
    ):
        predictor.reconstruct(patterns, positions, probe, truth.shape)


def test_a_generator_fitted_further_at_another_size_is_saved_and_loaded_again(tmp_path):
    path = tmp_path / "first.safetensors"
    for n, name in ((16, "first"), (32, "second")):
        options = options_of(**SPECTRAL, checkpoint=None if n == 16 else str(path))
        task = resampled_task(options, n)
        task.run(1)
        task.reconstructor.save_generator(tmp_path / f"{name}.safetensors")
    patterns, positions, probe, truth = resampled(32)
    predicted = predictor_of(tmp_path / "second.safetensors").reconstruct(
        patterns, positions, probe, truth.shape
    )
    assert np.isfinite(predicted.object).all()
