"""Which of the eight orientations of frames fits the positions: a short reconstruction of each.

Some pixels of every frame are held out, and the orientation whose projections predict them best
wins. Only the orientation that the detector has makes the patches of neighbouring positions agree.
"""

import dataclasses
import itertools
import logging
import warnings
from typing import NamedTuple, cast

import numpy as np

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.run_scan import load
from ptychi_neural.scans import Scan, empty_object, mean_pattern_probe, select_frames
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.prepared_frames import oriented

MOST_PIXELS = 2_000_000
"""Detector pixels in the frames that are taken, those in the middle of the scan. With fewer frames
the wrong orientations fit as well as the right one."""

N_ITERATIONS = 12


class Orientation(NamedTuple):
    """An orientation, and how well held-out pixels are predicted with it."""

    transpose: bool
    flip_y: bool
    flip_x: bool
    loss: float
    """Poisson loss in nats per held-out pixel, above that of the best orientation."""

    deviance: float
    """Poisson deviance per held-out pixel; about 1 where only noise is left."""


def rank_orientations(run: RunFile, n_iterations: int = N_ITERATIONS) -> list[Orientation]:
    """Rank the orientations of a scan's frames, the best first.

    Keys of ``[data]`` that orient frames are left out of account.

    Parameters
    ----------
    run : RunFile
        A run file with a ``[data]`` section.
    n_iterations : int
        Projections of each.

    Raises
    ------
    FileNotFoundError, ValueError
        If the scan cannot be loaded.
    """
    if run.data is None:
        raise ValueError("the run file has no section [data]: its scan is simulated.")
    plain = {"transpose": False, "flip_y": False, "flip_x": False, "rotate_deg": 0}
    section = run.data.model_copy(update=plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan, _ = load(dataclasses.replace(run, data=section))
    near_field = scan.free_space_propagation_distance_m is not None
    # What the frames tell turns with them; optics that are told do not.
    mean = mean_pattern_probe(scan.patterns, scan.valid_pixel_mask, near_field)
    is_guess = near_field or np.array_equal(scan.probe, mean)
    scan = _in_the_middle(scan)
    square = scan.patterns.shape[1] == scan.patterns.shape[2]
    transpositions = (False, True) if square else (False,)
    found = []
    for transpose, flip_y, flip_x in itertools.product(transpositions, *2 * [(False, True)]):
        turn = Preparation(transpose=transpose, flip_y=flip_y, flip_x=flip_x)
        deviance = _deviance(_turned(scan, turn, is_guess), n_iterations)
        found.append(Orientation(transpose, flip_y, flip_x, 0.0, deviance))
    ranked = sorted(found, key=lambda orientation: orientation.deviance)
    # Other pixels are held out in each, whose losses differ even where all are predicted well.
    best = ranked[0].deviance
    return [orientation._replace(loss=(orientation.deviance - best) / 2) for orientation in ranked]


def _in_the_middle(scan: Scan) -> Scan:
    """The frames in the middle of a scan, from an empty object and the mean pattern."""
    most = max(16, MOST_PIXELS // scan.patterns[0].size)
    middle = np.median(scan.positions_px, axis=0)
    nearest = np.argsort(np.hypot(*(scan.positions_px - middle).T), kind="stable")[:most]
    scan = select_frames(scan, np.sort(nearest))
    positions_px = scan.positions_px
    positions_px = positions_px - (positions_px.min(axis=0) + positions_px.max(axis=0)) / 2
    object_ = empty_object(positions_px, scan.probe.shape).repeat(len(scan.object), axis=0)
    return dataclasses.replace(
        scan, positions_px=positions_px, object=object_, opr_mode_weights=None
    )


def _turned(scan: Scan, preparation: Preparation, is_guess: bool) -> Scan:
    near_field = scan.free_space_propagation_distance_m is not None
    mask = scan.valid_pixel_mask
    patterns = np.ascontiguousarray(oriented(preparation, scan.patterns, near_field))
    if mask is not None:
        mask = np.ascontiguousarray(oriented(preparation, mask[None], near_field)[0])
    probe = scan.probe[:1]
    if is_guess:
        probe = mean_pattern_probe(patterns, mask, near_field)
    return dataclasses.replace(scan, patterns=patterns, valid_pixel_mask=mask, probe=probe)


def _deviance(scan: Scan, n_iterations: int) -> float:
    """Lowest deviance at held-out pixels in a few projections."""
    options = NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.num_epochs, settings.random_seed = 0, 0
    settings.start.n_iterations = n_iterations
    options.probe_options.optimizable = True
    logging.disable(logging.WARNING)
    try:
        task = build_task(options, scan)
        task.run()
    finally:
        logging.disable(logging.NOTSET)
    reconstructor = cast(NeuralReconstructor, task.reconstructor)
    loss = float(reconstructor.validation.loss.min())
    return reconstructor.judge.deviance(reconstructor.scan, loss)
