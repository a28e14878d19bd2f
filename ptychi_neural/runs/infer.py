"""Prediction of a scan in files by a trained generator, at once or while it is measured."""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ptychi_neural.engine.ranks import join
from ptychi_neural.physics.ranks import n_ranks
from ptychi_neural.prediction import Accelerations, NeuralPredictor
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.configuration import data_changes, has_keys
from ptychi_neural.runs.folders import folder_name, results_folder
from ptychi_neural.runs.follow import follow_scan
from ptychi_neural.runs.frame_sources import scheme_of
from ptychi_neural.runs.inference import (
    InferenceResult,
    frame_numbers,
    set_geometry,
    write_inference,
)
from ptychi_neural.runs.live_page import live_page
from ptychi_neural.runs.progress import tell
from ptychi_neural.runs.run_file import RunFile, RunFileError, run_of
from ptychi_neural.runs.run_scan import load
from ptychi_neural.scans.load import read_positions
from ptychi_neural.scans.scan_names import named, scan_name

OUT_OF_DEPTH = 2.0
"""Relative error of amplitudes that no prediction of a scan has: where light is scarcest the true
object's is 1.41."""


def infer(
    generator: str | Path,
    diffraction: str | Path,
    product: str | Path | None = None,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    *,
    changes: Sequence[str] = (),
    data_folder: str | Path | None = None,
    follow: bool = False,
    resume: bool = False,
    every_s: float = 2.0,
    timeout_s: float = 30.0,
    page: int | None = None,
    accelerations: Sequence[str] = (),
) -> InferenceResult:
    """Predict a scan's object and write the results folder.

    The folder holds ``product.h5`` (ptychodus product, with ``object_std`` beside the object and
    the errors as ``reprojection_error``), ``figure.png`` and ``provenance.json``. It appears when
    it is complete; while a scan is followed, it is replaced by a newer one as frames arrive. Of
    several processes of ``torchrun`` each predicts its own frames, and the first writes and tells.

    Parameters
    ----------
    generator : str or Path
        Generator saved with ``save_generator``.
    diffraction : str or Path
        File of counts of any format, or a run file, of which the scan counts; or the address of a
        source of frames to follow, as ``tcp://127.0.0.1:9999``
        (``ptychi_neural.runs.frame_sources``).
    product : str or Path, optional
        File of positions, and perhaps of a probe and of an object, whose shape is the canvas. None:
        the file that belongs to ``diffraction``, or ``diffraction`` itself. An address needs one.
    output_folder : str or Path, optional
        None: ``results/<name of the scan>-inferred``.
    overwrite : bool
        Replace an earlier result.
    changes : sequence of str
        Keys of ``[data]``, see ``parse_changes``.
    data_folder : str or Path, optional
        Folder that takes the place of a run file's ``data.folder``.
    follow : bool
        Follow a file that is being written (HDF5 SWMR) until it stops growing, or an address until
        the scan ends, or Ctrl-C. Frames whose positions the product does not have are left out, and
        frames that are still empty are waited for. The final object of a file is the one that is
        predicted at once, where the product has a probe.
    resume : bool
        Go on with the frames that an earlier command has followed at an address, which was killed,
        interrupted or too impatient. Frames that came after its latest result are lost.
    every_s : float
        Seconds between looks at the growing file.
    timeout_s : float
        Seconds without a new frame after which its end is assumed.
    page : int, optional
        Port of this machine at which a page shows the scan while it is followed; 0: any that is
        free (``ptychi_neural.runs.live_page``). None: there is no page.
    accelerations : sequence of str
        What to try to make the networks faster while a scan is followed: ``bfloat16``, ``compile``
        (``ptychi_neural.prediction.acceleration``).

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If a file cannot be read, there is nothing to resume, or generator and scan do not fit each
        other.
    OSError
        If the page's port cannot be had.
    """
    join()
    if follow and n_ranks() > 1:
        raise ValueError("--follow: runs in one process; start without torchrun.")
    if page is not None and not follow:
        raise ValueError("--page shows a scan that is followed: add --follow.")
    tried = _accelerations(accelerations)
    if tried and not follow:
        raise ValueError("--accelerate is for a scan that is followed: add --follow.")
    address = str(diffraction) if scheme_of(str(diffraction)) else None
    if address is not None and (product is None or not follow):
        raise ValueError(
            f"{address}: frames from an address are followed: add --follow, and the planned "
            "positions with --product."
        )
    if resume and address is None:
        raise ValueError(
            "--resume goes on with frames from an address. A file has all of them: leave it out, "
            "--overwrite replaces the earlier result."
        )
    of_simulation = ["simulation"] if has_keys(diffraction) else []
    data_changes(changes, *of_simulation)
    predictor = NeuralPredictor.from_file(generator)
    place = None if product is None else Path(product)
    if address is not None and place is not None:
        run = _run_of_address(address, place, changes, data_folder)
    else:
        run = run_of(Path(diffraction), place, changes, data_folder)
    folder = Path(output_folder or Path("results") / f"{folder_name(_name(run))}-inferred")
    reads = [Path(generator), *run.reads]
    with results_folder(folder, overwrite, resume=resume, reads=reads) as results:
        tell("started", pid=os.getpid(), product_output=str(folder / "product.h5"))
        if follow:
            with nullcontext() if page is None else live_page(page) as shown:
                result = follow_scan(
                    *(predictor, run, address, results, Path(generator), every_s, timeout_s, shown),
                    tried,
                )
        else:
            result = _at_once(predictor, run, folder)
            with interruptible("the prediction"):
                write_inference(result, Path(generator), results)
        tell(
            "finished",
            frames=len(result.scan.positions_px),
            cancelled=result.interrupted,
            path=str(folder / "product.h5"),
        )
    return result


