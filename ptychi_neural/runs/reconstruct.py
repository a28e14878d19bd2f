"""One reconstruction from a run file to a results folder."""

import copy
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask
from ptychi.utils import orthogonalize_initial_probe

from ptychi_neural import evaluation
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.prediction import deviation
from ptychi_neural.runs.attend import run_attended
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.warm_start import NeuralWarmStartWorkflow
from ptychi_neural.scans import Scan, load_scan, write_product
from ptychi_neural.scans.hdf5 import dataset, opened
from ptychi_neural.simulation import simulate


@dataclass
class ReconstructionResult:
    """What a run has come to."""

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

    metrics: dict[str, float] | None
    """Comparison with the ground truth or the reference; None where there is neither."""


def reconstruct(
    run: RunFile,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ReconstructionResult:
    """Reconstruct a scan and write the results folder.

    The folder holds ``product.h5`` (ptychodus product, with ``object_std`` beside the object where
    a trained generator made it: how far its predictions disagree), ``run.toml`` (the run file with
    all defaults, which gives this result again), ``provenance.json``, ``losses.csv``,
    ``loss.png``, ``figure.png``, ``generator.safetensors`` and ``validation.csv`` (neural engine)
    and ``metrics.json`` (where there is a ground truth or reference). It appears when complete.

    Parameters
    ----------
    run : RunFile
        What to do. Without a ``random_seed`` one is drawn, and recorded.
    output_folder : str or Path, optional
        Takes the place of ``run.output_folder``.
    overwrite : bool
        Replace an earlier result.
    show_progress : bool
        Show a bar with epoch, loss and time left.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If the scan cannot be read, or engine and scan do not fit each other.
    """
    run = copy.deepcopy(run)
    run.output_folder = Path(output_folder or run.output_folder)
    check_output_folder(run.output_folder, overwrite)
    drawn = int(np.random.default_rng().integers(2**31))
    for engine in (run, run.refine):
        if engine is not None and engine.options.reconstructor_options.random_seed is None:
            engine.options.reconstructor_options.random_seed = drawn

    scan, reference = load(run)
    task = first_task = build_task(run.options, scan, keep=run.chosen)
    clock = time.perf_counter()
    stopped = None
    try:
        if run.refine is None:
            interrupted = run_attended(task, show_progress)
        else:
            workflow = NeuralWarmStartWorkflow(task, build_task(run.refine.options, scan))
            try:
                interrupted = workflow.run(show_progress)
            finally:
                task = workflow.reached
        stopped = "interrupted" if interrupted else None
    except FloatingPointError as error:
        if not task.get_data("object").isfinite().all():
            raise
        stopped = str(error)
    seconds = time.perf_counter() - clock

    if run.refine is None:
        assert task.reconstructor is not None
        losses = task.reconstructor.loss_tracker.table[["epoch", "loss"]].astype({"epoch": int})
        how = f"{run.engine}, {len(losses)} epochs"
    else:
        losses = workflow.losses
        losses["engine"] = losses.task.map({0: run.engine, 1: run.refine.engine})
        losses["epoch"] = range(len(losses))
        n_refined = int((losses.task == 1).sum())
        how = (
            f"{run.engine}, {len(losses) - n_refined} epochs, then {run.refine.engine}, "
            f"{n_refined} epochs"
        )
        losses = losses[["epoch", "loss", "engine"]]
    result = ReconstructionResult(
        folder=run.output_folder,
        task=task,
        first_task=first_task,
        scan=_reconstructed(scan, task, how),
        losses=losses,
        stopped=stopped,
        seconds=seconds,
        standard_deviation=_disagreement(task),
        metrics=None,
    )
    with new_folder(run.output_folder, overwrite) as folder:
        _save(result, run, folder)
        if reference is not None:
            refined = any(is_refined(e.options) for e in (run, run.refine) if e is not None)
            free = run.simulation is None or refined
            result.metrics = _compare(result.scan, reference, free)
            write_json(folder / "metrics.json", result.metrics)
        _draw(result, run, folder)
    return result


def _disagreement(task: PtychographyTask) -> NDArray[np.floating] | None:
    reconstructor = task.reconstructor
    if not isinstance(reconstructor, NeuralReconstructor) or not reconstructor.is_trained:
        return None
    of_object = deviation(reconstructor.generator, reconstructor.scan, reconstructor.start)
    standard_deviation = of_object.numpy(force=True)
    return None if np.isnan(standard_deviation).all() else standard_deviation


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to write a result over something else.

    Raises
    ------
    FileExistsError
        If the folder exists and is not empty, unless ``overwrite`` is set and it holds an earlier
        result.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists: --overwrite replaces it, --output FOLDER writes elsewhere."
        )
    if not (folder / "provenance.json").is_file():
        raise FileExistsError(
            f"{folder} exists and is no results folder: --output FOLDER writes elsewhere."
        )


def load(run: RunFile) -> tuple[Scan, NDArray[np.complexfloating] | None]:
    """The scan, and the (n_slices, H, W) object to compare with, if there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, or the reference is on another grid.
    """
    if run.simulation is not None:
        simulated = simulate(run.simulation)
        return simulated.scan, simulated.truth.object
    assert run.data is not None
    folder = run.data.folder
    scan = load_scan(folder / run.data.diffraction, folder / run.data.product)
    n_modes = run.data.n_probe_modes
    if n_modes is not None and n_modes != scan.probe.shape[1]:
        scan.probe = _with_modes(scan.probe, n_modes)
    if run.data.reference is None:
        return scan, None
    with opened(folder / run.data.reference) as file:
        reference = dataset(file, "object")[()]
    reference = reference.reshape(-1, *reference.shape[-2:])
    if reference.shape != scan.object.shape:
        raise ValueError(
            f"data.reference: its object is {reference.shape}, that of data.product "
            f"{scan.object.shape}; use a reference on the same grid, or leave it out."
        )
    return scan, reference


