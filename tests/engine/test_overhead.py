"""How much of an epoch is not the generator's own work."""

import time

import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.runs.reconstruct import build_task
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


class FreeNetwork(torch.nn.Module):
    """A generator that costs nothing: the same factor everywhere."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))

    def forward(self, patterns):
        return torch.complex(self.factor, 0 * self.factor).expand(patterns[:, :, None].shape)


@pytest.mark.slow
def test_at_most_35_percent_of_an_epoch_is_not_the_generators_forward_and_backward(capsys):
    """One-shot, 64x64 frames, 32 channels: epochs with a generator that costs nothing, over epochs.

    An unrolled generator is mostly physics: of its epochs the network is the smaller part.
    """
    scan = simulate(SimulationOptions(frame_shape=(64, 64), scan=Raster(n_y=10, n_x=10))).scan
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.batch_size = 50
    settings.start.n_iterations = 0
    settings.validation.held_out = 0
    settings.generator.architecture = napi.Architectures.HYBRID_UNO
    settings.generator.width = 32

    def seconds(network=None):
        task = build_task(options, scan)
        task.run(1)
        if network is not None:
            generator = task.reconstructor.parameter_group.generator
            generator.network = network
            generator.build_optimizer()
            task.reconstructor._last["generator"] = network.state_dict()
        start = time.perf_counter()
        task.run(3)
        return time.perf_counter() - start

    share = seconds(FreeNetwork()) / seconds()
    with capsys.disabled():
        print(f"\nnot the generator's: {share:.0%} of an epoch")
    assert share <= 0.35
