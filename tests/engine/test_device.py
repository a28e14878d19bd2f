"""Every tensor is on the device on which it is needed: on one that is emulated."""

import copy

import numpy as np
import pytest
import torch

from emulated_device import DEVICE, OnDevice, emulated_device
from ptychi_neural.projections.total_variation import denoised
from small_tasks import default_options, make_task


def test_the_emulated_device_fails_where_a_real_one_does(monkeypatch):
    with emulated_device(monkeypatch):
        there, here = torch.ones(3, device=DEVICE), torch.ones(3, device="cpu")
        assert isinstance(there, OnDevice)
        assert there.device == DEVICE
        with pytest.raises(RuntimeError, match="of the host"):
            there + here
        with pytest.raises(RuntimeError, match="of the host"):
            here[torch.tensor([1], device=DEVICE)]
        assert float((there * torch.tensor(2.0, device="cpu")).sum()) == 6
        assert there[torch.tensor([1], device="cpu")].device == DEVICE
        assert torch.equal(there.cpu(), here)
        gradient = torch.autograd.grad((there.requires_grad_() ** 2).sum(), there)[0]
        assert gradient.device == DEVICE
        assert float(gradient[0]) == 2


def test_total_variation_stays_on_the_device(monkeypatch):
    object_ = torch.complex(torch.rand(1, 9, 8), torch.rand(1, 9, 8))
    with emulated_device(monkeypatch):
        found = denoised(object_.to(DEVICE), 0.1)
        assert found.device == DEVICE
        assert torch.equal(found.cpu(), denoised(object_, 0.1))


def options_of(variant):
    options = default_options(num_epochs=1)
    settings = options.reconstructor_options
    settings.batch_size = 64  # one batch: a device draws other random numbers
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 3
    settings.generator.width = 2
    options.probe_options.optimizable = options.probe_position_options.optimizable = (
        variant == "refined"
    )
    settings.start.first_position_iteration = 1
    if variant == "moments":
        settings.start.moment_iterations, settings.start.alternate_halves = 2, True
        settings.start.first_moment_iteration = 0
    elif variant == "blurred":
        settings.forward_model_options.diffraction_pattern_blur_sigma = 0.4
    if variant != "cnn":
        settings.generator.unrolled.n_splits = 2
    else:
        settings.generator.architecture = variant
        settings.generator.width = 4
        settings.consistency.scope = "scan"
    return options


SLOW = [
    pytest.param(variant, marks=pytest.mark.slow)
    for variant in ("refined", "moments", "blurred", "cnn")
]


@pytest.mark.parametrize("variant", ["known", *SLOW])
def test_a_run_on_the_device_is_that_on_the_cpu(variant, simulated, monkeypatch):
    on_cpu = make_task(options_of(variant), simulated.scan)
    weights = copy.deepcopy(on_cpu.reconstructor.generator.state_dict())
    on_cpu.run()
    with emulated_device(monkeypatch):
        on_device = make_task(options_of(variant), simulated.scan)
        on_device.reconstructor.generator.load_state_dict(
            {name: weight.to(DEVICE) for name, weight in weights.items()}
        )
        on_device.run()
        for name in ("object", "probe", "probe_positions"):
            assert on_device.get_data(name).device == DEVICE
            found = on_device.get_data_to_cpu(name, as_numpy=True)
            # The first step of Adam takes the sign of gradients, also of those that are rounding.
            np.testing.assert_allclose(
                found, on_cpu.get_data_to_cpu(name, as_numpy=True), rtol=2e-3, atol=2e-3
            )
