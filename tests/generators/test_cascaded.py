"""The cascade: a rough object, and its refinement."""

import pytest
import torch
from torch import Tensor, nn

from ptychi_neural.generators import OneShot, build_generator
from ptychi_neural.generators.architectures.cascaded import CascadedOptions
from ptychi_neural.options.choices import Architectures, CascadeLinks, Heads
from small_generators import SMALL, fitted, options_for, perturb_outputs, simulated_patterns


def forward_with_rough(generator: OneShot, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Refined and rough patches, grouped as those of ``generator.factors``."""
    patches = generator.network.forward_with_rough(generator._lift(patterns))
    refined, rough = (generator._as_groups(stage) for stage in patches)
    return refined, rough


class TestCascade:
    def rough(self, **changes: object) -> tuple[OneShot, Tensor]:
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(Architectures.CASCADED, **changes), patterns)
        perturb_outputs(generator)
        return generator, patterns

    def test_stage_one_alone_predicts_the_rough_object(self):
        generator, patterns = self.rough()
        refined, rough = forward_with_rough(generator, patterns)
        assert torch.equal(generator.factors(patterns), refined)
        generator.network.stage_one_only = True
        assert torch.equal(generator.factors(patterns), rough)
        assert not torch.allclose(rough, refined)

    def test_stage_one_alone_leaves_the_refiner_untouched(self):
        generator, patterns = self.rough()
        generator.network.stage_one_only = True
        (generator.factors(patterns) - 2).abs().square().sum().backward()
        with_gradient = {n for n, p in generator.named_parameters() if p.grad is not None}
        assert any("network.blocks" in name for name in with_gradient)
        assert not any("refiner" in name for name in with_gradient)

    def test_an_untrained_refiner_keeps_a_trained_rough_object(self):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(Architectures.CASCADED), patterns)
        nn.init.normal_(generator.network.rough_output.weight, std=0.05)
        refined, rough = forward_with_rough(generator, patterns)
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
        assert generator.factors(patterns).shape == (4, 1, 1, *SMALL)
        with pytest.raises(ValueError, match=r"generator.cascaded.link"):
            forward_with_rough(generator, patterns)
        generator.network.stage_one_only = True
        with pytest.raises(ValueError, match=r"generator.cascaded.link"):
            generator.factors(patterns)

    def test_number_of_blocks_is_an_option(self):
        network = self.rough(cascaded=CascadedOptions(n_blocks=2))[0].network
        assert len(network.blocks) == 2
