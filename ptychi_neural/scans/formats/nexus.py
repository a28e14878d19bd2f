"""NeXus files of detectors (NXmx): Eiger masters and stacks under ``entry/data/data``.

They hold patterns, the detector's mask and geometry, and the beam, but no positions of the sample,
which come from a product that belongs to the file.
"""

from pathlib import Path

import h5py

from ptychi_neural.scans.beamline import Instrument, instrument
from ptychi_neural.scans.diffraction import CHUNKS
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath, names_like, opened

PATTERNS = (
    "entry*/data*/data",
    "entry*/instrument*/detector*/data",
    "exchange/data",
)

BEAMS = ("entry*/instrument*/beam*", "entry*/sample*/beam*", "entry*/instrument*/monochromator*")

EIGER_ENERGY = "entry*/instrument*/detector*/detectorSpecific/photon_energy"


@register_reader("nexus")
class Nexus(Reader):
    """Patterns of NeXus files, and of Eiger masters that link them."""

    patterns = PATTERNS
    files = "HDF5 with 'entry/data/data' or 'entry/data/data_000001'"
    is_last = True

    def recognises(self, path: Path) -> bool:
        if not h5py.is_hdf5(path):
            return False
        with opened(path) as file:
            return any(names_like(file, name) for name in (*PATTERNS, CHUNKS))

    def read_instrument(self, path: StrPath) -> Instrument:
        wavelengths = (f"{beam}/*wavelength" for beam in BEAMS)
        energies = (*(f"{beam}/*energy" for beam in BEAMS), EIGER_ENERGY)
        with opened(path) as file:
            return instrument(file, "entry*/instrument*/detector*", tuple(wavelengths), energies)
