"""The family of neural operators: what all members promise, and what each of them is."""

import copy

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import ptychi_neural.api as napi
from ptychi_neural.generators import build_generator
from ptychi_neural.generators.architectures.dip import DIPOptions
from ptychi_neural.generators.architectures.ffno import FFNOOptions
from ptychi_neural.generators.architectures.gno import GNOOptions, NeighbourAttention
from ptychi_neural.generators.architectures.hybrid_u_fno import HybridUFNOOptions
from ptychi_neural.generators.architectures.u_fno import UFNOOptions
from ptychi_neural.generators.architectures.uno import UNOOptions
from ptychi_neural.generators.files import load_generator
from ptychi_neural.generators.operators import NeighbourKernel
from ptychi_neural.options.choices import (
    Architectures,
    Blocks,
    Heads,
    NeighbourMixings,
    PriorInputs,
    UnrolledNetworks,
)
from small_generators import (
    ARCHITECTURES,
    FAMILY,
    SMALL,
    fitted,
    gradchecked,
    options_for,
    perturb_outputs,
    simulated_patterns,
)
from small_tasks import error_of, make_task, neural_options, object_of

ATTENTION = {"gno": GNOOptions(mixing=NeighbourMixings.ATTENTION)}
MEMBERS = [
    *(pytest.param(architecture, {}, id=architecture) for architecture in FAMILY),
    pytest.param(Architectures.GNO, ATTENTION, id="attention"),
    *(
        pytest.param(architecture, {"block": Blocks.COMPLEX}, id=f"complex {architecture}")
        for architecture in (*ARCHITECTURES[:2], Architectures.FNO, Architectures.U_FNO)
    ),
]
NETWORKS = list(UnrolledNetworks)


def loosened(generator: nn.Module) -> nn.Module:
    """Leave the start, at which what comes before the output has hardly a gradient."""
    perturb_outputs(generator)
    return generator


# --- all members -----------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "changes"), MEMBERS)
class TestEveryMember:
    def test_patches_of_any_even_size_start_empty_but_depend_on_the_pattern(
        self, architecture, changes
    ):
        patterns = simulated_patterns((18, 30), n=3)
        patches = fitted(options_for(architecture, **changes), patterns).factors(patterns)
        assert patches.shape == (3, 1, 1, 18, 30)
        assert patches.dtype == torch.complex64
        assert (patches - 1).abs().max() < 0.05
        assert (patches[0] - patches[1]).abs().max() > 1e-6

    @pytest.mark.parametrize("head", Heads)
    def test_slices_and_groups_are_axes_of_the_output(self, architecture, changes, head):
        grid_size = 1 if architecture == "gno" else 2
        patterns = simulated_patterns(SMALL, n=3, group=grid_size**2)
        options = options_for(architecture, grid_size=grid_size, head=head, **changes)
        patches = fitted(options, patterns, n_slices=2).factors(patterns)
        assert patches.shape == (3, grid_size**2, 2, *SMALL)

    def test_gradients_reach_every_parameter(self, architecture, changes):
        patterns = simulated_patterns(SMALL)
        generator = loosened(fitted(options_for(architecture, **changes), patterns))
        if generator.network.reach > 0:
            features, places = generator._lift(patterns), 0.1 * torch.rand(4, 2)
            patches = generator.network.forward_among(features, places, 4)
        else:
            patches = generator.factors(patterns)
        (patches - torch.randn_like(patches)).abs().square().sum().backward()
        without = [
            name
            for name, parameter in generator.named_parameters()
            if parameter.grad is None or parameter.grad.abs().max() == 0
        ]
        assert without == []

    def test_saved_tensors_restore_bit_identical_predictions(self, architecture, changes, tmp_path):
        patterns, options = simulated_patterns(SMALL), options_for(architecture, **changes)
        generator = loosened(fitted(options, patterns))
        path = tmp_path / "generator.safetensors"
        safetensors.torch.save_file(generator.tensors(), path)
        restored = build_generator(options, 1, SMALL)
        restored.load_tensors(safetensors.torch.load_file(path))
        assert torch.equal(restored.factors(patterns), generator.factors(patterns))

    def test_double_precision_gives_the_same_patches_to_single_precision(
        self, architecture, changes
    ):
        patterns = simulated_patterns(SMALL)
        generator = loosened(fitted(options_for(architecture, **changes), patterns))
        double = copy.deepcopy(generator).double().factors(patterns.double())
        assert double.dtype == torch.complex128
        torch.testing.assert_close(double.to(torch.complex64), generator.factors(patterns))

    def test_half_precision_autocast_stays_finite_and_close(self, architecture, changes):
        patterns = simulated_patterns(SMALL)
        generator = fitted(options_for(architecture, **changes), patterns)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            patches = generator.factors(patterns)
        assert patches.dtype == torch.complex64
        torch.testing.assert_close(patches, generator.factors(patterns), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [*MEMBERS, *(pytest.param(a, {}, id=a) for a in ARCHITECTURES)],
)
def test_networks_pass_gradcheck_in_double_precision(architecture, changes):
    options = options_for(architecture, **changes, width=2, shallow_cnn=False)
    if architecture == "cnn":
        options.cnn.downsampling = "mean"  # Differences of a maximum are those of a kink.
        options.cnn.depth = 2
    generator = loosened(build_generator(options, 1, (8, 8))).double()
    features = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert gradchecked(generator.network, features)


