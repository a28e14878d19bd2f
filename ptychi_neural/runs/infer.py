"""Prediction of a scan in files by a trained generator, at once or while it is measured."""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from ptychi_neural.evaluation.prediction_figures import prediction_figure
from ptychi_neural.prediction import NeuralPredictor, PredictedObject, PredictionStream
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.folders import ResultsFolder, folder_name, results_folder
from ptychi_neural.runs.frame_sources import BATCH_SIZE, Look, opened_source, scheme_of
from ptychi_neural.runs.live_page import LivePage, live_page
from ptychi_neural.runs.progress import tell, what_fails_is_said
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.runs.run_file import RunFile, run_of
from ptychi_neural.runs.run_scan import begun, load
from ptychi_neural.runs.sections import DataSection
from ptychi_neural.scans import Scan, check_geometry, select_frames, write_product
from ptychi_neural.scans.load import planned_scan, read_positions, with_start


@dataclass
class InferenceResult:
    """What a generator has predicted."""

    folder: Path
    """The results folder."""

    prediction: PredictedObject
    """Object, weight, standard deviation, re-projection errors."""

    scan: Scan
    """The scan's predicted frames, without patterns, with the predicted object and the probe."""

    errors: NDArray[np.floating]
    """(k, 2) re-projection errors in the second column. The first column has the number of the
    frame where a whole scan is predicted; of a followed scan it has the number of frames that had
    arrived, and the error is the mean of the latest batch."""

    seconds: float
    """Wall time, without writing."""

    interrupted: bool = False
    """Whether Ctrl-C was pressed while the scan was followed."""


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
    every_s: float = 2.0,
    timeout_s: float = 30.0,
    page: int | None = None,
) -> InferenceResult:
    """Predict a scan's object and write the results folder.

    The folder holds ``product.h5`` (ptychodus product, with ``object_std`` beside the object and
    the errors as ``reprojection_error``), ``figure.png`` and ``provenance.json``. It appears when
    it is complete; while a scan is followed, it is replaced by a newer one as frames arrive.

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
    every_s : float
        Seconds between looks at the growing file.
    timeout_s : float
        Seconds without a new frame after which its end is assumed.
    page : int, optional
        Port of this machine at which a page shows the scan while it is followed; 0: any that is
        free (``ptychi_neural.runs.live_page``). None: there is no page.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If a file cannot be read, or generator and scan do not fit each other.
    OSError
        If the page's port cannot be had.
    """
    if page is not None and not follow:
        raise ValueError("--page shows a scan that is followed: add --follow.")
    address = str(diffraction) if scheme_of(str(diffraction)) else None
    if address is not None and (product is None or not follow):
        raise ValueError(
            f"{address}: frames from an address are followed: add --follow, and the planned "
            "positions with --product."
        )
    predictor = NeuralPredictor.from_file(generator)
    place = None if product is None else Path(product)
    # There is no file of patterns beside the positions where frames come from an address.
    patterns = place if address is not None and place is not None else Path(diffraction)
    run = run_of(patterns, place, changes, data_folder)
    folder = Path(output_folder or Path("results") / f"{folder_name(_name(run))}-inferred")
    with results_folder(folder, overwrite) as results:
        tell("started", pid=os.getpid(), product_output=str(folder / "product.h5"))
        if follow:
            with nullcontext() if page is None else live_page(page) as shown:
                result = _follow(
                    *(predictor, run, address, results, Path(generator), every_s, timeout_s, shown)
                )
        else:
            result = _at_once(predictor, run, folder)
            with interruptible("the prediction"):
                _write(result, Path(generator), results)
        tell(
            "finished",
            frames=len(result.scan.positions_px),
            cancelled=result.interrupted,
            path=str(folder / "product.h5"),
        )
    return result


def _name(run: RunFile) -> str:
    """The name of the scan, which its file of positions tells."""
    if run.data is None:
        return run.simulation.name if run.simulation is not None else ""
    scan, _ = read_positions(run.data.product_path, run.data.preparation())
    return scan.name or run.data.diffraction.stem


def _at_once(predictor: NeuralPredictor, run: RunFile, folder: Path) -> InferenceResult:
    """Predict a whole scan."""
    clock = time.perf_counter()
    scan, _ = load(run)
    _set_geometry(predictor, scan)
    prediction = predictor.reconstruct(
        scan.patterns,
        scan.positions_px,
        scan.probe,
        scan.object.shape[-2:],
        valid_pixel_mask=scan.valid_pixel_mask,
        opr_mode_weights_data=scan.opr_mode_weights,
    )
    errors = np.stack([_frame_numbers(scan), prediction.reprojection_error], axis=1)
    return InferenceResult(folder, prediction, scan, errors, time.perf_counter() - clock)