def _accelerations(names: Sequence[str]) -> list[Accelerations]:
    try:
        return [Accelerations(name) for name in names]
    except ValueError as error:
        choices = ", ".join(choice.value for choice in Accelerations)
        raise ValueError(f"--accelerate: {error}; choose from {choices}.") from None


def _run_of_address(
    address: str, product: Path, changes: Sequence[str], data_folder: str | Path | None
) -> RunFile:
    """A run of frames from an address, whose file of patterns is that of the positions."""
    if has_keys(product):
        raise ValueError(f"--product {product}: is a run file; give the file of the positions.")
    try:
        return run_of(product, product, changes, data_folder)
    except RunFileError as error:
        of_product = [p for p in error.problems if not p.startswith("data.diffraction:")]
        raise RunFileError(address, of_product or error.problems) from None


def _name(run: RunFile) -> str:
    """The name of the scan, which its file of positions tells, or that of its patterns."""
    if run.data is None:
        return scan_name(run.product)
    scan, _ = read_positions(run.data.product_path, run.data.preparation())
    return named(scan, run.data.diffraction_path).name


def _at_once(predictor: NeuralPredictor, run: RunFile, folder: Path) -> InferenceResult:
    """Predict a whole scan."""
    clock = time.perf_counter()
    scan, _ = load(run)
    set_geometry(predictor, scan)
    prediction = predictor.reconstruct(
        scan.patterns,
        scan.positions_px,
        scan.probe,
        scan.object.shape[-2:],
        valid_pixel_mask=scan.valid_pixel_mask,
        opr_mode_weights_data=scan.opr_mode_weights,
    )
    error = prediction.mean_reprojection_error
    if not error <= OUT_OF_DEPTH:
        raise FloatingPointError(
            f"The generator's object predicts amplitudes with a relative error of {error:.3g}, "
            "where no light at all would have 1: it was not trained for such scans, or positions "
            "and probe are others. Nothing is written; take another generator, or reconstruct."
        )
    errors = np.stack([frame_numbers(scan), prediction.reprojection_error], axis=1)
    return InferenceResult(folder, prediction, scan, errors, time.perf_counter() - clock)
