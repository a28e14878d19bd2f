"""Generators: every architecture, lifter and head is a map from patterns to patches that trains."""

import copy
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from ptychi_neural.options.options import (
    CascadedOptions,
    CNNOptions,
    GeneratorOptions,
    HybridUNOOptions,
)
from torch import Tensor, nn

from ptychi_neural.generators import Generator, build_generator
from ptychi_neural.generators.architectures.hybrid_uno import HybridUNO
from ptychi_neural.generators.blocks import BLOCKS, SpectralConv2d, modes_per_level
from ptychi_neural.generators.heads import AmplitudePhaseHead, RealImaginaryHead, build_head
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options.choices import (
    Architectures,
    Blocks,
    CascadeLinks,
    Downsamplings,
    Fusions,
    Heads,
    Lifters,
    Upsamplings,
)

ARCHITECTURES = [Architectures.CASCADED, Architectures.HYBRID_UNO, Architectures.CNN]
PATTERN_LIFTERS = [lifter for lifter in Lifters if lifter is not Lifters.BACKPROJECTION]
SMALL = (16, 16)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def simulated_patterns(shape: tuple[int, int], n: int = 4, group: int = 1) -> Tensor:
    """Peaked Poisson counts, brightest in the middle, as far-field patterns are."""
    rows, columns = (torch.arange(size) - size // 2 for size in shape)
    radius = torch.hypot(rows[:, None] / shape[0], columns[None] / shape[1])
    mean = 2000 * torch.exp(-200 * radius**2) + 20 * torch.exp(-8 * radius)
    return torch.poisson(mean * (0.5 + torch.rand(n, group, *shape)))


def options_for(architecture: Architectures = Architectures.HYBRID_UNO, **changes: object):
    return GeneratorOptions(**{"architecture": architecture, "width": 8, **changes})


def fitted(options: GeneratorOptions, patterns: Tensor, n_slices: int = 1) -> Generator:
    generator = build_generator(options, n_slices, tuple(patterns.shape[-2:]))
    generator.fit_normalization([patterns.flatten(0, 1)])
    return generator


def n_parameters(generator: nn.Module) -> int:
    return sum(parameter.numel() for parameter in generator.parameters())


def perturb_outputs(generator: nn.Module) -> None:
    """Leave the special starting point, at which some derivatives vanish."""
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "output" in name or "log_excess" in name or "decoder" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


class TestEveryArchitecture:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("shape", [(16, 16), (30, 46), (34, 34), (64, 64), (128, 96)])
    def test_patches_have_the_shape_of_the_patterns_and_start_empty(self, architecture, shape):
        patterns = simulated_patterns(shape)
        patches = fitted(options_for(architecture), patterns)(patterns)
        assert patches.shape == (4, 1, 1, *shape)
        assert patches.dtype == torch.complex64
        assert (patches - 1).abs().max() < 0.05

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("lifter", PATTERN_LIFTERS)
    @pytest.mark.parametrize("head", Heads)
    def test_untrained_prediction_is_empty_but_depends_on_the_pattern(
        self, architecture, lifter, head
    ):
        patterns = simulated_patterns((32, 32))
        generator = fitted(options_for(architecture, lifter=lifter, head=head, width=16), patterns)
        patches = generator(patterns)
        assert (patches - 1).abs().max() < 0.05
        assert (patches[0] - patches[1]).abs().max() > 1e-6

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("head", Heads)
    def test_groups_and_slices_are_axes_of_the_output(self, architecture, head):
        patterns = simulated_patterns(SMALL, n=3, group=4)
        generator = fitted(options_for(architecture, grid_size=2, head=head), patterns, n_slices=2)
        assert generator(patterns).shape == (3, 4, 2, *SMALL)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("head", Heads)
    @pytest.mark.parametrize("block", Blocks)
    def test_gradients_reach_every_parameter(self, architecture, head, block):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture, head=head, block=block), patterns)
        perturb_outputs(generator)
        patches = generator(patterns)
        (patches - torch.randn_like(patches)).abs().square().sum().backward()
        without = [
            name
            for name, parameter in generator.named_parameters()
            if parameter.grad is None or parameter.grad.abs().max() == 0
        ]
        assert without == []

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_a_small_mapping_is_learned(self, architecture):
        patterns = simulated_patterns(SMALL, n=4)
        phase = nn.functional.interpolate(torch.rand(4, 1, 4, 4), SMALL, mode="bicubic")
        target = torch.polar(1 - 0.3 * phase, 2 * phase)[:, :, None]
        generator = fitted(options_for(architecture), patterns)
        optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
        losses = []
        for _ in range(100):
            optimizer.zero_grad()
            loss = (generator(patterns) - target).abs().square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if losses[-1] < losses[0] / 5:
                break
        assert losses[-1] < losses[0] / 5

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_half_precision_autocast_stays_finite_and_close(self, architecture):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture), patterns)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            patches = generator(patterns)
        assert patches.dtype == torch.complex64
        torch.testing.assert_close(patches, generator(patterns), atol=5e-3, rtol=0)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("convert", [lambda g: g.double(), lambda g: g.to(torch.float64)])
    def test_double_precision_gives_the_same_patches_to_single_precision(
        self, architecture, convert
    ):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture), patterns)
        perturb_outputs(generator)
        double = convert(copy.deepcopy(generator))(patterns.double())
        assert double.dtype == torch.complex128
        torch.testing.assert_close(double.to(torch.complex64), generator(patterns))

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_saved_tensors_restore_bit_identical_predictions(self, architecture, tmp_path):
        patterns = simulated_patterns(SMALL)
        options = options_for(architecture)
        generator = fitted(options, patterns)
        path = tmp_path / "generator.safetensors"
        safetensors.torch.save_file(generator.tensors(), path)
        restored = build_generator(options, 1, SMALL)
        restored.load_tensors(safetensors.torch.load_file(path))
        assert torch.equal(restored(patterns), generator(patterns))

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_depth_that_leaves_less_than_two_pixels_is_refused(self, architecture):
        too_deep = {
            Architectures.CASCADED: {"cascaded": CascadedOptions(refiner_depth=4)},
            Architectures.HYBRID_UNO: {"hybrid_uno": HybridUNOOptions(depth=4)},
            Architectures.CNN: {"cnn": CNNOptions(depth=4)},
        }[architecture]
        with pytest.raises(ValueError, match=r"depth = 4 .* at most 3"):
            build_generator(options_for(architecture, **too_deep), 1, SMALL)


