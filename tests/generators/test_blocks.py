"""Spectral layers, convolutional networks and heads: what the architectures are made of."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from ptychi_neural.generators import build_generator
from ptychi_neural.generators.architectures.hybrid_uno import HybridUNO, HybridUNOOptions
from ptychi_neural.generators.blocks import BLOCKS, ComplexBlock, PtychoBlock, modes_per_level
from ptychi_neural.generators.convolution import DilatedConvolution, convolution
from ptychi_neural.generators.heads import AmplitudePhaseHead, RealImaginaryHead, build_head
from ptychi_neural.generators.operators import UNO
from ptychi_neural.generators.spectral import (
    FactorizedSpectralConv2d,
    PreciseSpectralConv,
)
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options.choices import (
    Blocks,
    Downsamplings,
    Fusions,
    Heads,
    SkipSources,
    SpectralLevels,
    Upsamplings,
)
from small_generators import SMALL, options_for


class TestDilatedConvolution:
    @pytest.mark.parametrize("dilation", [1, 2, 3, 8])
    @pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 3, 13, 5), (1, 3, 2, 21)])
    def test_it_maps_and_differentiates_as_pytorch_does(self, dilation, shape):
        layer = DilatedConvolution(3, 4, 3, dilation=dilation).double()
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        theirs = nn.functional.conv2d(
            x, layer.weight, layer.bias, padding=dilation, dilation=dilation
        )
        weights = torch.randn_like(theirs)
        wanted = [x, layer.weight, layer.bias]
        torch.testing.assert_close(layer(x), theirs)
        torch.testing.assert_close(
            torch.autograd.grad((weights * layer(x)).sum(), wanted),
            torch.autograd.grad((weights * theirs).sum(), wanted),
        )
        with torch.no_grad():
            torch.testing.assert_close(layer(x), theirs)

    def test_it_begins_with_the_weights_of_a_dense_one(self):
        layers = []
        for kind in (nn.Conv2d, functools.partial(DilatedConvolution, dilation=4)):
            torch.manual_seed(0)
            layers.append(convolution(3, 4, 3, kind=kind))
        assert torch.equal(layers[0].weight, layers[1].weight)
        assert [name for name, _ in layers[1].named_parameters()] == ["weight", "bias"]


class TestSpectralLayer:
    @pytest.mark.parametrize(
        ("shape", "n_modes"), [((12, 16), (6, 8)), ((12, 16), (5, 7)), ((8, 10), (8, 10))]
    )
    def test_it_multiplies_both_quadrants_of_the_spectrum(self, shape, n_modes):
        layer = PreciseSpectralConv(3, 3, n_modes, bias=False).to(torch.float64)
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
            PreciseSpectralConv(2, 2, (4, 4), bias=False)(torch.ones(1, 2, 9, 8))

    def test_a_change_of_dtype_keeps_the_imaginary_part(self):
        layer = PreciseSpectralConv(2, 2, (4, 4), bias=False)
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
            if isinstance(layer, PreciseSpectralConv)
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

    @pytest.mark.parametrize("skips", SkipSources)
    def test_what_skips_the_code_of_the_hybrid_operator_is_as_told(self, skips):
        operator = HybridUNO(4, (16, 16), Blocks.PTYCHO, None, HybridUNOOptions(skips=skips))
        nn.init.zeros_(operator.down[0].weight)  # Nothing else of the input passes.
        x = torch.randn(1, 4, 16, 16)
        block = operator.encoder[0]
        passed = {"local": block.local(x), "block": block(x), "off": None}[skips]
        skip = operator.encode(x)[1][0]
        assert passed is None or torch.equal(skip, passed)
        depends = not torch.equal(operator(x), operator(2 * x))
        assert depends == (skips is not SkipSources.OFF)

    @pytest.mark.parametrize("block", Blocks)
    @pytest.mark.parametrize(
        ("levels", "spectral"),
        [("all", (1, 1, 1)), ("encoder", (1, 1, 0)), ("bottleneck", (0, 0, 1)), ("off", (0, 0, 0))],
    )
    def test_levels_of_the_hybrid_operator_have_spectral_paths_as_told(
        self, block, levels, spectral
    ):
        options = HybridUNOOptions(spectral_levels=SpectralLevels(levels))
        operator = HybridUNO(4, (16, 16), block, None, options)
        blocks = [*operator.encoder, *operator.bottleneck]
        assert tuple(b.spectral is not None for b in blocks) == tuple(map(bool, spectral))
        assert operator(torch.randn(2, 4, 16, 16)).shape == (2, 4, 16, 16)

    def test_a_block_without_a_spectral_path_is_its_local_path(self):
        x = torch.randn(2, 4, 6, 8)
        for kind, residual in ((Blocks.FNO, 0), (Blocks.PTYCHO, 1), (Blocks.COMPLEX, 1)):
            block = BLOCKS[kind](4, None)
            expected = residual * x + nn.functional.gelu(block.local(x))
            torch.testing.assert_close(block(x), expected)

    def test_a_fusion_without_skips_is_refused(self):
        options = HybridUNOOptions(skips=SkipSources.OFF, fusion=Fusions.ADD)
        assert [problem.partition(":")[0] for problem in options.problems()] == ["fusion"]
        assert list(HybridUNOOptions(skips=SkipSources.OFF).problems()) == []

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


class TestLayersOfTheFamily:
    def test_a_factorised_layer_filters_each_axis_by_itself(self):
        layer = FactorizedSpectralConv2d(3, (4, 6)).double()
        x = torch.randn(2, 3, 8, 10, dtype=torch.float64)
        oracle = np.zeros(x.shape)
        for axis, of_axis in ((2, layer.of_axes[0]), (3, layer.of_axes[1])):
            weight = of_axis.weight.tensor.detach().numpy()
            lines = np.moveaxis(x.numpy(), axis, 3)
            spectrum = np.fft.rfft(lines)
            filtered = np.zeros_like(spectrum)
            n = weight.shape[-1]
            filtered[..., :n] = np.einsum("bihk,iok->bohk", spectrum[..., :n], weight)
            oracle += np.moveaxis(np.fft.irfft(filtered, lines.shape[3]), 3, axis)
        np.testing.assert_allclose(layer(x).detach(), oracle, atol=1e-12)

    @pytest.mark.parametrize("layer", ["spectral", "local"])
    def test_complex_layers_are_linear_in_complex_numbers_and_know_no_place(self, layer):
        block = ComplexBlock(6, (4, 6)).double()
        block.local.real.bias = block.local.imaginary.bias = None
        linear = getattr(block, layer)
        z = torch.randn(2, 3, 8, 8, dtype=torch.complex128)

        def applied(z):
            return torch.complex(*linear(torch.cat([z.real, z.imag], 1)).chunk(2, 1))

        factor = 0.3 - 2.1j
        torch.testing.assert_close(applied(factor * z), factor * applied(z))
        assert (applied(z.conj()) - applied(z).conj()).abs().max() > 1e-3
        if layer == "spectral":  # A filter multiplies each Fourier component by a matrix.
            rolled = z.roll((3, 2), (2, 3))
            torch.testing.assert_close(applied(rolled), applied(z).roll((3, 2), (2, 3)))

    def test_complex_blocks_have_half_of_the_weights(self):
        weights = {
            block: sum(p.numel() for n, p in block(8, (4, 4)).named_parameters() if "bias" not in n)
            for block in (PtychoBlock, ComplexBlock)
        }
        assert weights[ComplexBlock] == weights[PtychoBlock] / 2

    @pytest.mark.parametrize("factor", [0.5, 2.0])
    @pytest.mark.parametrize("rows", [2, -2])
    def test_a_change_of_resolution_keeps_waves_of_both_signs(self, factor, rows):
        layer = PreciseSpectralConv(1, 1, (8, 8), bias=False, resolution_scaling_factor=factor)
        with torch.no_grad():
            layer.weight.tensor.fill_(1.0)
        y, x = torch.meshgrid(torch.arange(32) / 32, torch.arange(32) / 32, indexing="ij")
        wave = torch.cos(2 * math.pi * (rows * y + 3 * x))[None, None]
        resampled = layer(wave)[0, 0]
        side = int(32 * factor)
        assert resampled.shape == (side, side)
        spectrum = torch.fft.fft2(resampled).abs()
        assert spectrum[rows, 3] > 0.4 * side**2
        assert spectrum[rows, 3] > 5 * spectrum[-rows, 3]

    @pytest.mark.parametrize("shape", [(16, 16), (18, 30), (22, 16)])
    def test_neuraloperators_u_no_keeps_the_size_of_its_input(self, shape, capsys):
        operator = UNO(4, shape, None, depth=2, n_bottleneck_blocks=1, channel_cap=64)
        assert operator(torch.randn(2, 4, *shape)).shape == (2, 4, *shape)
        assert capsys.readouterr().out == ""
