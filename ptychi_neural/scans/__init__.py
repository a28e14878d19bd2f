"""Scans: their files of any registered format, and the check of their counts and starts."""

from ptychi_neural.scans.checks import check_geometry, check_positions, check_start
from ptychi_neural.scans.counts import Repaired, as_counts, repair
from ptychi_neural.scans.diffraction import write_diffraction
from ptychi_neural.scans.formats.ptychodus import write_product
from ptychi_neural.scans.load import load_scan, read_diffraction, read_product, write_scan
from ptychi_neural.scans.scan import Scan, position_origin, select_frames
from ptychi_neural.scans.starts import empty_object, mean_pattern_probe
from ptychi_neural.scans.streamed_counts import StreamedCounts

__all__ = [
    "Repaired",
    "Scan",
    "StreamedCounts",
    "as_counts",
    "check_geometry",
    "check_positions",
    "check_start",
    "empty_object",
    "load_scan",
    "mean_pattern_probe",
    "position_origin",
    "read_diffraction",
    "read_product",
    "repair",
    "select_frames",
    "write_diffraction",
    "write_product",
    "write_scan",
]