class TestGenerator:
    def test_odd_patterns_are_refused(self):
        with pytest.raises(ValueError, match="even sides, got 31 x 32"):
            build_generator(options_for(), 1, (31, 32))

    @pytest.mark.parametrize("shape", [(2, 4, *SMALL), (2, *SMALL), (2, 1, 15, 16)])
    def test_input_of_another_shape_is_refused(self, shape):
        generator = build_generator(options_for(lifter=Lifters.LOG), 1, SMALL)
        with pytest.raises(ValueError, match=r"expects an input of \(B, 1, H, W\)|even sides"):
            generator(torch.ones(shape))

    def test_weights_of_other_options_are_refused(self):
        saved = build_generator(options_for(width=4), 1, SMALL).tensors()
        with pytest.raises(ValueError, match="do not fit a generator of these options"):
            build_generator(options_for(), 1, SMALL).load_tensors(saved)

    def test_only_a_cascade_has_a_rough_object(self):
        generator = build_generator(options_for(lifter=Lifters.LOG), 1, SMALL)
        with pytest.raises(ValueError, match="Only the cascade"):
            generator.forward_with_rough(torch.ones(1, 1, *SMALL))

    def test_deterministic_under_a_seed(self):
        patterns = simulated_patterns(SMALL)
        predictions = []
        for _ in range(2):
            torch.manual_seed(7)
            predictions.append(fitted(options_for(), patterns)(patterns))
        assert torch.equal(*predictions)


