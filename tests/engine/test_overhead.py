"""How much of an epoch is not the generator's own work."""

import time

import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.generators import OneShot, OneShotNetwork
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


class NoNetwork(OneShotNetwork):
    """Nothing but a number that is fitted."""

    def __init__(self, options, n_patches, patch_shape):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))


class FreeGenerator(OneShot):
    """A generator that costs nothing: the same factor everywhere."""

    def __init__(self, options):
        super().__init__(options, 1, (64, 64), NoNetwork)

    def factors(self, inputs):
        factor = self.network.factor
        return torch.complex(factor, 0 * factor).expand(inputs[:, :, None].shape)


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

    def seconds(free):
        task = build_task(options, scan)
        task.run(1)
        if free:
            generator = task.reconstructor.parameter_group.generator
            generator.network = FreeGenerator(settings.generator)
            generator.build_optimizer()
            task.reconstructor.continuation.last.generator = generator.network.state_dict()
        start = time.process_time()
        task.run(3)
        return time.process_time() - start

    share = seconds(free=True) / seconds(free=False)
    with capsys.disabled():
        print(f"\nnot the generator's: {share:.0%} of an epoch")
    assert share <= 0.35
