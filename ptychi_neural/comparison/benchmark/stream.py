"""Throughput of a prediction during the measurement, beside the network's own forward pass."""

import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from ptychi.api.task import PtychographyTask

from ptychi_neural.comparison.markdown import markdown
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.options.choices import Architectures, Lifters
from ptychi_neural.prediction import Accelerations, NeuralPredictor
from ptychi_neural.scans import Scan
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.simulation import Raster, SimulationOptions, simulate

STREAM = "stream"
"""Name of this benchmark, beside those of the suites."""

STREAM_DESCRIPTION = "Frames per second of a stream, and the time from a frame to the canvas."

ARCHITECTURES = (Architectures.CNN, Architectures.HYBRID_UNO)
"""One-shot generators, whose lifter sees the counts alone."""

WIDTH = 8
"""Channels of their first level."""

BLOCK = 64
"""Frames that arrive at once."""


ACCELERATIONS: tuple[Collection[Accelerations], ...] = (
    (),
    (Accelerations.BFLOAT16,),
    tuple(Accelerations),
)
"""What is to make the networks faster, row by row."""


class Spent(NamedTuple):
    """What some repetitions took."""

    wall_s: float
    """Median of the wall times of a repetition."""

    cpu_s: float
    """Median of the times of all cores."""


def stream_benchmark(
    output: str | Path | None = None,
    frame_size: int = 64,
    n_blocks: int = 10,
    n_side: int = 16,
    accelerations: Sequence[Collection[Accelerations]] = ACCELERATIONS,
) -> Path:
    """Measure frames per second and latency of streams, and write ``table.md`` and ``table.csv``.

    Generators are not trained: their weights have no influence on the time.

    Parameters
    ----------
    output : str or Path, optional
        Folder of the tables; None: ``results/benchmarks/stream``.
    frame_size : int
        Side of the frames in pixels.
    n_blocks : int
        Blocks of 64 frames that are timed.
    n_side : int
        Scan positions along each side, over which the frames go again and again.
    accelerations : sequence of collections of Accelerations
        What is to make the networks faster, each time.

    Returns
    -------
    Path
        The Markdown table.
    """
    raster = Raster(n_y=n_side, n_x=n_side, step_px=frame_size / 8, jitter_px=0.5)
    choices = SimulationOptions(seed=0, frame_shape=(frame_size, frame_size), scan=raster)
    scan = simulate(choices).scan
    rows = [_measured(name, scan, n_blocks, of) for name in ARCHITECTURES for of in accelerations]
    table = pd.DataFrame(rows)
    folder = Path(output or Path("results") / "benchmarks" / STREAM)
    with replacing(folder / "table.csv", overwrite=True) as path:
        table.to_csv(path, index=False)
    heading = (
        f"Frames of {frame_size} x {frame_size} pixels in blocks of {BLOCK}, width {WIDTH}, seed "
        f"0, {torch.get_num_threads()} threads, torch {torch.__version__}. Overhead: of CPU time, "
        "beside the network's forward pass. Latency: from the arrival of a block to its sums on "
        "the canvas; then the object is made of these where it is asked for.\n\n"
    )
    with replacing(folder / "table.md", overwrite=True) as path:
        path.write_text(heading + markdown(table) + "\n", encoding="utf-8")
    return folder / "table.md"


def _measured(
    architecture: Architectures, scan: Scan, n_blocks: int, wanted: Collection[Accelerations]
) -> dict[str, object]:
    predictor = _predictor(architecture, scan)
    shape = scan.object.shape[-2:]
    chosen = predictor.accelerate(scan.probe, shape, wanted, BLOCK) if wanted else []
    n_frames = len(scan.patterns)
    stream = predictor.stream(scan.probe, shape, batch_size=BLOCK)
    patterns = scan.patterns.astype(np.uint16)

    def forward(block: int) -> None:
        rows = np.arange(BLOCK * block, BLOCK * (block + 1)) % n_frames
        with torch.no_grad():
            predictor.generator.patches(torch.from_numpy(patterns[rows].astype(np.float32)))

    def arrive(block: int) -> None:
        ids = np.arange(BLOCK * block, BLOCK * (block + 1))
        rows = ids % n_frames
        stream.add(patterns[rows], scan.positions_px[rows], ids)

    of_network, of_stream = _timed((forward, arrive), n_blocks)
    (of_object,) = _timed((lambda _: np.abs(stream.current().object),), 3)
    return {
        "generator": architecture.value,
        "faster by": ", ".join(choice.value for choice in chosen) or "-",
        "network frames/s": round(BLOCK / of_network.wall_s),
        "stream frames/s": round(BLOCK / of_stream.wall_s),
        "network CPU ms/frame": 1e3 * of_network.cpu_s / BLOCK,
        "stream CPU ms/frame": 1e3 * of_stream.cpu_s / BLOCK,
        "overhead %": 100 * (of_stream.cpu_s / of_network.cpu_s - 1),
        "latency ms": 1e3 * of_stream.wall_s,
        "object ms": 1e3 * of_object.wall_s,
    }


def _timed(functions: Sequence[Callable[[int], object]], n: int) -> list[Spent]:
    """What calls of functions of 0, 1, 2 ... take; the first two are not counted.

    The functions take turns: a machine that becomes slower meanwhile slows all of them.
    """
    spent = np.zeros((n + 2, len(functions), 2))
    for k in range(n + 2):
        for function, of_call in zip(functions, spent[k]):
            started = time.perf_counter(), time.process_time()
            function(k)
            of_call[:] = time.perf_counter() - started[0], time.process_time() - started[1]
    return [Spent(*of_function) for of_function in np.median(spent[2:], axis=0).tolist()]


def _predictor(architecture: Architectures, scan: Scan) -> NeuralPredictor:
    """A predictor of a generator that has seen the scan's statistics, and no more."""
    options = NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.generator.architecture = architecture
    settings.generator.lifter, settings.generator.width = Lifters.LOG, WIDTH
    settings.start.n_iterations, settings.num_epochs = 0, 0
    settings.random_seed = 0
    task = PtychographyTask(
        options,
        diffraction_data=scan.patterns,
        object_data=np.ones_like(scan.object),
        probe_data=scan.probe,
        probe_position_x_px=scan.positions_px[:, 1],
        probe_position_y_px=scan.positions_px[:, 0],
    )
    task.run(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.safetensors"
        reconstructor: Any = task.reconstructor
        reconstructor.save_generator(path)
        return NeuralPredictor.from_file(path)