class TestLifters:
    @pytest.mark.parametrize("lifter", [Lifters.CNN, Lifters.STANDARDIZED])
    def test_missing_statistics_are_an_error_that_names_the_remedy(self, lifter):
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        with pytest.raises(RuntimeError, match="fit_normalization"):
            generator(torch.ones(1, 1, *SMALL))

    def test_missing_statistics_stay_missing_when_loaded(self):
        generator = build_generator(options_for(), 1, SMALL)
        generator.load_tensors(build_generator(options_for(), 1, SMALL).tensors())
        with pytest.raises(RuntimeError, match="fit_normalization"):
            generator(torch.ones(1, 1, *SMALL))

    def test_standardised_pixels_have_mean_zero_and_deviation_one(self):
        patterns = simulated_patterns(SMALL, n=50)
        generator = build_generator(options_for(), 1, SMALL)
        generator.fit_normalization(batch[:, 0] for batch in patterns.split(7))
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
            generator(simulated_patterns((32, 32)))

    def test_non_finite_patterns_are_refused(self):
        patterns = simulated_patterns(SMALL)
        patterns[1, 0, 2, 2] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            fitted(options_for(), patterns)

    @pytest.mark.parametrize("lifter", [Lifters.CNN, Lifters.STANDARDIZED])
    def test_a_scan_without_frames_is_refused(self, lifter):
        generator = build_generator(options_for(lifter=lifter), 1, SMALL)
        with pytest.raises(ValueError, match=r"No patterns|empty"):
            generator.fit_normalization([])

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
        assert torch.isfinite(torch.view_as_real(generator(torch.zeros(1, 1, *SMALL)))).all()

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
        generator.fit_normalization([features[:, 0], features[:, 1:]])
        channels = generator.lifter.normalize(features)
        assert channels.shape == (3, 16, *SMALL)
        root_mean_square = np.sqrt(np.mean(np.abs(features.numpy()) ** 2) / 2)
        np.testing.assert_allclose(
            channels[:, 8 + 3], features[:, 1, 1].imag / root_mean_square, rtol=1e-5
        )
        assert generator(features).shape == (3, 4, 2, *SMALL)

    def test_backprojection_lifter_refuses_patterns(self):
        generator = build_generator(options_for(lifter=Lifters.BACKPROJECTION), 1, SMALL)
        with pytest.raises(ValueError, match=r"\(B, 1, 1, H, W\)"):
            generator(torch.ones(2, 1, *SMALL))

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


