"""Patches whose centre is at full resolution and whose periphery at a coarse one."""

import pytest
import safetensors.torch
import torch

import ptychi_neural.api as napi
from ptychi_neural.evaluation import complex_error, scanned_area
from ptychi_neural.generators import build_generator
from ptychi_neural.generators.files import load_generator
from ptychi_neural.generators.heads import with_coarse_periphery
from ptychi_neural.options.choices import Heads
from small_generators import (
    ALL,
    SMALL,
    fitted,
    gradchecked,
    options_for,
    perturb_outputs,
    simulated_patterns,
)
from small_tasks import make_task, neural_options, object_of
from trained_generators import predictor_of, whole


class TestPatches:
    def joined(self, centres, peripheries, window=0.5):
        patches = torch.cat([centres, peripheries], dim=1)
        return with_coarse_periphery(patches, (4, 4), window)

    def random(self):
        return torch.randn(1, 2, *SMALL, dtype=torch.complex128)

    def test_the_centre_is_the_first_output_pixel_by_pixel(self):
        centres = self.random()
        joined = self.joined(centres, self.random())
        torch.testing.assert_close(joined[..., 4:12, 4:12], centres[..., 4:12, 4:12])

    def test_the_border_is_the_second_output_binned_and_interpolated(self):
        rows, columns = torch.meshgrid(*2 * [torch.arange(16.0).double()], indexing="ij")
        ramp = (3 * rows - 2 * columns + 1j * columns).expand(1, 1, -1, -1)
        checkers = (-1.0) ** (rows + columns)
        joined = self.joined(torch.zeros_like(ramp), ramp + 5 * checkers, window=0.1)
        # A ramp is its own mean and interpolation, but at the outermost half of a coarse pixel.
        torch.testing.assert_close(joined[..., 2:14, 2], ramp[..., 2:14, 2])

    def test_what_passes_from_one_to_the_other_adds_up_to_one(self):
        ones = torch.ones(1, 2, *SMALL, dtype=torch.complex128)
        torch.testing.assert_close(self.joined(ones, ones), ones)
        centre = self.joined(ones, 0 * ones)[0, 0].real
        assert centre[8].tolist() == centre[8].flip(0).tolist()
        falling = centre[8, 8:]
        assert (falling.diff() <= 0).all()
        assert falling[3] == 1
        assert 0.4 < falling[5] < 0.9
        assert falling[-1] < 0.05

    def test_it_is_the_same_field_however_finely_it_is_sampled(self):
        def sampled(n):
            y, x = torch.meshgrid(*2 * [(torch.arange(n).double() + 0.5) / n], indexing="ij")
            centres, peripheries = torch.exp(3j * y * x), 2 * torch.exp(1j * (y - 2 * x))
            return self.joined(centres[None, None], peripheries[None, None])

        fine = torch.view_as_real(sampled(64)[0, 0]).unflatten(0, (16, 4)).unflatten(2, (16, 4))
        torch.testing.assert_close(
            torch.view_as_complex(fine.mean((1, 3))), sampled(16)[0, 0], atol=0.1, rtol=0
        )

    def test_passes_gradcheck(self):
        patches = torch.randn(1, 2, 8, 8, dtype=torch.complex128, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda p: with_coarse_periphery(p, (2, 2), 0.4), (patches,), fast_mode=True
        )


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("head", Heads)
class TestEveryArchitecture:
    def generator(self, architecture, head, patterns, **changes):
        options = options_for(architecture, head=head, periphery_binning=4, **changes)
        return fitted(options, patterns, n_slices=2)

    def test_slices_and_groups_are_axes_of_patches_that_start_empty(self, architecture, head):
        grid_size = 1 if architecture == "gno" else 2
        patterns = simulated_patterns((18, 30), n=3, group=grid_size**2)
        generator = self.generator(architecture, head, patterns, grid_size=grid_size)
        patches = generator.factors(patterns)
        assert patches.shape == (3, grid_size**2, 2, 18, 30)
        assert (patches - 1).abs().max() < 0.05
        assert (patches[0] - patches[1]).abs().max() > 1e-6

    def test_gradients_reach_every_parameter(self, architecture, head):
        patterns = simulated_patterns(SMALL)
        generator = self.generator(architecture, head, patterns)
        perturb_outputs(generator)
        if generator.network.reach > 0:
            features, places = generator._lift(patterns), 0.1 * torch.rand(4, 2)
            patches = generator.network.forward_among(features, places, 4)
            patches = generator._as_groups(patches)
        else:
            patches = generator.factors(patterns)
        (patches - torch.randn_like(patches)).abs().square().sum().backward()
        without = [n for n, p in generator.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []

    def test_saved_tensors_restore_bit_identical_predictions(self, architecture, head, tmp_path):
        patterns = simulated_patterns(SMALL)
        generator = self.generator(architecture, head, patterns)
        perturb_outputs(generator)
        path = tmp_path / "generator.safetensors"
        safetensors.torch.save_file(generator.tensors(), path)
        restored = build_generator(generator.options, 2, SMALL)
        restored.load_tensors(safetensors.torch.load_file(path))
        assert torch.equal(restored.factors(patterns), generator.factors(patterns))

    def test_passes_gradcheck_in_double_precision(self, architecture, head):
        options = options_for(
            architecture, head=head, width=2, shallow_cnn=False, periphery_binning=2
        )
        if architecture == "cnn":
            options.cnn.downsampling = "mean"  # Differences of a maximum are those of a kink.
            options.cnn.depth = 2
        generator = build_generator(options, 1, (8, 8)).double()
        perturb_outputs(generator)
        assert gradchecked(
            generator.network,
            torch.randn(2, 2, 8, 8, dtype=torch.float64),
            then=generator._as_groups,
        )


@pytest.mark.parametrize("architecture", ALL)
def test_a_fit_lowers_the_loss_and_is_saved_loaded_and_predicted(architecture, simulated, tmp_path):
    options = neural_options(architecture=architecture, periphery_binning=2)
    task = make_task(options, simulated.scan)
    task.run(4)
    losses = task.reconstructor.loss_tracker.table.loss
    assert losses.iloc[-1] < losses.iloc[0]
    path = tmp_path / "g.safetensors"
    task.reconstructor.save_generator(path)
    network, saved, _ = load_generator(path)
    assert not saved.different_structure(options.reconstructor_options.generator)
    with torch.no_grad():
        scan = task.reconstructor.scan
        assert torch.equal(network(scan), task.reconstructor.generator(scan))
    predicted = whole(predictor_of(path), simulated.scan).object
    covered = scanned_area(simulated.scan.positions_px, predicted.shape[-2:])
    difference = complex_error(predicted[0], object_of(task)[0], covered)
    assert difference < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "unrolled", "periphery_binning": 2}, "periphery_binning: has no effect"),
        ({"architecture": "dip", "periphery_binning": 2}, "periphery_binning: has no effect"),
        ({"architecture": "cnn", "fine_window": 0.7}, "fine_window: has no effect with .*= 1"),
    ],
)
def test_what_has_no_effect_is_refused(changes, message, simulated):
    with pytest.raises(ValueError, match=message):
        make_task(neural_options(**changes), simulated.scan)


def test_the_window_and_the_binning_count():
    patterns = simulated_patterns(SMALL)
    options = options_for("fno", periphery_binning=2)
    generator = fitted(options, patterns)
    perturb_outputs(generator)
    before = generator.factors(patterns)
    for name, value in (("fine_window", 0.8), ("periphery_binning", 4)):
        other = build_generator(napi.GeneratorOptions(**{**vars(options), name: value}), 1, SMALL)
        other.load_tensors(generator.tensors())
        assert (other.factors(patterns) - before).abs().max() > 1e-3
