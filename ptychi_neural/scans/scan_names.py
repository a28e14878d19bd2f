"""Names of scans, from those of their files and folders where the files tell none."""

import dataclasses
from pathlib import Path

from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.scan import Scan

OF_EVERY_SCAN = (
    *("diffraction", "patterns", "frames", "images", "counts", "data", "dp", "raw", "product"),
    "simulation",
)
"""Names of files and folders that tell nothing of a scan, and that of every simulated one."""

ENDINGS = ("_dp", "_master")
"""Endings of the names of files of patterns."""


def scan_name(path: Path) -> str:
    """The name of a scan, from that of its file or of the nearest folder that tells something.

    Examples
    --------
    >>> scan_name(Path("S012.cxi")), scan_name(Path("S012_dp.hdf5"))
    ('S012', 'S012')
    >>> scan_name(Path("scans/S012/raw/diffraction.h5"))
    'S012'
    """
    name = path.stem
    for ending in ENDINGS:
        name = name.removesuffix(ending) or name
    names = (name, *(folder.name for folder in path.resolve().parents))
    return next((name for name in names if _tells(name)), name)


def named(scan: Scan, path: StrPath) -> Scan:
    """The scan, with the name of a file of its, that of patterns, where it tells none itself."""
    return scan if _tells(scan.name) else dataclasses.replace(scan, name=scan_name(Path(path)))


def _tells(name: str) -> bool:
    return name != "" and name.lower() not in OF_EVERY_SCAN


HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


def as_it_is_named(path: Path) -> Path | None:
    """A file of this name, perhaps in other capitals or with another suffix of HDF5."""
    if path.is_file() or not path.parent.is_dir():
        return path if path.is_file() else None
    alike = [
        other
        for other in path.parent.iterdir()
        if other.stem.lower() == path.stem.lower() and other.suffix.lower() in HDF5_SUFFIXES
    ]
    return alike[0] if len(alike) == 1 and alike[0].is_file() else None