class TestSpectralLayer:
    @pytest.mark.parametrize(
        ("shape", "n_modes"), [((12, 16), (6, 8)), ((12, 16), (5, 7)), ((8, 10), (8, 10))]
    )
    def test_it_multiplies_both_quadrants_of_the_spectrum(self, shape, n_modes):
        layer = SpectralConv2d(3, n_modes).to(torch.float64)
        x = torch.randn(2, 3, *shape, dtype=torch.float64)
        weight = layer.weight.tensor.detach().numpy()
        spectrum, filtered = np.fft.rfft2(x.numpy()), np.zeros((2, 3, shape[0], shape[1] // 2 + 1))
        filtered = filtered.astype(complex)
        for row in range(n_modes[0]):
            frequency = row - n_modes[0] // 2  # negative ones wrap to the end of the axis
            for column in range(n_modes[1] // 2 + 1):
                filtered[:, :, frequency, column] = np.einsum(
                    "bi,io->bo", spectrum[:, :, frequency, column], weight[:, :, row, column]
                )
        oracle = np.fft.irfft2(filtered, s=shape)
        np.testing.assert_allclose(layer(x).detach(), oracle, atol=1e-12)

    def test_an_odd_number_of_rows_is_refused(self):
        with pytest.raises(ValueError, match="even number of rows, got 9"):
            SpectralConv2d(2, (4, 4))(torch.ones(1, 2, 9, 8))

    def test_a_change_of_dtype_keeps_the_imaginary_part(self):
        layer = SpectralConv2d(2, (4, 4))
        before = layer.weight.tensor.detach().clone()
        after = layer.to(torch.float64).weight.tensor
        assert after.dtype == torch.complex128
        assert torch.equal(after.to(torch.complex64), before)

    @pytest.mark.parametrize("block", Blocks)
    def test_blocks_pass_gradcheck(self, block):
        layers = BLOCKS[block](2, (4, 4)).double()
        x = torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(layers, x)

    def test_fno_block_is_the_activated_sum_of_its_paths(self):
        block = BLOCKS[Blocks.FNO](4, (4, 4))
        x = torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(block(x), nn.functional.gelu(block.spectral(x) + block.local(x)))
        assert block.local.kernel_size == (1, 1)

    def test_ptycho_block_adds_its_input(self):
        block = BLOCKS[Blocks.PTYCHO](4, (4, 4))
        x = torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(
            block(x), x + nn.functional.gelu(block.spectral(x) + block.local(x))
        )
        assert block.local.kernel_size == (3, 3)

    def test_modes_can_be_given_for_each_level(self):
        modes = modes_per_level([16, 8], [(32, 32), (16, 16)])
        assert modes == [(16, 16), (8, 8)]
        assert modes_per_level(12, [(32, 32), (16, 16)]) == [(12, 12), (12, 12)]

    def test_default_modes_are_half_of_the_level_and_at_most_32(self):
        assert modes_per_level(None, [(512, 64), (256, 32)]) == [(32, 32), (32, 16)]

    def test_a_list_of_another_length_than_the_levels_is_refused(self):
        with pytest.raises(ValueError, match="lists 2 levels, but this generator has 3"):
            build_generator(options_for(n_modes=[8, 4]), 1, SMALL)

    def test_more_modes_than_pixels_are_refused(self):
        with pytest.raises(ValueError, match=r"n_modes = 9 at level 1, whose grid is 8 x 8"):
            build_generator(options_for(n_modes=[16, 9, 4]), 1, SMALL)

    def test_the_spectral_weights_of_a_generator_have_the_chosen_modes(self):
        generator = build_generator(options_for(n_modes=[8, 6, 2]), 1, SMALL)
        weights = [
            tuple(layer.weight.shape[2:])
            for layer in generator.modules()
            if isinstance(layer, SpectralConv2d)
        ]
        assert weights == [(8, 5), (6, 4), (2, 2)]


class TestBricks:
    @pytest.mark.parametrize("shape", [(16, 16), (18, 30), (22, 16)])
    def test_unet_keeps_the_size_of_its_input(self, shape):
        assert UNet(3, width=4, depth=2)(torch.randn(2, 3, *shape)).shape == (2, 4, *shape)

    @pytest.mark.parametrize("downsampling", Downsamplings)
    @pytest.mark.parametrize("upsampling", Upsamplings)
    @pytest.mark.parametrize("fusion", Fusions)
    def test_hybrid_operator_keeps_the_size_of_its_input(self, downsampling, upsampling, fusion):
        options = HybridUNOOptions(
            downsampling=downsampling, upsampling=upsampling, fusion=fusion, depth=2
        )
        operator = HybridUNO(4, (18, 30), Blocks.PTYCHO, None, options)
        assert operator(torch.randn(2, 4, 18, 30)).shape == (2, 4, 18, 30)

    def test_padding_keeps_the_centre(self):
        network = UNet(1, width=4, depth=2).double()
        x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
        padded = nn.functional.pad(x[..., 1:-1, 1:-1], (1, 1, 1, 1), mode="replicate")
        torch.testing.assert_close(network(x[..., 1:-1, 1:-1]), network(padded)[..., 1:-1, 1:-1])


class TestHeads:
    @pytest.mark.parametrize("head", [AmplitudePhaseHead(), RealImaginaryHead()])
    def test_zero_is_the_empty_object(self, head):
        torch.testing.assert_close(
            head(torch.zeros(2, 6, 4, 4)), torch.ones(2, 3, 4, 4, dtype=torch.complex64)
        )

    @pytest.mark.parametrize("head", [AmplitudePhaseHead(), RealImaginaryHead()])
    def test_heads_pass_gradcheck(self, head):
        z = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(copy.deepcopy(head).double(), z)

    @pytest.mark.parametrize("maximum", [1.2, 3.0])
    def test_amplitude_and_phase_follow_their_formulas(self, maximum):
        z = torch.randn(2, 4, 3, 3, dtype=torch.float64) * 3
        patches = AmplitudePhaseHead(maximum).double()(z).detach().numpy()
        first, second = z.numpy()[:, :2], z.numpy()[:, 2:]
        logit = math.log((1 / maximum) / (1 - 1 / maximum))
        np.testing.assert_allclose(
            np.abs(patches), maximum / (1 + np.exp(-first - logit)), rtol=1e-6
        )
        phase = np.angle(patches * np.exp(-1j * np.pi * np.tanh(second)))
        np.testing.assert_allclose(phase, 0, atol=1e-12)

    def test_a_learned_maximum_starts_at_two_and_is_a_parameter(self):
        head = build_head(Heads.AMPLITUDE_PHASE, None)
        assert head.maximum_amplitude.item() == pytest.approx(2)
        assert [name for name, _ in head.named_parameters()] == ["log_excess"]

    def test_a_given_maximum_is_saved_but_not_learned(self):
        head = build_head(Heads.AMPLITUDE_PHASE, 1.5)
        assert list(head.parameters()) == []
        assert list(head.state_dict()) == ["log_excess"]

    def test_a_maximum_for_the_unbounded_head_is_refused(self):
        with pytest.raises(ValueError, match=r"generator.maximum_amplitude"):
            build_head(Heads.REAL_IMAGINARY, 2.0)


class TestCascade:
    def rough(self, **changes: object) -> tuple[Generator, Tensor]:
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(Architectures.CASCADED, **changes), patterns)
        perturb_outputs(generator)
        return generator, patterns

    def test_stage_one_alone_predicts_the_rough_object(self):
        generator, patterns = self.rough()
        refined, rough = generator.forward_with_rough(patterns)
        assert torch.equal(generator(patterns), refined)
        generator.network.stage_one_only = True
        assert torch.equal(generator(patterns), rough)
        assert not torch.allclose(rough, refined)

    def test_stage_one_alone_leaves_the_refiner_untouched(self):
        generator, patterns = self.rough()
        generator.network.stage_one_only = True
        (generator(patterns) - 2).abs().square().sum().backward()
        with_gradient = {n for n, p in generator.named_parameters() if p.grad is not None}
        assert any("network.blocks" in name for name in with_gradient)
        assert not any("refiner" in name for name in with_gradient)

    def test_an_untrained_refiner_keeps_a_trained_rough_object(self):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(Architectures.CASCADED), patterns)
        nn.init.normal_(generator.network.rough_output.weight, std=0.05)
        refined, rough = generator.forward_with_rough(patterns)
        assert (rough - 1).abs().max() > 0.3
        torch.testing.assert_close(refined, rough, atol=0.03, rtol=0)

    @pytest.mark.parametrize("head", Heads)
    def test_rough_image_has_two_channels_for_each_slice(self, head):
        options = options_for(Architectures.CASCADED, head=head)
        network = build_generator(options, 3, SMALL).network
        assert network.refiner.encoder[0][0].in_channels == 2 * 3

    def test_a_feature_link_hands_over_the_features_and_has_no_rough_object(self):
        link = CascadedOptions(link=CascadeLinks.FEATURES)
        generator, patterns = self.rough(cascaded=link)
        assert generator.network.refiner.encoder[0][0].in_channels == 8
        assert generator(patterns).shape == (4, 1, 1, *SMALL)
        with pytest.raises(ValueError, match=r"generator.cascaded.link"):
            generator.forward_with_rough(patterns)
        generator.network.stage_one_only = True
        with pytest.raises(ValueError, match=r"generator.cascaded.link"):
            generator(patterns)

    def test_number_of_blocks_is_an_option(self):
        network = self.rough(cascaded=CascadedOptions(n_blocks=2))[0].network
        assert len(network.blocks) == 2


class TestOptions:
    @pytest.mark.parametrize(
        ("field", "change"),
        [
            ("cascaded", CascadedOptions(refiner_depth=1)),
            ("cascaded", CascadedOptions(channel_cap=8)),
            ("cascaded", CascadedOptions(n_blocks=1)),
            ("hybrid_uno", HybridUNOOptions(depth=1)),
            ("hybrid_uno", HybridUNOOptions(channel_cap=8)),
            ("hybrid_uno", HybridUNOOptions(n_bottleneck_blocks=2)),
            ("hybrid_uno", HybridUNOOptions(downsampling=Downsamplings.MEAN)),
            ("hybrid_uno", HybridUNOOptions(upsampling=Upsamplings.BILINEAR)),
            ("hybrid_uno", HybridUNOOptions(fusion=Fusions.ADD)),
            ("cnn", CNNOptions(depth=2)),
            ("cnn", CNNOptions(channel_cap=8)),
            ("cnn", CNNOptions(downsampling=Downsamplings.STRIDED)),
        ],
    )
    def test_each_choice_changes_the_network(self, field, change):
        default = build_generator(options_for(Architectures(field)), 1, SMALL)
        changed = build_generator(options_for(Architectures(field), **{field: change}), 1, SMALL)
        assert n_parameters(changed) != n_parameters(default)

    @pytest.mark.parametrize(
        ("downsampling", "layer"),
        [(Downsamplings.MAX, nn.MaxPool2d), (Downsamplings.MEAN, nn.AvgPool2d)],
    )
    def test_cnn_pools_as_told_and_by_maximum_as_published(self, downsampling, layer):
        options = options_for(Architectures.CNN, cnn=CNNOptions(downsampling=downsampling))
        modules = list(build_generator(options, 1, SMALL).modules())
        pools = [m for m in modules if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
        assert [type(pool) for pool in pools] == [layer] * 3
        assert CNNOptions().downsampling is Downsamplings.MAX

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_default_generators_have_at_most_two_million_weights(self, architecture):
        generator = build_generator(GeneratorOptions(architecture=architecture), 1, (64, 64))
        n_real = sum(t.numel() for n, t in generator.tensors().items() if "lifter" not in n)
        assert 0.3e6 < n_real < 2e6
