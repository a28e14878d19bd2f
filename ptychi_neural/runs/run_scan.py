"""The scan of a run: as it is loaded, and as it is reconstructed."""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask

from ptychi_neural.engine.modes import with_modes
from ptychi_neural.runs.probe_guess import guessed_probe
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.runs.sections import DataSection
from ptychi_neural.scans import Scan, load_scan
from ptychi_neural.scans.hdf5 import dataset, opened
from ptychi_neural.simulation import simulate


def load(
    run: RunFile, frames: slice | None = None
) -> tuple[Scan, NDArray[np.complexfloating] | None]:
    """Read or simulate the scan, and the (n_slices, H, W) object to compare with, if there is one.

    Of a measured scan ``frames`` chooses some.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, or the reference is on another grid.
    """
    if run.simulation is not None:
        simulated = simulate(run.simulation)
        return simulated.scan, simulated.truth.object
    assert run.data is not None
    scan = load_scan(
        run.data.diffraction_path,
        run.data.product_path,
        frames=frames,
        preparation=run.data.preparation(),
    )
    scan = begun(run.data, scan)
    if run.data.reference is None:
        return scan, None
    with opened(run.data.folder / run.data.reference) as file:
        reference = dataset(file, "object")[()]
    reference = reference.reshape(-1, *reference.shape[-2:])
    if reference.shape != scan.object.shape:
        raise ValueError(
            f"data.reference: its object is {reference.shape}, that of data.product "
            f"{scan.object.shape}; use a reference on the same grid, or leave it out."
        )
    return scan, reference


def begun(section: DataSection, scan: Scan) -> Scan:
    """The scan with the probe that a section ``[data]`` asks to start from."""
    probe = scan.probe if section.probe is None else guessed_probe(section.probe, scan)
    if section.n_probe_modes not in (None, probe.shape[1]):
        probe = with_modes(probe, section.n_probe_modes)
    return dataclasses.replace(scan, probe=probe)


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
