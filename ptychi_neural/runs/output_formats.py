"""Files that a reconstruction writes beside its product, as ``output.formats`` asks for them."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import h5py
import numpy as np

from ptychi_neural.runs.pictures import pictures_of, write_png, write_tiff
from ptychi_neural.runs.report import write_report
from ptychi_neural.runs.sections import OutputFormats
from ptychi_neural.scans import Scan, write_scan


def write_formats(
    formats: Collection[OutputFormats],
    scan: Scan,
    folder: Path,
    start: Scan,
    notes: Sequence[str] = (),
) -> None:
    """Write the files of some formats into a results folder that holds all others.

    Parameters
    ----------
    formats : collection of OutputFormats
        Formats to write.
    scan : Scan
        The scan with the reconstructed object, probe and positions.
    folder : Path
        The results folder.
    start : Scan
        The scan as it was loaded.
    notes : sequence of str
        Warnings about the data, for the report.
    """
    if OutputFormats.CXI in formats:
        without_patterns = np.empty((0, *scan.patterns.shape[1:]), dtype=scan.patterns.dtype)
        product = dataclasses.replace(scan, patterns=without_patterns)
        write_scan(folder / "product.cxi", product, "cxi")
    if OutputFormats.NPZ in formats:
        write_npz(folder / "product.h5", folder / "product.npz")
    if {OutputFormats.TIFF, OutputFormats.PNG} & set(formats):
        pictures = pictures_of(scan)
        if OutputFormats.TIFF in formats:
            write_tiff(folder, pictures)
        if OutputFormats.PNG in formats:
            write_png(folder, pictures)
    if OutputFormats.HTML in formats:
        write_report(folder, start=start, notes=notes)


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
