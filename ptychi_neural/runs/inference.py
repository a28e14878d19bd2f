"""What a generator has predicted of a scan in files, and the folder that holds it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.engine.state_files import write_state
from ptychi_neural.evaluation.prediction_figures import prediction_figure
from ptychi_neural.prediction import NeuralPredictor, PredictedObject
from ptychi_neural.runs.folders import ResultsFolder
from ptychi_neural.runs.launcher import is_silent
from ptychi_neural.runs.progress import what_fails_is_said
from ptychi_neural.runs.provenance import provenance, write_json
from ptychi_neural.scans import Scan, check_geometry, write_product
from ptychi_neural.scans.hdf5 import written

STATE_FILE, STATE = "followed.safetensors", "followed scan"
"""File and kind of the state of a scan whose frames do not come again."""


@dataclasses.dataclass
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

    unsaved: list[str] = dataclasses.field(default_factory=list)
    """What could not be written."""


def frame_numbers(scan: Scan) -> NDArray[np.int64]:
    """(n,) numbers of a scan's frames, by which their positions are known."""
    n = len(scan.positions_px)
    return np.arange(n) if scan.frame_indexes is None else scan.frame_indexes


def set_geometry(predictor: NeuralPredictor, scan: Scan) -> None:
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


def write_inference(
    result: InferenceResult,
    generator: Path,
    results: ResultsFolder,
    state: dict[str, Any] | None = None,
) -> None:
    """Write the results folder, the product first, and the state to go on from, if any."""
    prediction, folder = result.prediction, results.temporary
    standard_deviation = prediction.standard_deviation  # All of several processes have to ask.
    if is_silent():
        return
    result.scan = dataclasses.replace(
        result.scan,
        patterns=result.scan.patterns[:0],
        object=prediction.object,
        probe=prediction.probe,
        comments=f"{result.scan.comments} Predicted by {generator.name}.".strip(),
    )
    write_product(folder / "product.h5", result.scan)
    with written(folder / "product.h5", folder / "product.h5") as file:
        file["object_std"] = standard_deviation
        file["reprojection_error"] = result.errors
    if state is not None:
        write_state(folder / STATE_FILE, STATE, state)
    error = prediction.mean_reprojection_error
    content = provenance(
        result.seconds,
        torch.get_default_device(),
        generator=str(generator.resolve()),
        frames=len(result.scan.positions_px),
        mean_reprojection_error=error if math.isfinite(error) else None,
    )
    write_json(folder / "provenance.json", content)
    with what_fails_is_said("figure.png", result.unsaved):
        prediction_figure(
            folder / "figure.png",
            prediction.object,
            standard_deviation,
            result.errors,
            title=f"{result.scan.name}, {counted(len(result.scan.positions_px), 'frames')}",
            pixel_size_m=result.scan.known_pixel_size_m,
            mask=prediction.covered,
        )
    results.publish()
