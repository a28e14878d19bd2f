"""How much of an epoch is not the generator's own work."""

import time

import pytest
import torch
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


@pytest.mark.slow
def test_at_most_35_percent_of_an_epoch_is_not_the_generators_forward_and_backward(capsys):
    """64x64 frames, 32 channels."""
    scan = simulate(SimulationOptions(frame_shape=(64, 64), scan=Raster(n_y=10, n_x=10))).scan
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.batch_size = 50
    settings.generator.width = 32
    settings.consistency.canvas_update_stride = 1000
    task = PtychographyTask(
        options,
        diffraction_data=scan.patterns,
        object_data=scan.object,
        probe_data=scan.probe,
        probe_position_x_px=scan.positions_px[:, 1],
        probe_position_y_px=scan.positions_px[:, 0],
    )
    task.run(1)
    network = task.reconstructor.parameter_group.generator.network
    batches = [
        task.reconstructor.model.generator_features(indices)[:, None]
        for indices, _ in task.reconstructor.dataloader
    ]

    def seconds(work):
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def generator_alone():
        for batch in batches:
            patches = network(batch)
            patches.backward(torch.ones_like(patches))
        network.zero_grad()

    # A run of two epochs less one of one epoch: what a run does once, whatever its length, drops
    # out. The shortest of three, taken in turn, is what a busy machine disturbs least.
    times = [
        [seconds(generator_alone), seconds(lambda: task.run(1)), seconds(lambda: task.run(2))]
        for _ in range(3)
    ]
    alone, one_epoch, two_epochs = map(min, zip(*times))
    share = 1 - alone / (two_epochs - one_epoch)
    with capsys.disabled():
        print(f"\nnot the generator's: {share:.0%} of an epoch")
    assert share <= 0.35
