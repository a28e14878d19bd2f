"""Networks that work faster: what they predict, and what is left out."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ptychi_neural.prediction import acceleration
from ptychi_neural.prediction.acceleration import Accelerations, accelerate
from trained_generators import predictor_of, saved, whole

KINDS = {
    "cnn": {"architecture": "cnn", "lifter": "log"},
    "hybrid_uno": {"lifter": "log"},
    "unrolled": {"architecture": "unrolled"},
}


@pytest.fixture
def whatever_the_time(monkeypatch):
    """Let each acceleration seem to be faster."""
    seconds = iter(range(100, 0, -1))

    def timed(run):
        run()
        return next(seconds)

    monkeypatch.setattr(acceleration, "_seconds", timed)


@pytest.mark.usefixtures("whatever_the_time")
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_predicts_the_same_object_to_some_hundredths_of_its_contrast(
    kind, jittered, tmp_path
):
    """Small networks of six seeds came to 0.004 to 0.021, twice, with `cnn`."""
    predictor = predictor_of(saved(jittered, tmp_path / "g.safetensors", 20, **KINDS[kind]))
    expected = whole(predictor, jittered)
    assert np.abs(expected.object - 1).max() > 0.1
    shape = expected.object.shape[-2:]
    assert predictor.accelerate(expected.probe, shape, ["bfloat16"]) == ["bfloat16"]
    found = whole(predictor, jittered)
    difference = np.linalg.norm(found.object - expected.object)
    assert 0 < difference < 0.03 * np.linalg.norm(expected.object - 1)
    assert found.object.dtype == np.complex64
    stream = predictor.stream(expected.probe, shape)
    stream.add(jittered.patterns, jittered.positions_px, np.arange(36))
    np.testing.assert_array_equal(stream.current().object, found.object)
    predictor.accelerate(expected.probe, shape, [])
    np.testing.assert_array_equal(whole(predictor, jittered).object, expected.object)


def test_what_is_no_faster_or_fails_is_left_out_with_one_warning(monkeypatch):
    network = nn.Conv2d(1, 1, 3)
    features = torch.rand(2, 1, 8, 8)
    expected = network(features)
    times = iter([3.0, 4.0])

    def timed(run):
        run()
        return next(times)

    def failing(forward):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(acceleration, "_seconds", timed)
    monkeypatch.setattr(torch, "compile", failing)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert accelerate([network], lambda: network(features), [*Accelerations]) == []
    (warning,) = told
    assert "left out bfloat16, which is no faster and compile, which fails (no compiler)" in str(
        warning.message
    )
    torch.testing.assert_close(network(features), expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("whatever_the_time")
def test_compiled_networks_predict_the_same_object(jittered, tmp_path):
    predictor = predictor_of(saved(jittered, tmp_path / "g.safetensors", 20, **KINDS["cnn"]))
    expected = whole(predictor, jittered)
    shape = expected.object.shape[-2:]
    assert predictor.accelerate(expected.probe, shape, ["compile"]) == ["compile"]
    np.testing.assert_allclose(whole(predictor, jittered).object, expected.object, atol=1e-5)
