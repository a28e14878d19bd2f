"""Every one-shot architecture is a map from patterns to patches that trains."""

import copy

import pytest
import safetensors.torch
import torch
from torch import nn

from ptychi_neural.generators import build_generator
from ptychi_neural.generators.architectures.cascaded import CascadedOptions
from ptychi_neural.generators.architectures.cnn import CNNOptions
from ptychi_neural.generators.architectures.hybrid_uno import HybridUNOOptions
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import (
    Architectures,
    Blocks,
    Downsamplings,
    Fusions,
    Heads,
    Lifters,
    SkipSources,
    SpectralLevels,
    Upsamplings,
)
from small_generators import (
    ARCHITECTURES,
    PATTERN_LIFTERS,
    SMALL,
    fitted,
    options_for,
    perturb_outputs,
    simulated_patterns,
)


def n_parameters(generator: nn.Module) -> int:
    return sum(parameter.numel() for parameter in generator.parameters())


class TestEveryArchitecture:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("shape", [(16, 16), (30, 46), (34, 34), (64, 64), (128, 96)])
    def test_patches_have_the_shape_of_the_patterns_and_start_empty(self, architecture, shape):
        patterns = simulated_patterns(shape)
        patches = fitted(options_for(architecture), patterns).factors(patterns)
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
        patches = generator.factors(patterns)
        assert (patches - 1).abs().max() < 0.05
        assert (patches[0] - patches[1]).abs().max() > 1e-6

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("head", Heads)
    def test_groups_and_slices_are_axes_of_the_output(self, architecture, head):
        patterns = simulated_patterns(SMALL, n=3, group=4)
        generator = fitted(options_for(architecture, grid_size=2, head=head), patterns, n_slices=2)
        assert generator.factors(patterns).shape == (3, 4, 2, *SMALL)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("head", Heads)
    @pytest.mark.parametrize("block", Blocks)
    def test_gradients_reach_every_parameter(self, architecture, head, block):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture, head=head, block=block), patterns)
        perturb_outputs(generator)
        patches = generator.factors(patterns)
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
            loss = (generator.factors(patterns) - target).abs().square().mean()
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
            patches = generator.factors(patterns)
        assert patches.dtype == torch.complex64
        torch.testing.assert_close(patches, generator.factors(patterns), atol=5e-3, rtol=0)

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("convert", [lambda g: g.double(), lambda g: g.to(torch.float64)])
    def test_double_precision_gives_the_same_patches_to_single_precision(
        self, architecture, convert
    ):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture), patterns)
        perturb_outputs(generator)
        double = convert(copy.deepcopy(generator)).factors(patterns.double())
        assert double.dtype == torch.complex128
        torch.testing.assert_close(double.to(torch.complex64), generator.factors(patterns))

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_saved_tensors_restore_bit_identical_predictions(self, architecture, tmp_path):
        patterns = simulated_patterns(SMALL)
        options = options_for(architecture)
        generator = fitted(options, patterns)
        path = tmp_path / "generator.safetensors"
        safetensors.torch.save_file(generator.tensors(), path)
        restored = build_generator(options, 1, SMALL)
        restored.load_tensors(safetensors.torch.load_file(path))
        assert torch.equal(restored.factors(patterns), generator.factors(patterns))

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
            generator.factors(torch.ones(shape))

    def test_weights_of_other_options_are_refused(self):
        saved = build_generator(options_for(width=4), 1, SMALL).tensors()
        with pytest.raises(ValueError, match="do not fit a generator of these options"):
            build_generator(options_for(), 1, SMALL).load_tensors(saved)

    def test_only_a_cascade_has_a_rough_object(self):
        generator = build_generator(options_for(lifter=Lifters.LOG), 1, SMALL)
        with pytest.raises(ValueError, match="Only the cascade"):
            generator.network.forward_with_rough(generator._lift(torch.ones(1, 1, *SMALL)))

    def test_deterministic_under_a_seed(self):
        patterns = simulated_patterns(SMALL)
        predictions = []
        for _ in range(2):
            torch.manual_seed(7)
            predictions.append(fitted(options_for(), patterns).factors(patterns))
        assert torch.equal(*predictions)


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
            ("hybrid_uno", HybridUNOOptions(skips=SkipSources.OFF)),
            *(
                ("hybrid_uno", HybridUNOOptions(spectral_levels=levels))
                for levels in list(SpectralLevels)[1:]
            ),
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
