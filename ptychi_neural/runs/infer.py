"""Prediction of a scan in files by a trained generator, at once or while it is measured."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.utils import rescale_probe

from ptychi_neural.evaluation.prediction_figures import prediction_figure
from ptychi_neural.prediction import NeuralPredictor, PredictedObject, PredictionStream
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.folders import check_output_folder, new_folder
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.scans import Scan, load_scan, read_product, select_frames, write_product
from ptychi_neural.scans.diffraction import PATTERNS, pixel_mask
from ptychi_neural.scans.hdf5 import dataset

BATCH_SIZE = 64
"""Frames that are read and predicted at a time while a scan is followed."""


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
    """(k, 2) numbers of frames and their re-projection errors: of each frame of a whole scan; of
    a followed one the mean of the latest batch after so many frames."""

    seconds: float
    """Wall time, without writing."""

    interrupted: bool = False
    """Whether Ctrl-C ended the following."""


def infer(
    generator: str | Path,
    diffraction: str | Path,
    product: str | Path,
    output_folder: str | Path | None = None,
    overwrite: bool = False,
    *,
    follow: bool = False,
    every_s: float = 2.0,
    timeout_s: float = 30.0,
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
        HDF5 file of counts.
    product : str or Path
        ptychodus product with positions, probe and an object, whose shape is the canvas.
    output_folder : str or Path, optional
        None: ``results/<name of the scan>-inferred``.
    overwrite : bool
        Replace an earlier result.
    follow : bool
        Follow a file that is being written (HDF5 SWMR) until it stops growing, or Ctrl-C.
        Positions that the product does not have yet, and frames still empty, are waited for.
    every_s : float
        Seconds between looks at the growing file.
    timeout_s : float
        Seconds without a new frame after which its end is assumed.

    Raises
    ------
    FileExistsError
        If the folder exists, before anything is done.
    FileNotFoundError, ValueError
        If a file cannot be read, or generator and scan do not fit each other.
    """
    predictor = NeuralPredictor.from_file(generator)
    planned = read_product(product)
    folder = Path(output_folder or Path("results") / f"{planned.name or 'scan'}-inferred")
    check_output_folder(folder, overwrite)
    _set_geometry(predictor, planned)
    if not follow:
        clock = time.perf_counter()
        scan = load_scan(diffraction, product)
        prediction = predictor.reconstruct(
            scan.patterns,
            scan.positions_px,
            scan.probe,
            scan.object.shape[-2:],
            valid_pixel_mask=scan.valid_pixel_mask,
            opr_mode_weights_data=scan.opr_mode_weights,
        )
        errors = np.stack([_frame_numbers(scan), prediction.reprojection_error], axis=1)
        seconds = time.perf_counter() - clock
        result = InferenceResult(folder, prediction, scan, errors, seconds)
        _write(result, generator, overwrite)
        return result
    latest: InferenceResult | None = None
    with interruptible("what has arrived") as stop:
        looks = _growing(diffraction, every_s, timeout_s, stop)
        for latest in _followed(predictor, looks, planned, folder):
            _write(latest, generator, overwrite)
            overwrite = True
        interrupted = stop()
    if latest is None:
        raise ValueError(
            f"{diffraction}: no frame with a position in {product} came within {timeout_s:g} s."
        )
    latest.interrupted = interrupted
    return latest


Block = tuple[NDArray[np.int64], NDArray[np.generic]]
"""Numbers of frames, and their patterns."""

Look = tuple[NDArray[np.bool_] | None, Iterator[Block]]
"""The detector's mask, and the frames that are new."""


