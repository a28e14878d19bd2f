"""Names of scans, from those of their files and folders where the files tell none."""

import dataclasses
from pathlib import Path

from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.scan import Scan

OF_EVERY_SCAN = ("diffraction", "patterns", "frames", "data")
"""Names of files that tell nothing of a scan."""

ENDINGS = ("_dp", "_master")
"""Endings of the names of files of patterns."""


def scan_name(path: Path) -> str:
    """The name of a scan, from that of its file or folder.

    Examples
    --------
    >>> scan_name(Path("S012.cxi")), scan_name(Path("S012_dp.hdf5"))
    ('S012', 'S012')
    >>> scan_name(Path("scans/S012/diffraction.h5"))
    'S012'
    """
    name = path.stem
    for ending in ENDINGS:
        name = name.removesuffix(ending) or name
    return (name not in OF_EVERY_SCAN and name) or path.resolve().parent.name or name


def named(scan: Scan, path: StrPath) -> Scan:
    """The scan, with the name of the file of its patterns where its files tell none."""
    return scan if scan.name else dataclasses.replace(scan, name=scan_name(Path(path)))
