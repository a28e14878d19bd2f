"""Files that a reconstruction writes beside its product, as ``output.formats`` asks for them."""

import dataclasses
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from ptychi_neural.runs.pictures import pictures_of, write_png, write_tiff
from ptychi_neural.runs.report import write_report
from ptychi_neural.runs.result import ReconstructionResult, what_fails_is_told
from ptychi_neural.runs.sections import OutputFormats
from ptychi_neural.scans import Scan, write_scan


def write_formats(
    result: ReconstructionResult,
    formats: Collection[OutputFormats],
    folder: Path,
    start: Scan,
    notes: Sequence[str] = (),
) -> None:
    """Write the files of some formats into a results folder that holds all others.

    Files of a run that goes on are replaced. A format that cannot be written is told, and noted in
    ``result.unsaved``.

    Parameters
    ----------
    result : ReconstructionResult
        The result, with the reconstructed scan.
    formats : collection of OutputFormats
        Formats to write.
    folder : Path
        The results folder.
    start : Scan
        The scan as it was loaded.
    notes : sequence of str
        Warnings about the data, for the report.
    """
    scan = result.scan
    pictures = cache(lambda: pictures_of(scan))
    writers = {
        OutputFormats.CXI: lambda: _write_cxi(folder / "product.cxi", scan),
        OutputFormats.NPZ: lambda: write_npz(folder / "product.h5", folder / "product.npz"),
        OutputFormats.TIFF: lambda: write_tiff(folder, pictures()),
        OutputFormats.PNG: lambda: write_png(folder, pictures()),
        OutputFormats.HTML: lambda: write_report(folder, start, notes, overwrite=True),
    }
    for format in formats:
        with what_fails_is_told(result, f"the format {format}"):
            writers[format]()


def _write_cxi(path: Path, scan: Scan) -> None:
    without_patterns = np.empty((0, *scan.patterns.shape[1:]), dtype=scan.patterns.dtype)
    product = dataclasses.replace(scan, patterns=without_patterns)
    write_scan(path, product, "cxi", overwrite=True)


def write_npz(product: Path, path: Path) -> None:
    """Write a ptychodus product as the flat NumPy archive that ptychodus reads.

    Parameters
    ----------
    product : Path
        The HDF5 product.
    path : Path
        The ``.npz`` file.
    """
    with h5py.File(product) as file:
        contents = dict(file.attrs) | {name: data[()] for name, data in file.items()}
        for owner in ("probe", "object"):
            contents |= {f"{owner}_{name}": value for name, value in file[owner].attrs.items()}
    np.savez_compressed(path, allow_pickle=False, **contents)
