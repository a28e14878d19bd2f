"""Time and memory of a reconstruction, of one process or of each of several.

    OMP_NUM_THREADS=1 python tests/cost_of_ranks.py [--epochs 3] [--architecture unrolled]
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tests/cost_of_ranks.py [--epochs 3] [...]

Each process prints its CPU seconds of the iterations and of an epoch, and by how much its resident
memory has grown at most since before the task was built, when it held the counts of the whole scan.
"""

import argparse
import os
import time

import numpy as np
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.comparison.benchmark.peak_memory import peak_memory_mib
from ptychi_neural.physics.ranks import n_ranks, rank


def main() -> None:
    """Reconstruct an empty object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="pixels of a frame")
    parser.add_argument("--frames", type=int, default=24, help="frames along a side of the scan")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="epochs of a network after them")
    parser.add_argument("--architecture", default="unrolled", help="of this network")
    parser.add_argument("--batch", type=int, default=None, help="frames of a batch")
    arguments = parser.parse_args()
    side, n = arguments.side, arguments.frames
    y, x = np.mgrid[:side, :side] - side / 2
    probe = np.exp(-(x**2 + y**2) / (side / 6) ** 2 + 2j * (x**2 + y**2) / side)
    power = np.abs(np.fft.fftshift(np.fft.fft2(probe))) ** 2
    rng = np.random.default_rng(0)
    counts = rng.poisson(1e5 * power / power.sum(), (n * n, side, side)).astype(np.uint16)
    step = side / 16
    positions = step * np.stack(np.mgrid[:n, :n], -1).reshape(-1, 2)
    positions = positions + rng.uniform(-1, 1, positions.shape)
    positions -= positions.mean(0)
    extent = int(step * n + side + 8)
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device, settings.num_epochs = "cpu", arguments.epochs
    settings.random_seed, settings.batch_size = 0, arguments.batch
    settings.generator.architecture = arguments.architecture
    settings.start.n_iterations = arguments.iterations
    options.probe_options.optimizable = False
    before = peak_memory_mib()
    task = PtychographyTask(
        options,
        diffraction_data=counts,
        object_data=np.ones((1, extent, extent), complex),
        probe_data=probe[None, None],
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )
    times: list[float] = []
    begin_epoch = task.reconstructor.run_pre_epoch_hooks

    def note_time() -> None:
        times.append(time.process_time())
        begin_epoch()

    task.reconstructor.run_pre_epoch_hooks = note_time
    number, started, wall = rank(), time.process_time(), time.perf_counter()
    task.run()
    ended = times[0] if times else time.process_time()
    of_epoch = ""
    if len(times) > 1:
        of_epoch = f"{(times[-1] - times[0]) / (len(times) - 1):.1f} CPU s an epoch, "
    print(
        f"process {number} of {n_ranks()} (pid {os.getpid()}): "
        f"{ended - started:.1f} CPU s of the start, {of_epoch}{time.perf_counter() - wall:.1f} s, "
        f"memory grown by {peak_memory_mib() - before:.0f} MiB from {before:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