def _with_modes(probe: NDArray[np.complexfloating], n_modes: int) -> NDArray[np.complexfloating]:
    """(n_opr_modes, n_modes, h, w) probe with Hermite modes made from the first."""
    modes = torch.zeros(len(probe), n_modes, *probe.shape[-2:], dtype=torch.complex64)
    modes[:, 0] = torch.from_numpy(probe[:, 0])
    return orthogonalize_initial_probe(modes).numpy()


def _reconstructed(scan: Scan, task: PtychographyTask, how: str) -> Scan:
    """The scan with what the task made of it."""
    weights = scan.opr_mode_weights
    if task.opr_mode_weight_options.optimizable:
        weights = task.get_data("opr_mode_weights").numpy(force=True)
    return dataclasses.replace(
        scan,
        object=task.get_data("object").numpy(force=True),
        probe=task.get_data("probe").numpy(force=True),
        positions_px=task.get_data("probe_positions").numpy(force=True),
        opr_mode_weights=weights,
        comments=f"{scan.comments} Reconstructed: {how}.".strip(),
    )


def is_refined(options: PtychographyTaskOptions) -> bool:
    """Whether an engine refines the probe or the positions."""
    return options.probe_options.optimizable or options.probe_position_options.optimizable


def in_register(
    object: NDArray[np.complexfloating],
    reference: NDArray[np.complexfloating],
    positions_px: NDArray[np.float64],
    free: bool,
) -> tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.bool_]]:
    """(H, W) products of the slices of two objects, brought into register, and the scanned area.

    Parameters
    ----------
    object, reference : ndarray
        (n_slices, H, W) objects; the first is aligned with the second.
    positions_px : ndarray
        (n, 2) positions (y, x) that bound the scanned area.
    free : bool
        Whether a phase ramp and a translation are removed, besides one complex scale.
    """
    ours, theirs = object.prod(axis=0), reference.prod(axis=0)
    area = evaluation.scanned_area(positions_px, theirs.shape)
    ours = evaluation.align(ours, theirs, ramp=free, shift=free, mask=area).aligned
    return ours, theirs, area


def _compare(scan: Scan, reference: NDArray[np.complexfloating], free: bool) -> dict[str, float]:
    """Metrics of the product of all slices after one complex scale.

    Where probe and positions are not known (``free``), a phase ramp and a translation are
    ambiguous as well, and removed first.
    """
    ours, theirs, area = in_register(scan.object, reference, scan.positions_px, free)
    return {
        "complex_error": evaluation.complex_error(ours, theirs, area),
        "amplitude_correlation": evaluation.amplitude_correlation(ours, theirs, area),
        "phase_correlation": evaluation.phase_correlation(
            ours, theirs, area, ramp=free, shift=free
        ),
    }


@contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside the one to write, which takes its place when it is complete.

    An incomplete one stays, lest hours of computing be lost for a figure. Call
    ``check_output_folder`` first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    earlier = temporary.with_name(f"{temporary.name}.old")
    temporary.mkdir()
    try:
        yield temporary
        if overwrite and folder.exists():
            folder.rename(earlier)
        temporary.rename(folder)
    except BaseException as error:
        error.add_note(f"What was saved by then is in {temporary}.")
        raise
    if earlier.exists():
        shutil.rmtree(earlier)


def _save(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    losses = list(result.losses[["epoch", "loss"]].itertuples(index=False, name=None))
    write_product(folder / "product.h5", result.scan, losses)
    if result.standard_deviation is not None:
        with h5py.File(folder / "product.h5", "a") as file:
            file["object_std"] = result.standard_deviation
    reconstructor = result.first_task.reconstructor
    if isinstance(reconstructor, NeuralReconstructor):
        reconstructor.save_generator(folder / "generator.safetensors")
        reconstructor.validation.to_csv(folder / "validation.csv", index=False)
    run.write(folder / "run.toml")
    result.losses.to_csv(folder / "losses.csv", index=False)
    device = result.task.get_data("object").device
    content = provenance(
        result.seconds,
        device,
        seed=run.options.reconstructor_options.random_seed,
        epochs=len(result.losses),
        stopped=result.stopped,
    )
    write_json(folder / "provenance.json", content)


def _draw(result: ReconstructionResult, run: RunFile, folder: Path) -> None:
    curves = result.losses[["epoch", "loss"]]
    reconstructor = result.first_task.reconstructor
    if isinstance(reconstructor, NeuralReconstructor):
        validation = reconstructor.validation.query("stage == 'epoch'")
        held_out = pd.Series(validation.loss.array, index=validation.step - 1, name="held-out loss")
        held_out.index.name = "epoch"
        curves = curves.merge(held_out.reset_index(), on="epoch", how="left")
    evaluation.loss_figure(folder / "loss.png", curves)
    evaluation.reconstruction_figure(
        folder / "figure.png",
        result.scan.object,
        result.scan.probe,
        title=f"{result.scan.name}, {run.engine}"
        + (f" and {run.refine.engine}" if run.refine is not None else ""),
        pixel_size_m=result.scan.pixel_size_m,
        standard_deviation=result.standard_deviation,
        mask=evaluation.scanned_area(result.scan.positions_px, result.scan.object.shape),
    )