def _follow(
    predictor: NeuralPredictor,
    run: RunFile,
    address: str | None,
    results: ResultsFolder,
    generator: Path,
    every_s: float,
    timeout_s: float,
    page: LivePage | None,
) -> InferenceResult:
    """Predict anew whenever frames have come, and keep the results folder up to date."""
    if run.data is None:
        raise ValueError("the run file has no section [data]: its scan is simulated.")
    section, latest = run.data, None
    preparation, product = section.preparation(), section.product_path
    with (
        interruptible("what has arrived") as stop,
        opened_source(address or section.diffraction_path, preparation, timeout_s) as source,
    ):
        planned = planned_scan(product, preparation, source.stored_shape)
        _set_geometry(predictor, planned)
        near_field = planned.free_space_propagation_distance_m is not None
        looks = source.looks(every_s, timeout_s, stop, near_field)
        for found in _followed(predictor, looks, planned, section, results.folder):
            if page is not None:
                page.show(found.prediction, found.scan, len(planned.positions_px))
            if latest is not None:
                results.renew()
            latest = found
            _write(latest, generator, results)
            if page is not None:
                page.show_deviation(found.prediction.standard_deviation)
            tell("prediction", frames=len(latest.scan.positions_px))
        interrupted = stop()
    if latest is None and interrupted:
        raise KeyboardInterrupt
    if latest is None:
        raise ValueError(
            f"{address or section.diffraction_path}: no frame with a position in {product} came "
            f"within {timeout_s:g} s."
        )
    return dataclasses.replace(latest, interrupted=interrupted)


def _followed(
    predictor: NeuralPredictor,
    looks: Iterator[Look],
    planned: Scan,
    section: DataSection,
    folder: Path,
) -> Iterator[InferenceResult]:
    """Predict anew after each look at the file that has brought frames with a position."""
    clock = time.perf_counter()
    rows_of = {number: row for row, number in enumerate(_frame_numbers(planned).tolist())}
    stream: PredictionStream | None = None
    arrived = np.zeros(len(rows_of), dtype=bool)
    errors: list[tuple[int, float]] = []
    mean_counts: float | None = None
    for anew, blocks in looks:
        if anew:
            if stream is not None and not stream.outdated:
                mean_counts = stream.mean_counts
            stream, arrived[:] = None, False
        n_before = 0 if stream is None else stream.n_frames
        for numbers, patterns, mask in blocks:
            known = np.array([number in rows_of for number in numbers.tolist()], dtype=bool)
            rows = [rows_of[number] for number in numbers[known].tolist()]
            if not rows:
                continue
            patterns = patterns[known]
            if stream is None:
                first = dataclasses.replace(planned, patterns=patterns, valid_pixel_mask=mask)
                stream = _begun(predictor, begun(section, with_start(first)), mean_counts)
            stream.add(patterns, planned.positions_px[rows], numbers[known])
            arrived[rows] = True
        if stream is None or stream.n_frames == n_before:
            continue
        prediction = stream.current()
        if errors and errors[-1][0] == stream.n_frames:
            errors.pop()
        errors.append((stream.n_frames, float(prediction.reprojection_error.mean())))
        yield InferenceResult(
            folder,
            prediction,
            select_frames(planned, arrived),
            np.array(errors),
            time.perf_counter() - clock,
        )


def _begun(predictor: NeuralPredictor, scan: Scan, mean_counts: float | None) -> PredictionStream:
    """A stream whose probe has the power of the mean counts; None: those of the scan's frames."""
    mask, shape = scan.valid_pixel_mask, scan.object.shape[-2:]
    if mean_counts is None:
        where = True if mask is None else mask
        mean_counts = float(scan.patterns.sum(dtype=np.float64, where=where)) / len(scan.patterns)
    probe = predictor.rescaled_probe(scan.probe, shape, mean_counts, mask)
    return predictor.stream(probe, shape, batch_size=BATCH_SIZE, valid_pixel_mask=mask)


def _frame_numbers(scan: Scan) -> NDArray[np.int64]:
    n = len(scan.positions_px)
    return np.arange(n) if scan.frame_indexes is None else scan.frame_indexes


def _set_geometry(predictor: NeuralPredictor, scan: Scan) -> None:
    """Let pixel size, slice spacings, wavelength and near field be those of the scan."""
    options = predictor.options
    options.object_options.pixel_size_m = scan.pixel_size_m
    if scan.slice_spacings_m is not None:
        options.object_options.slice_spacings_m = scan.slice_spacings_m.tolist()
    if scan.wavelength_m is not None:
        options.data_options.wavelength_m = scan.wavelength_m
    near_field_m = scan.free_space_propagation_distance_m
    check_geometry(len(scan.object), scan.wavelength_m, near_field_m)
    if near_field_m is not None:  # The near field has no DC to shift.
        options.data_options.free_space_propagation_distance_m = near_field_m
        options.data_options.fft_shift = False


def _write(result: InferenceResult, generator: Path, results: ResultsFolder) -> None:
    """Write the results folder, the product first."""
    prediction, folder = result.prediction, results.temporary
    result.scan = dataclasses.replace(
        result.scan,
        patterns=result.scan.patterns[:0],
        object=prediction.object,
        probe=prediction.probe,
        comments=f"{result.scan.comments} Predicted by {generator.name}.".strip(),
    )
    write_product(folder / "product.h5", result.scan)
    with h5py.File(folder / "product.h5", "a") as file:
        file["object_std"] = prediction.standard_deviation
        file["reprojection_error"] = result.errors
    content = provenance(
        result.seconds,
        torch.get_default_device(),
        generator=str(generator.resolve()),
        frames=len(result.scan.positions_px),
        mean_reprojection_error=float(prediction.reprojection_error.mean()),
    )
    write_json(folder / "provenance.json", content)
    with what_fails_is_said("figure.png"):
        prediction_figure(
            folder / "figure.png",
            prediction.object,
            prediction.standard_deviation,
            result.errors,
            title=f"{result.scan.name}, {len(result.scan.positions_px)} frames",
            pixel_size_m=result.scan.pixel_size_m,
            mask=prediction.covered,
        )
    results.publish()
