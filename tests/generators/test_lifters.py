"""Lifters: what a one-shot generator sees of a pattern."""

import numpy as np
import pytest
import torch
from torch import nn

from ptychi_neural.generators import build_generator
from ptychi_neural.options.choices import Lifters
from small_generators import SMALL, fitted, options_for, simulated_patterns


class TestLifters:
    @pytest.mark.parametrize("lifter", [Lifters.CNN, Lifters.STANDARDIZED])
    def test_missing_statistics_are_an_error_that_names_the_remedy(self, lifter):
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        with pytest.raises(RuntimeError, match="fit_normalization"):
            generator.factors(torch.ones(1, 1, *SMALL))

    def test_missing_statistics_stay_missing_when_loaded(self):
        generator = build_generator(options_for(), 1, SMALL)
        generator.load_tensors(build_generator(options_for(), 1, SMALL).tensors())
        with pytest.raises(RuntimeError, match="fit_normalization"):
            generator.factors(torch.ones(1, 1, *SMALL))

    def test_standardised_pixels_have_mean_zero_and_deviation_one(self):
        patterns = simulated_patterns(SMALL, n=50)
        generator = build_generator(options_for(), 1, SMALL)
        generator.fit_lifter(batch[:, 0] for batch in patterns.split(7))
        logs = np.log1p(patterns.numpy().astype(np.float64))
        expected = (logs - logs.mean(axis=0)) / logs.std(axis=0)
        np.testing.assert_allclose(generator.lifter.normalize(patterns), expected, atol=1e-4)

    def test_dead_and_constant_pixels_are_zero(self):
        patterns = simulated_patterns(SMALL, n=20)
        patterns[..., 3, 4], patterns[..., 5, 6] = 0, 1e6
        lifter = fitted(options_for(), patterns).lifter
        patterns[0, 0, 3, 4] = 50
        normalized = lifter.normalize(patterns)
        assert torch.isfinite(normalized).all()
        assert (normalized[..., 3, 4] == 0).all()
        assert (normalized[..., 5, 6] == 0).all()

    def test_identical_patterns_standardise_to_zero(self):
        patterns = simulated_patterns(SMALL, n=1).expand(5, -1, -1, -1)
        lifter = fitted(options_for(), patterns).lifter
        assert lifter.normalize(patterns).abs().max() == 0

    def test_patterns_of_another_size_than_the_statistics_are_refused(self):
        generator = fitted(options_for(), simulated_patterns(SMALL))
        with pytest.raises(ValueError, match=r"32, 32.*16, 16"):
            generator.factors(simulated_patterns((32, 32)))

    def test_non_finite_patterns_are_refused(self):
        patterns = simulated_patterns(SMALL)
        patterns[1, 0, 2, 2] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            fitted(options_for(), patterns)

    @pytest.mark.parametrize("lifter", [Lifters.CNN, Lifters.STANDARDIZED])
    def test_a_scan_without_frames_is_refused(self, lifter):
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        with pytest.raises(ValueError, match=r"No patterns|empty"):
            generator.fit_lifter([])

    @pytest.mark.parametrize(
        ("lifter", "transform"), [(Lifters.LOG, np.log1p), (Lifters.SQRT, np.sqrt)]
    )
    def test_per_pattern_lifters_standardise_each_pattern(self, lifter, transform):
        patterns = simulated_patterns(SMALL, n=3)
        values = transform(patterns.numpy().astype(np.float64))
        mean, deviation = (f(values, axis=(-2, -1), keepdims=True) for f in (np.mean, np.std))
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        np.testing.assert_allclose(
            generator.lifter.normalize(patterns), (values - mean) / deviation, atol=1e-4
        )

    @pytest.mark.parametrize("lifter", [Lifters.LOG, Lifters.SQRT])
    def test_an_empty_frame_gives_zeros(self, lifter):
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        assert generator.lifter.normalize(torch.zeros(1, 1, *SMALL)).abs().max() == 0
        assert torch.isfinite(
            torch.view_as_real(generator.factors(torch.zeros(1, 1, *SMALL)))
        ).all()

    def test_cnn_lifter_sees_amplitudes_over_their_root_mean_square(self):
        patterns = simulated_patterns(SMALL, n=20)
        lifter = build_generator(options_for(lifter=Lifters.CNN), 1, SMALL).lifter
        lifter.fit(patterns[:, 0].split(6))
        counts = patterns.numpy().astype(np.float64)
        expected = np.sqrt(counts / counts.mean())
        np.testing.assert_allclose(lifter.normalize(patterns), expected, rtol=1e-5)

    def test_backprojection_lifter_takes_real_and_imaginary_channels(self):
        features = 5 * torch.randn(3, 4, 2, *SMALL, dtype=torch.complex64)
        options = options_for(lifter=Lifters.BACKPROJECTION, grid_size=2)
        generator = build_generator(options, 2, SMALL)
        generator.fit_lifter([features[:, 0], features[:, 1:]])
        channels = generator.lifter.normalize(features)
        assert channels.shape == (3, 16, *SMALL)
        root_mean_square = np.sqrt(np.mean(np.abs(features.numpy()) ** 2) / 2)
        np.testing.assert_allclose(
            channels[:, 8 + 3], features[:, 1, 1].imag / root_mean_square, rtol=1e-5
        )
        assert generator.factors(features).shape == (3, 4, 2, *SMALL)

    def test_backprojection_lifter_refuses_patterns(self):
        generator = build_generator(options_for(lifter=Lifters.BACKPROJECTION), 1, SMALL)
        with pytest.raises(ValueError, match=r"\(B, 1, 1, H, W\)"):
            generator.factors(torch.ones(2, 1, *SMALL))

    def test_shallow_cnn_is_two_3x3_convolutions_and_else_one_1x1(self):
        kernels = {}
        for shallow in (True, False):
            options = options_for(lifter=Lifters.LOG, shallow_cnn=shallow, width=6)
            layers = build_generator(options, 1, SMALL).lifter.modules()
            kernels[shallow] = [
                tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Conv2d)
            ]
        assert kernels == {True: [(6, 1, 3, 3), (6, 6, 3, 3)], False: [(6, 1, 1, 1)]}

    def test_cnn_lifter_without_its_cnn_is_refused(self):
        with pytest.raises(ValueError, match=r"generator.shallow_cnn"):
            build_generator(options_for(lifter=Lifters.CNN, shallow_cnn=False), 1, SMALL)
