"""Prediction of a scan while it is measured: from what comes to the results folder."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.engine.state_files import damage_told, read_state
from ptychi_neural.prediction import Accelerations, NeuralPredictor, PredictionStream
from ptychi_neural.prediction.stream import check_unit
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.folders import ResultsFolder
from ptychi_neural.runs.frame_sources import BATCH_SIZE, Block, opened_source
from ptychi_neural.runs.inference import (
    STATE,
    STATE_FILE,
    InferenceResult,
    frame_numbers,
    set_geometry,
    write_inference,
)
from ptychi_neural.runs.live_page import LivePage
from ptychi_neural.runs.progress import remark, tell
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import begun
from ptychi_neural.runs.sections import DataSection
from ptychi_neural.scans import Scan, select_frames
from ptychi_neural.scans.load import check_probe_size, planned_scan, with_start
from ptychi_neural.scans.scan_names import named

WRITING_SHARE = 0.2
"""Largest share of the time that goes into the results folder while frames come."""


def follow_scan(
    predictor: NeuralPredictor,
    run: RunFile,
    address: str | None,
    results: ResultsFolder,
    generator: Path,
    every_s: float,
    timeout_s: float,
    page: LivePage | None,
    accelerations: Collection[Accelerations] = (),
) -> InferenceResult:
    """Predict anew whenever frames have come, and keep the results folder up to date.

    Parameters
    ----------
    predictor : NeuralPredictor
        The trained generator.
    run : RunFile
        It names the planned scan and, where there is no address, the file that is being written.
    address : str or None
        Of a source of frames.
    results : ResultsFolder
        Where to write, and where an earlier command has left what this one goes on from.
    generator : Path
        File of the generator.
    every_s, timeout_s : float
        Seconds between looks, and without a new frame that end them.
    page : LivePage or None
        It shows the scan.
    accelerations : collection of Accelerations
        What to try to be faster.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted before a frame came.
    ValueError
        If no frame with a position came, or there is nothing to go on from.
    """
    if run.data is None:
        raise ValueError("the run file has no section [data]: its scan is simulated.")
    section = run.data
    preparation, product = section.preparation(), section.product_path
    latest: InferenceResult | None = None
    state = None if results.earlier is None else _state_of(results.earlier)
    with (
        interruptible("what has arrived") as stop,
        opened_source(address or section.diffraction_path, preparation, timeout_s) as source,
    ):
        source.stop = stop
        if state is not None:
            with damage_told(results.folder / STATE_FILE):
                source.load_state_dict(state["source"])
        planned = planned_scan(product, preparation, source.stored_shape)
        planned = named(planned, section.diffraction_path)
        set_geometry(predictor, planned)
        near_field = planned.free_space_propagation_distance_m is not None
        scan = FollowedScan(predictor, planned, section, results.folder, accelerations)
        is_written, due = True, 0.0
        if state is not None:
            with damage_told(results.folder / STATE_FILE):
                scan.load_state_dict(state["scan"])
            latest, is_written = scan.result(), False
            if page is not None:
                page.show(latest.prediction, latest.scan, len(planned.positions_px))

        def write(found: InferenceResult) -> None:
            nonlocal is_written, due
            began = time.monotonic()
            if not results.temporary.exists():
                results.renew()
            of_source = source.state_dict()
            kept = {"source": of_source, "scan": scan.state_dict()} if of_source else None
            write_inference(found, generator, results, kept)
            if page is not None:
                page.show_deviation(found.prediction.standard_deviation)
            tell("prediction", frames=len(found.scan.positions_px))
            is_written = True
            due = time.monotonic() + (time.monotonic() - began) * (1 / WRITING_SHARE - 1)

        try:
            for anew, blocks in source.looks(every_s, timeout_s, scan.rows, near_field):
                if scan.take(anew, blocks):
                    latest, is_written = scan.result(), False
                    if page is not None:
                        page.show(latest.prediction, latest.scan, len(planned.positions_px))
                if latest is not None and not is_written and time.monotonic() >= due:
                    write(latest)
        except ValueError as error:
            if latest is None:
                raise
            if not is_written:
                write(latest)
            n_before = counted(len(latest.scan.positions_px), "frames")
            raise ValueError(
                f"{str(error).rstrip('.')}; {results.folder} has the object of {n_before} that "
                "came before."
            ) from error
        if latest is not None and not is_written:
            write(latest)
        interrupted = stop()
    if latest is None and interrupted:
        raise KeyboardInterrupt
    if latest is None:
        raise ValueError(
            f"{address or section.diffraction_path}: no frame with a position in {product} came "
            f"within {timeout_s:g} s."
        )
    return dataclasses.replace(latest, interrupted=interrupted)


def _state_of(folder: Path) -> dict[str, Any]:
    """What an earlier command has left to go on from."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(
            f"--resume: {folder} holds no scan that was followed at an address. Leave out "
            "--resume; --overwrite replaces it."
        )
    return read_state(path, STATE)