@pytest.mark.parametrize("mixing", NeighbourMixings)
def test_mixes_of_neighbours_pass_gradcheck(mixing):
    kind = NeighbourKernel if mixing is NeighbourMixings.GNO else NeighbourAttention
    places = torch.rand(5, 2, dtype=torch.float64)
    functions = torch.randn(2, 5, 3, dtype=torch.float64)
    assert gradchecked(kind(3, radius=0.6).double(), places, places[:2], functions)


@pytest.mark.parametrize(
    "group",
    [
        UNOOptions(depth=4),
        HybridUFNOOptions(depth=4),
        UFNOOptions(unet_depth=4),
        GNOOptions(depth=4),
    ],
)
def test_a_depth_that_leaves_less_than_two_pixels_is_refused(group):
    name = {UNOOptions: "uno", HybridUFNOOptions: "hybrid_u_fno", UFNOOptions: "u_fno"}
    name = name.get(type(group), "gno")
    with pytest.raises(ValueError, match=rf"generator\.{name}\.\w*depth = 4 .* at most 3"):
        build_generator(options_for(Architectures(name), **{name: group}), 1, SMALL)


def n_parameters(**options: object) -> int:
    generator = build_generator(options_for(**options), 1, SMALL)
    return sum(tensor.numel() for tensor in generator.tensors().values())


@pytest.mark.parametrize(
    ("name", "more", "fewer"),
    [
        ("fno", {"n_blocks": 5}, {"n_blocks": 4}),
        ("ffno", {"n_blocks": 9}, {"n_blocks": 8}),
        ("ffno", {"shared_weights": False}, {"shared_weights": True}),
        ("ffno", {"expansion": 4}, {"expansion": 2}),
        ("uno", {"depth": 2}, {"depth": 1}),
        ("uno", {"n_bottleneck_blocks": 2}, {"n_bottleneck_blocks": 1}),
        ("uno", {"channel_cap": 64}, {"channel_cap": 16}),
        ("u_fno", {"n_fourier_blocks": 1}, {"n_fourier_blocks": 0}),
        ("u_fno", {"n_blocks": 2}, {"n_blocks": 1}),
        ("u_fno", {"unet_depth": 2}, {"unet_depth": 1}),
        ("u_fno", {"channel_cap": 32}, {"channel_cap": 16}),
        ("hybrid_u_fno", {"depth": 2}, {"depth": 1}),
        ("hybrid_u_fno", {"n_blocks": 2}, {"n_blocks": 1}),
        ("hybrid_u_fno", {"channel_cap": 64}, {"channel_cap": 16}),
        ("gno", {"depth": 2}, {"depth": 1}),
        ("gno", {"channel_cap": 64}, {"channel_cap": 16}),
    ],
)
def test_each_choice_changes_the_network(name, more, fewer):
    group = type(getattr(napi.GeneratorOptions(), name))
    many, few = (n_parameters(architecture=name, **{name: group(**c)}) for c in (more, fewer))
    assert many > few


