"""Generators and frames of another size than those of their training."""

import dataclasses

import numpy as np
import pytest
from ptychi.api.task import PtychographyTask

from trained_generators import SPECTRAL, options_of, predictor_of, saved

NO_BLOCK = {name: value for name, value in SPECTRAL.items() if name != "block"}
RESIZABLE = [
    SPECTRAL | {"architecture": "fno"},
    NO_BLOCK | {"architecture": "ffno"},
    NO_BLOCK | {"architecture": "uno"},
]
"""Operators without convolutions of more than one pixel."""


def resampled(n, pixel=None):
    """36 noise-free frames of n x n of the same object, illuminated by the same probe, with
    object pixels of 16 / n unless said."""
    pixel = pixel or 16 / n
    size = round(24 / pixel) + n
    y, x = (np.indices((size, size)) - (size - 1) / 2) * pixel
    phase = 0.6 * np.sin(2 * np.pi * y / 9 + 0.4) * np.cos(2 * np.pi * x / 11)
    object_ = (1 - 0.1 * np.cos(2 * np.pi * (x + y) / 13)) * np.exp(1j * phase)
    v, u = (np.indices((n, n)) - (n - 1) / 2) * pixel
    probe = np.exp(-(u**2 + v**2) / 2 / 3.0**2 + 0.03j * (u**2 + v**2))
    probe *= np.sqrt(1e5 / (np.abs(probe) ** 2).sum()) / n
    steps = 2 * np.arange(6) - 5
    positions = np.array([(a, b) for a in steps for b in steps]) / pixel
    patterns = []
    for position in positions:
        top, left = np.round(size / 2 + position - n / 2).astype(int)
        patch = object_[top : top + n, left : left + n]
        patterns.append(np.abs(np.fft.fftshift(np.fft.fft2(probe * patch))) ** 2)
    return np.array(patterns), positions, probe[None, None], object_


def resampled_task(options, n):
    patterns, positions, probe, truth = resampled(n)
    return PtychographyTask(
        options,
        diffraction_data=patterns,
        object_data=np.ones((1, *truth.shape), complex),
        probe_data=probe,
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )


def relative_error(predicted, truth):
    weight = predicted.weight > 0.3 * predicted.weight.max()
    ours, theirs = predicted.object[0][weight], truth[weight]
    ours = ours * np.vdot(ours, theirs) / np.vdot(ours, ours)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


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
