"""Scans in files: ptychodus product and diffraction HDF5."""

from ptychi_neural.io.diffraction import read_diffraction, write_diffraction
from ptychi_neural.io.load import empty_object, load_scan, select_frames
from ptychi_neural.io.product import read_product, write_product
from ptychi_neural.io.scan import Scan, position_origin

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