def test_shared_spectral_weights_are_one_layer():
    shared = build_generator(
        options_for(Architectures.FFNO, ffno=FFNOOptions(shared_weights=True)), 1, SMALL
    )
    assert len(shared.network.operator.mlps) == 8
    assert len(shared.network.operator.spectral) == 1


def test_complex_blocks_need_an_even_width():
    with pytest.raises(ValueError, match=r"block = .complex. pairs channels, of which there are 5"):
        build_generator(options_for(Architectures.FNO, width=5, block="complex"), 1, SMALL)


# --- fits to a scan --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*FAMILY, Architectures.DIP])
def test_a_fit_lowers_loss_and_error_and_is_saved_and_loaded(architecture, simulated, tmp_path):
    options = neural_options(architecture=architecture)
    task = make_task(options, simulated.scan)
    task.run(1)
    before = error_of(task, simulated)
    task.run(4)
    losses = task.reconstructor.loss_tracker.table.loss
    assert losses.iloc[-1] < losses.iloc[0]
    assert error_of(task, simulated) < before
    task.reconstructor.save_generator(tmp_path / "g.safetensors")
    network, saved, _ = load_generator(tmp_path / "g.safetensors")
    assert not saved.different_structure(options.reconstructor_options.generator)
    with torch.no_grad():
        scan = task.reconstructor.scan
        assert torch.equal(network(scan), task.reconstructor.generator(scan))


@pytest.mark.parametrize("architecture", [*FAMILY, Architectures.DIP])
def test_what_masked_pixels_hold_has_no_effect(architecture, simulated):
    mask = np.ones((16, 16), dtype=bool)
    mask[3:6, 9] = mask[8, 8] = False
    objects = []
    for value in (0.0, 1e4):
        patterns = simulated.scan.patterns.astype(np.float32)
        patterns[:, ~mask] = value
        options = neural_options(architecture=architecture)
        task = make_task(options, simulated.scan, diffraction_data=patterns, valid_pixel_mask=mask)
        task.run(2)
        objects.append(object_of(task))
    np.testing.assert_allclose(*objects, atol=1e-5)  # The scale is fitted to sums of all pixels.
    assert np.abs(objects[0] - 1).max() > 1e-5


@pytest.mark.parametrize(
    ("architecture", "network"),
    [
        *(("unrolled", network) for network in NETWORKS),
        *(("dip", network) for network in ("dilated", "spectral", "ffno")),
    ],
)
def test_each_network_corrects_the_object_and_makes_priors(architecture, network, simulated):
    options = neural_options(architecture=architecture)
    group = getattr(options.reconstructor_options.generator, architecture)
    group.network, group.n_layers = network, 2
    task = make_task(options, simulated.scan)
    task.run(2)
    losses = task.reconstructor.loss_tracker.table.loss
    assert losses.iloc[-1] < losses.iloc[0]
    generator = task.reconstructor.generator
    task.reconstructor.generator(task.reconstructor.scan).abs().sum().backward()
    unreached = [n for n, p in generator.named_parameters() if p.grad is None]
    assert [name for name in unreached if "momenta" not in name] == []