class FollowedScan:
    """What a generator makes of the frames that have come by now.

    Parameters
    ----------
    predictor : NeuralPredictor
        The trained generator.
    planned : Scan
        All frames that may come, with their positions.
    section : DataSection
        It tells what the probe is.
    folder : Path
        The results folder.
    accelerations : collection of Accelerations
        What to try to be faster.
    """

    def __init__(
        self,
        predictor: NeuralPredictor,
        planned: Scan,
        section: DataSection,
        folder: Path,
        accelerations: Collection[Accelerations] = (),
    ) -> None:
        self._predictor, self._planned = predictor, planned
        self._section, self._folder = section, folder
        self._began = time.perf_counter()
        self._numbers = frame_numbers(planned)
        self.rows = {number: row for row, number in enumerate(self._numbers.tolist())}
        """Row of a frame among the planned ones, by its number."""
        self._stream: PredictionStream | None = None
        self._mean_counts: float | None = None
        self._outdated = False
        self._errors: list[tuple[int, float]] = []
        self._accelerations = accelerations

    def take(self, anew: bool, blocks: Iterator[Block]) -> bool:
        """Take in what a look has brought.

        Parameters
        ----------
        anew : bool
            Whether all frames come once more.
        blocks : iterator of Block
            The frames.

        Returns
        -------
        bool
            Whether there were new ones with a position.
        """
        if anew and self._stream is not None:
            if not self._outdated:
                self._mean_counts = self._stream.mean_counts
            self._stream = None
        n_before = 0 if self._stream is None else self._stream.n_frames
        for numbers, patterns, mask, self._outdated in blocks:
            if not len(numbers):
                continue
            if self._stream is None:
                self._stream = self._begun(patterns, mask)
            self._stream.add_repaired(patterns, self._positions(numbers), numbers, mask)
        return self._stream is not None and self._stream.n_frames > n_before

    def result(self) -> InferenceResult:
        """The prediction from what was taken in.

        Raises
        ------
        ValueError
            If there was nothing.
        """
        if self._stream is None:
            raise ValueError("No frame has come: there is no object yet.")
        prediction, n_frames = self._stream.current(), self._stream.n_frames
        if self._errors and self._errors[-1][0] == n_frames:
            self._errors.pop()
        self._errors.append((n_frames, prediction.mean_reprojection_error))
        return InferenceResult(
            self._folder,
            prediction,
            select_frames(self._planned, np.isin(self._numbers, self._stream.frame_ids)),
            np.array(self._errors),
            time.perf_counter() - self._began,
        )

    def state_dict(self) -> dict[str, Any]:
        """What has been taken in, as ``write_state`` takes it."""
        if self._stream is None:
            return {"stream": None, "errors": []}
        positions = self._positions(self._stream.frame_ids)
        return {
            "scan": self._identity(),
            "stream": self._stream.state_dict(),
            "positions": torch.from_numpy(positions),
            "errors": self._errors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises
        ------
        ValueError
            If it is that of another generator or of another scan.
        """
        taken, own = state["stream"]["known"].numpy(), self._identity()
        differing = [name for name, told in state["scan"].items() if told != own.get(name)]
        if not (
            np.isin(taken, self._numbers).all()
            and np.array_equal(self._positions(taken), state["positions"].numpy())
        ):
            differing.append("positions")
        if differing:
            raise ValueError(
                f"belongs to a scan with other {', '.join(differing)}; --overwrite begins anew."
            )
        probe = state["stream"]["probe"].numpy()
        shape = with_start(dataclasses.replace(self._planned, probe=probe)).object.shape[-2:]
        self._stream = self._stream_of(probe, shape, None)
        self._stream.load_state_dict(state["stream"])
        self._errors = list(state["errors"])

    def _identity(self) -> dict[str, Any]:
        """What a saved scan must have in common with this one, besides positions."""
        scan, section = self._planned, self._section
        keys = section.preparation().model_dump(mode="json")
        return {
            "name": scan.name,
            "probe": hashlib.sha256(scan.probe.tobytes()).hexdigest(),
            "geometry": repr(
                (scan.known_pixel_size_m, scan.wavelength_m, scan.free_space_propagation_distance_m)
            ),
            "keys of [data]": json.dumps([section.n_probe_modes, str(section.probe), keys]),
        }

    def _positions(self, numbers: NDArray[np.int64]) -> NDArray[np.floating]:
        """(n, 2) planned positions of the frames of these numbers."""
        return self._planned.positions_px[[self.rows[number] for number in numbers.tolist()]]

    def _begun(
        self, patterns: NDArray[np.generic], mask: NDArray[np.bool_] | None
    ) -> PredictionStream:
        """A stream whose probe has the power of the mean counts, where they are known, or of the
        first frames."""
        check_probe_size(self._section.product_path, self._planned, "the scan", patterns)
        check_unit(patterns, mask)
        first = dataclasses.replace(self._planned, patterns=patterns, valid_pixel_mask=mask)
        scan = begun(self._section, with_start(first))
        shape, mean_counts = scan.object.shape[-2:], self._mean_counts
        if mean_counts is None:
            where = True if mask is None else mask
            mean_counts = float(patterns.sum(dtype=np.float64, where=where)) / len(patterns)
        probe = self._predictor.rescaled_probe(scan.probe, shape, mean_counts, mask)
        return self._stream_of(probe, shape, mask)

    def _stream_of(
        self,
        probe: NDArray[np.complexfloating],
        shape: tuple[int, int],
        mask: NDArray[np.bool_] | None,
    ) -> PredictionStream:
        if self._accelerations:
            chosen = self._predictor.accelerate(probe, shape, self._accelerations, BATCH_SIZE)
            if chosen:
                remark(f"The networks are faster with {' and '.join(chosen)}.")
            self._accelerations = ()  # The predictor stays so.
        return self._predictor.stream(probe, shape, batch_size=BATCH_SIZE, valid_pixel_mask=mask)
