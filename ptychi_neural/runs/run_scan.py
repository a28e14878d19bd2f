"""The scan of a run: as it is loaded, and as it is reconstructed."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask

from ptychi_neural.runs.measured import begun, load_measured
from ptychi_neural.runs.progress import bar_of
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan
from ptychi_neural.scans.scan_names import named
from ptychi_neural.simulation import simulate

__all__ = ["begun", "is_refined", "load", "reconstructed"]


def load(run: RunFile) -> tuple[Scan, NDArray[np.complexfloating] | None]:
    """Read or simulate the scan, and the (n_slices, H, W) object to compare with, if there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, or the reference is on another grid.
    """
    if run.simulation is not None:
        simulated = simulate(run.simulation, bar_of)
        return named(simulated.scan, run.product), simulated.truth.object
    assert run.data is not None
    return load_measured(run.data)


def is_refined(options: PtychographyTaskOptions) -> bool:
    """Whether an engine refines the probe or the positions."""
    return options.probe_options.optimizable or options.probe_position_options.optimizable


def reconstructed(scan: Scan, task: PtychographyTask, how: str) -> Scan:
    """The scan with the object, probe, positions and OPR mode weights that a task has reached.

    Parameters
    ----------
    scan : Scan
        The scan that the task was built for.
    task : PtychographyTask
        The task.
    how : str
        How the task came there, which is added to the scan's comments.
    """
    weights = scan.opr_mode_weights
    if weights is not None or task.opr_mode_weight_options.optimizable:
        weights = task.get_data("opr_mode_weights").numpy(force=True)
    return dataclasses.replace(
        scan,
        object=task.get_data("object").numpy(force=True),
        probe=task.get_data("probe").numpy(force=True),
        positions_px=task.get_data("probe_positions").numpy(force=True),
        opr_mode_weights=weights,
        comments=f"{scan.comments} Reconstructed: {how}.".strip(),
    )
