"""A measured scan from its files, without the engine.

A look at a scan needs neither torch nor pty-chi, whose import takes longer than the look.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.runs.configuration import (
    RunFileError,
    data_changes,
    has_keys,
    key_names,
    validated,
    without_none,
)
from ptychi_neural.runs.probe_guess import guessed_probe
from ptychi_neural.runs.sections import DataAlone, DataSection
from ptychi_neural.scans import Scan, load_scan
from ptychi_neural.scans.hdf5 import available_memory, dataset, opened


def section_of(path: Path, product: Path | None, changes: Sequence[str]) -> DataSection:
    """The ``[data]`` of a run file, or that of a file of patterns and the file of its positions.

    Parameters
    ----------
    path : Path
        Run file, or file of patterns.
    product : Path, optional
        File of positions that belongs to the patterns.
    changes : sequence of str
        Keys of ``[data]``, see ``parse_changes``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, a key is wrong, or the scan of the run file is simulated.
    """
    contents = data_changes(changes)
    if has_keys(path):
        from ptychi_neural.runs.run_file import run_of  # imports pty-chi

        section = run_of(path, product, changes).data
        if section is None:
            raise ValueError("the run file has no section [data]: its scan is simulated.")
        return section
    problems: list[str] = []
    contents = without_none(DataAlone, contents_of(path, product, contents))
    frame = validated(DataAlone, contents, list(key_names(DataAlone)), problems)
    if frame is not None:
        frame.data.locate(Path.cwd(), None, problems)
    if problems:
        raise RunFileError(str(path), problems)
    section = frame.data
    assert isinstance(section, DataSection)
    return section


def contents_of(path: Path, product: Path | None, changes: dict[str, Any]) -> dict[str, Any]:
    """Contents of a run file for a file of patterns and the file of its positions."""
    data: dict[str, Any] = {"diffraction": str(path.resolve())}
    if product is not None:
        data["product"] = str(product.resolve())
    return changes | {"data": data | changes.get("data", {})}


def load_measured(
    section: DataSection, frames: slice | None = None
) -> tuple[Scan, NDArray[np.complexfloating] | None]:
    """Read a scan, or some of its frames, and the (n_slices, H, W) reference, if there is one.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file cannot be read, or the reference is on another grid.
    """
    scan = load_scan(
        section.diffraction_path,
        section.product_path,
        frames=frames,
        preparation=section.preparation(),
        needs_probe=section.probe is None,
    )
    scan = begun(section, scan)
    if section.reference is None:
        return scan, None
    with opened(section.folder / section.reference) as file:
        reference = dataset(file, "object")[()]
    reference = reference.reshape(-1, *reference.shape[-2:])
    if reference.shape != scan.object.shape:
        raise ValueError(
            f"data.reference: its object is {reference.shape}, that of data.product "
            f"{scan.object.shape}; use a reference on the same grid, or leave it out."
        )
    return scan, reference


def begun(section: DataSection, scan: Scan) -> Scan:
    """The scan with the probe and the slices that a section ``[data]`` asks to start from."""
    scan = _sliced(section, scan)
    probe = scan.probe if section.probe is None else guessed_probe(section.probe, scan)
    n_modes = section.n_probe_modes
    if n_modes is not None and n_modes != probe.shape[1]:
        from ptychi_neural.engine.modes import with_modes  # imports pty-chi

        height, width = probe.shape[-2:]
        n_bytes = np.dtype(complex).itemsize * n_modes * height * width
        if n_modes > height * width or n_bytes > available_memory() / 4:
            raise ValueError(
                f"data.n_probe_modes: {n_modes} modes of {height} x {width} pixels are more than "
                "are orthogonal, or fit into memory; take a few."
            )
        probe = with_modes(probe, n_modes)
    return dataclasses.replace(scan, probe=probe)


def _sliced(section: DataSection, scan: Scan) -> Scan:
    """The scan with as many slices, as far from each other, as a section ``[data]`` asks for."""
    before, spacing_m = scan.object, section.slice_spacing_m
    n_slices = section.n_slices or len(before)
    if spacing_m is None and n_slices == len(before):
        return scan
    if n_slices == 1:
        if section.n_slices is None:
            raise ValueError(
                "data.slice_spacing_m: the object of the file has one slice; set data.n_slices."
            )
        return dataclasses.replace(scan, object=before.prod(axis=0)[None], slice_spacings_m=None)
    assert spacing_m is not None
    n_bytes = n_slices * before[0].nbytes
    if n_bytes > available_memory() / 4:
        raise ValueError(
            f"data.n_slices: {n_slices} slices of {before.shape[1]} x {before.shape[2]} pixels do "
            "not fit into memory; take a few."
        )
    object_ = before
    if n_slices != len(before):
        object_ = np.ones((n_slices, *before.shape[1:]), before.dtype)
        object_[0] = before.prod(axis=0)
    spacings_m = np.full(n_slices - 1, spacing_m)
    return dataclasses.replace(scan, object=object_, slice_spacings_m=spacings_m)
