"""How much of an epoch is not the generator's own work."""

import time
from statistics import median

import pytest
import torch
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


@pytest.mark.slow
def test_at_most_35_percent_of_an_epoch_is_not_the_generators_forward_and_backward(capsys):
    """64x64 frames, 32 channels; both times are taken in turn, so that a busy machine cancels."""
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

    def epochs(n):
        task.run(n)

    shares = []
    for _ in range(5):
        # Two epochs against one: what a run does once, whatever its length, drops out.
        epoch = seconds(lambda: epochs(2)) - seconds(lambda: epochs(1))
        shares.append(1 - seconds(generator_alone) / epoch)
    with capsys.disabled():
        print(f"\nnot the generator's: {median(shares):.0%} of an epoch")
    assert median(shares) <= 0.35