def _followed(
    predictor: NeuralPredictor, looks: Iterator[Look], planned: Scan, folder: Path
) -> Iterator[InferenceResult]:
    """The state after each look at the file that has brought new frames."""
    clock = time.perf_counter()
    rows_of = {number: row for row, number in enumerate(_frame_numbers(planned).tolist())}
    stream: PredictionStream | None = None
    arrived = np.zeros(len(rows_of), dtype=bool)
    errors: list[tuple[int, float]] = []
    for mask, blocks in looks:
        n_before = 0 if stream is None else stream.n_frames
        for numbers, patterns in blocks:
            known = np.array([number in rows_of for number in numbers.tolist()], dtype=bool)
            rows = [rows_of[number] for number in numbers[known].tolist()]
            if not rows:
                continue
            patterns = patterns[known]
            if stream is None:
                visible = patterns if mask is None else patterns * mask
                # pty-chi's annotation denies that it returns the probe.
                probe: Any = rescale_probe(planned.probe, visible)  # type: ignore[func-returns-value]
                stream = predictor.stream(
                    probe,
                    planned.object.shape[-2:],
                    batch_size=BATCH_SIZE,
                    valid_pixel_mask=mask,
                )
            stream.add(patterns, planned.positions_px[rows], numbers[known])
            arrived[rows] = True
        if stream is None or stream.n_frames == n_before:
            continue
        prediction = stream.current()
        errors.append((stream.n_frames, float(prediction.reprojection_error.mean())))
        yield InferenceResult(
            folder,
            prediction,
            select_frames(planned, arrived),
            np.array(errors),
            time.perf_counter() - clock,
        )


def _growing(
    path: str | Path, every_s: float, timeout_s: float, stop: Callable[[], bool]
) -> Iterator[Look]:
    """Look at a growing file until it stops growing."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; start the measurement, check the path.")
    with h5py.File(path, "r", libver="latest", swmr=True) as file:
        data, mask = dataset(file, *PATTERNS), pixel_mask(file)
        pending: list[int] = []
        n_seen = n_read = 0
        last_growth = time.monotonic()

        def blocks() -> Iterator[Block]:
            nonlocal pending, n_read
            rows, pending = pending, []
            for first in range(0, len(rows), BATCH_SIZE):
                batch = np.array(rows[first : first + BATCH_SIZE])
                patterns = data[batch]
                # Rows can be seen before what is written into them.
                written = patterns.any(axis=(1, 2))
                pending += batch[~written].tolist()
                n_read += int(written.sum())
                yield _numbers(file, batch[written]), patterns[written]

        while not stop() and time.monotonic() - last_growth < timeout_s:
            data.refresh()
            pending += range(n_seen, len(data))
            n_seen, n_before = len(data), n_read
            yield mask, blocks()
            if n_read > n_before:
                last_growth = time.monotonic()
            time.sleep(min(every_s, timeout_s))
        if pending:
            warnings.warn(f"{path}: {len(pending)} frames have no counts, left out.", stacklevel=2)


def _numbers(file: h5py.File, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if "indexes" not in file:
        return rows
    file["indexes"].refresh()
    return file["indexes"][rows].astype(np.int64)


def _frame_numbers(scan: Scan) -> NDArray[np.int64]:
    n = len(scan.positions_px)
    return np.arange(n) if scan.frame_indexes is None else scan.frame_indexes


def _set_geometry(predictor: NeuralPredictor, scan: Scan) -> None:
    options = predictor.options
    options.object_options.pixel_size_m = scan.pixel_size_m
    if scan.slice_spacings_m is not None:
        options.object_options.slice_spacings_m = scan.slice_spacings_m.tolist()
    if scan.wavelength_m is not None:
        options.data_options.wavelength_m = scan.wavelength_m


def _write(result: InferenceResult, generator: str | Path, overwrite: bool) -> None:
    prediction, generator = result.prediction, Path(generator)
    result.scan = dataclasses.replace(
        result.scan,
        patterns=result.scan.patterns[:0],
        object=prediction.object,
        probe=prediction.probe,
        comments=f"{result.scan.comments} Predicted by {generator.name}.".strip(),
    )
    with new_folder(result.folder, overwrite) as folder:
        write_product(folder / "product.h5", result.scan)
        with h5py.File(folder / "product.h5", "a") as file:
            file["object_std"] = prediction.standard_deviation
            file["reprojection_error"] = result.errors
        prediction_figure(
            folder / "figure.png",
            prediction.object,
            prediction.standard_deviation,
            result.errors,
            title=f"{result.scan.name}, {len(result.scan.positions_px)} frames",
            pixel_size_m=result.scan.pixel_size_m,
            mask=prediction.weight > 0.05 * prediction.weight.max(),
        )
        content = provenance(
            result.seconds,
            torch.get_default_device(),
            generator=str(generator.resolve()),
            frames=len(result.scan.positions_px),
            mean_reprojection_error=float(prediction.reprojection_error.mean()),
        )
        write_json(folder / "provenance.json", content)
