"""The result of a reconstruction, and the files in its folder."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask

from ptychi_neural import evaluation
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.prediction.deviation_intervals import Intervals
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan, write_product


@dataclass
class ReconstructionResult:
    """The result of a run."""

    folder: Path
    """The results folder."""

    task: PtychographyTask
    """The task in its last state; of a run with ``[refine]`` the one that ran last."""

    first_task: PtychographyTask
    """The task of ``engine``."""

    scan: Scan
    """The scan with the reconstructed object, probe and positions."""

    losses: pd.DataFrame
    """Columns ``epoch`` and ``loss``; of a run with ``[refine]`` those of both engines in a row,
    with a column ``engine``."""

    stopped: str | None
    """What ended the run before its last epoch: "interrupted", or the message of an error."""

    seconds: float
    """Wall time of the epochs, without loading and saving."""

    standard_deviation: NDArray[np.floating] | None
    """(H, W) disagreement of the predictions that make up the object; None where it is not a
    trained generator's."""

    intervals: Intervals | None
    """Where amplitude and phase are expected; None where the run file does not ask for it."""

    metrics: dict[str, float] | None
    """Comparison with the ground truth or the reference; None where there is neither."""


def save(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    """Write the product, the generator, the run file, the losses and the provenance."""
    losses = list(result.losses[["epoch", "loss"]].itertuples(index=False, name=None))
    write_product(folder / "product.h5", result.scan, losses)
    if result.standard_deviation is not None:
        with h5py.File(folder / "product.h5", "a") as file:
            file["object_std"] = result.standard_deviation
    if result.intervals is not None:
        with h5py.File(folder / "product.h5", "a") as file:
            file["amplitude_interval"] = result.intervals.amplitude
            file["phase_interval"] = result.intervals.phase
    reconstructor = result.first_task.reconstructor
    if isinstance(reconstructor, NeuralReconstructor):
        reconstructor.save_generator(folder / "generator.safetensors")
        reconstructor.validation.to_csv(folder / "validation.csv", index=False)
    run.write(folder / "run.toml")
    result.losses.to_csv(folder / "losses.csv", index=False)
    content = provenance(
        result.seconds,
        result.task.get_data("object").device,
        seed=run.options.reconstructor_options.random_seed,
        epochs=len(result.losses),
        stopped=result.stopped,
    )
    write_json(folder / "provenance.json", content)


def draw(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    """Draw the course of the losses, and the object and the probe."""
    curves = result.losses[["epoch", "loss"]]
    reconstructor = result.first_task.reconstructor
    if isinstance(reconstructor, NeuralReconstructor):
        validation = reconstructor.validation.query("stage == 'epoch'")
        held_out = pd.Series(validation.loss.array, index=validation.step - 1, name="held-out loss")
        held_out.index.name = "epoch"
        curves = curves.merge(held_out.reset_index(), on="epoch", how="left")
    evaluation.loss_figure(folder / "loss.png", curves)
    scan, intervals = result.scan, result.intervals
    evaluation.reconstruction_figure(
        folder / "figure.png",
        scan.object,
        scan.probe,
        title=f"{scan.name}, {' and '.join(stage.engine for stage in run.stages)}",
        pixel_size_m=scan.pixel_size_m,
        standard_deviation=result.standard_deviation,
        intervals=None if intervals is None else (intervals.amplitude, intervals.phase),
        mask=evaluation.scanned_area(scan.positions_px, scan.object.shape),
    )
