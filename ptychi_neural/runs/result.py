"""The result of a reconstruction, and the files in its folder."""

import errno
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from ptychi.api.task import PtychographyTask

from ptychi_neural import evaluation
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.prediction.deviation_intervals import Intervals
from ptychi_neural.runs.checkpoints import CHECKPOINT
from ptychi_neural.runs.pictures import shown_area
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan, write_product
from ptychi_neural.scans.hdf5 import replacing, written


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
    """(H, W) disagreement of the predictions that make up the object, or where intervals are
    measured the deviation that belongs to them; None where it is not a trained generator's."""

    intervals: Intervals | None
    """Where amplitude and phase are expected; None where the run file does not ask for it."""

    metrics: dict[str, float] | None
    """Comparison with the ground truth or the reference; None where there is neither."""

    unsaved: list[str] = field(default_factory=list)
    """Files of the result that could not be written."""


def check_room(folder: Path, scan: Scan) -> None:
    """Check that a product of a scan fits on the disk, before anything is computed.

    Raises
    ------
    OSError
        If it does not.
    """
    arrays = (scan.object, scan.probe, scan.positions_px, scan.opr_mode_weights)
    needed = 2 * sum(array.nbytes for array in arrays if array is not None)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder.parent}: the disk has {free / 2**20:.3g} MiB left, a result takes at least "
            f"{needed / 2**20:.3g} MiB. Make room, or write elsewhere with --output FOLDER."
        )


@contextmanager
def what_fails_is_told(
    result: ReconstructionResult, what: str, is_needed: bool = True
) -> Iterator[None]:
    """Let a part of the result that cannot be made or written not keep the others from it.

    Parameters
    ----------
    result : ReconstructionResult
        Takes note of what was not written.
    what : str
        The part, for the message.
    is_needed : bool
        Whether the result is incomplete without it, and not only where the disk is full.
    """
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} could not be written: {error}", stacklevel=3)
        if is_needed or isinstance(error, OSError):
            result.unsaved.append(what)


def save_product(result: ReconstructionResult, folder: Path) -> None:
    """Write the product. On a full disk the checkpoint makes room for it.

    Raises
    ------
    OSError
        If it cannot be written. The product lies in the system's temporary folder then.
    """
    losses = list(result.losses[["epoch", "loss"]].itertuples(index=False, name=None))
    try:
        try:
            write_product(folder / "product.h5", result.scan, losses, overwrite=True)
        except (OSError, RuntimeError):
            (folder / CHECKPOINT).unlink(missing_ok=True)
            write_product(folder / "product.h5", result.scan, losses, overwrite=True)
    except (OSError, RuntimeError) as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="ptychi-neural-")) / "product.h5"
        write_product(elsewhere, result.scan, losses)
        failure = OSError(f"product.h5 could not be written ({error}). It is {elsewhere}.")
        failure.errno = getattr(error, "errno", None) or errno.EIO
        raise failure from error


def save_deviation(result: ReconstructionResult, folder: Path) -> None:
    """Write the disagreement of the predictions into the product, where there is one."""
    if result.standard_deviation is not None:
        _add_to_product(folder, object_std=result.standard_deviation)


def save_intervals(result: ReconstructionResult, folder: Path) -> None:
    """Write intervals of amplitude and phase and their deviation into the product, if any."""
    if result.intervals is not None:
        _add_to_product(
            folder,
            object_std=result.intervals.standard_deviation,
            amplitude_interval=result.intervals.amplitude,
            phase_interval=result.intervals.phase,
        )


def _add_to_product(folder: Path, **arrays: NDArray[np.floating]) -> None:
    path = folder / "product.h5"
    with replacing(path, overwrite=True) as temporary, written(temporary, path) as file:
        for name, array in arrays.items():
            file[name] = array


def save(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    """Write the generator, the losses and the provenance."""
    reconstructor = result.first_task.reconstructor
    if isinstance(reconstructor, NeuralReconstructor):
        with what_fails_is_told(result, "generator.safetensors"):
            reconstructor.save_generator(folder / "generator.safetensors", overwrite=True)
        with what_fails_is_told(result, "validation.csv"):
            reconstructor.validation.to_csv(folder / "validation.csv", index=False)
    with what_fails_is_told(result, "losses.csv"):
        result.losses.to_csv(folder / "losses.csv", index=False)
    save_provenance(result, run, folder)


def save_provenance(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    """Write how the result came about, in the place of what was written before."""
    content = provenance(
        result.seconds,
        result.task.get_data("object").device,
        seed=run.options.reconstructor_options.random_seed,
        epochs=len(result.losses),
        stopped=result.stopped,
    )
    with what_fails_is_told(result, "provenance.json"):
        write_json(folder / "provenance.json", content)


def draw(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    """Draw the course of the losses, and the object and the probe."""
    with what_fails_is_told(result, "loss.png", is_needed=False):
        evaluation.loss_figure(folder / "loss.png", _curves(result), overwrite=True)
    with what_fails_is_told(result, "figure.png", is_needed=False):
        _draw_object(result, run, folder)


def _curves(result: ReconstructionResult) -> pd.DataFrame:
    """Loss, and held-out loss of the neural engine, by epoch."""
    curves = result.losses[["epoch", "loss"]]
    reconstructor = result.first_task.reconstructor
    if not isinstance(reconstructor, NeuralReconstructor):
        return curves
    validation = reconstructor.validation.query("stage == 'epoch'")
    held_out = pd.Series(validation.loss.array, index=validation.step - 1, name="held-out loss")
    held_out.index.name = "epoch"
    return curves.merge(held_out.reset_index(), on="epoch", how="left")


def _draw_object(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    scan, intervals = result.scan, result.intervals
    evaluation.reconstruction_figure(
        folder / "figure.png",
        scan.object,
        scan.probe,
        title=f"{scan.name}, {' and '.join(stage.engine for stage in run.stages)}",
        pixel_size_m=scan.known_pixel_size_m,
        standard_deviation=result.standard_deviation,
        intervals=None if intervals is None else (intervals.amplitude, intervals.phase),
        mask=shown_area(scan),
        overwrite=True,
    )