# --- neighbours ------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", NeighbourMixings)
class TestNeighbours:
    def network(self, mixing):
        group = GNOOptions(mixing=mixing, radius=0.5)
        generator = build_generator(options_for(Architectures.GNO, gno=group), 1, SMALL)
        return loosened(generator).double().network

    def test_places_count_by_their_distance_alone(self, mixing):
        network, features = self.network(mixing), torch.randn(4, 8, *SMALL, dtype=torch.float64)
        places = 0.4 * torch.rand(4, 2, dtype=torch.float64)
        patches = network.forward_among(features, places, 2)
        moved = network.forward_among(features, places + torch.tensor([7.0, -3.0]), 2)
        torch.testing.assert_close(moved, patches)
        order = [0, 1, 3, 2]
        torch.testing.assert_close(
            network.forward_among(features[order], places[order], 2), patches
        )
        farther = network.forward_among(features, 1.1 * places, 2)
        assert (farther - patches).abs().max() > 1e-6

    def test_only_what_lies_within_the_radius_has_an_effect(self, mixing):
        network, features = self.network(mixing), torch.randn(3, 8, *SMALL, dtype=torch.float64)
        places = torch.tensor([[0.0, 0.0], [0.3, 0.3], [0.4, 0.4]], dtype=torch.float64)
        changed = [features.clone() for _ in range(2)]
        for k in (0, 1):
            changed[k][k + 1] += 1
        patch = network.forward_among(features, places, 1)
        near, far = (network.forward_among(other, places, 1) for other in changed)
        assert (near - patch).abs().max() > 1e-6
        assert torch.equal(far, patch)

    def test_patches_are_those_of_the_scan_whatever_the_batches(self, mixing, simulated):
        options = neural_options(architecture="gno", gno=GNOOptions(mixing=mixing, radius=0.2))
        task = make_task(options, simulated.scan)
        task.run(1)
        scan = task.reconstructor.scan
        with torch.no_grad():
            generator = loosened(task.reconstructor.generator)
            _, whole = generator.patches_at(scan, scan.frames)
            _, part = generator.patches_at(scan, torch.tensor([5, 40]))
        torch.testing.assert_close(part, whole[[5, 40]])

    def test_counts_alone_and_streams_of_frames_are_refused(self, mixing):
        generator = build_generator(options_for(Architectures.GNO), 1, SMALL)
        with pytest.raises(ValueError, match="needs the neighbours, so probe and positions too"):
            generator.patches(torch.ones(2, *SMALL))
        assert "neighbours together" in generator.why_not_frame_by_frame(napi.StartOptions())


# --- deep image prior ------------------------------------------------------------------------


class TestDeepImagePrior:
    def fitted(self, scan, **dip):
        options = neural_options(architecture="dip", dip=DIPOptions(**dip))
        task = make_task(options, scan)
        task.run(2)
        return task

    def test_its_object_is_made_of_the_noise_alone(self, simulated):
        task = self.fitted(simulated.scan)
        generator, scan = task.reconstructor.generator, task.reconstructor.scan
        half = scan.of(scan.frames[::2])
        assert torch.equal(generator(half), generator(scan))

    @pytest.mark.parametrize("change", [{"noise_seed": 1}, {"input": PriorInputs.COORDINATES}])
    def test_its_input_is_an_option(self, simulated, change):
        objects = [object_of(self.fitted(simulated.scan, **c)) for c in ({}, {}, change)]
        np.testing.assert_array_equal(objects[0], objects[1])
        assert np.abs(objects[2] - objects[0]).max() > 1e-4

    def test_an_object_of_another_shape_is_refused(self, simulated, tmp_path):
        path = tmp_path / "g.safetensors"
        self.fitted(simulated.scan).reconstructor.save_generator(path)
        larger = np.ones((1, 60, 60), dtype=complex)
        options = neural_options(architecture="dip", checkpoint=str(path))
        with pytest.raises(ValueError, match=r"one object of \d+ x \d+ pixels, not of 60 x 60"):
            make_task(options, simulated.scan, object_data=larger)

    def test_slices_and_masks_and_a_probe_to_refine(self, simulated):
        options = neural_options(architecture="dip")
        options.probe_options.optimizable = True
        options.object_options.slice_spacings_m = [1e-6]
        options.object_options.pixel_size_m = 1e-8
        two = np.repeat(simulated.scan.object, 2, axis=0)
        task = make_task(options, simulated.scan, object_data=two)
        task.run(2)
        assert object_of(task).shape[0] == 2
        assert np.isfinite(object_of(task)).all()
