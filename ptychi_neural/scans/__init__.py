"""Scans in files: ptychodus product and diffraction HDF5."""

from ptychi_neural.scans.diffraction import read_diffraction, write_diffraction
from ptychi_neural.scans.load import empty_object, load_scan, select_frames
from ptychi_neural.scans.product import read_product, write_product
from ptychi_neural.scans.scan import Scan, position_origin

__all__ = [
    "Scan",
    "empty_object",
    "load_scan",
    "position_origin",
    "read_diffraction",
    "read_product",
    "select_frames",
    "write_diffraction",
    "write_product",
]
