"""Files of electron cameras, read by RosettaSciIO: Merlin ``.mib``, Gatan ``.dm3`` and ``.dm4``.

RosettaSciIO is an extra: ``pip install 'ptychi-neural[electron]'``.
"""

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ptychi_neural.scans.beamline import Instrument
from ptychi_neural.scans.calibrated_axes import Axis, instrument_of_axes, scan_axes, scan_of_axes
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.formats.numpy_stack import selected
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath, native
from ptychi_neural.scans.scan import Scan

PLUGINS = {
    ".mib": "quantumdetector",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".blo": "blockfile",
    ".tvips": "tvips",
}
"""Suffixes of files, and the part of RosettaSciIO that reads them."""


@register_reader("electron_camera")
class ElectronCamera(Reader):
    """Patterns of a camera for each position of an electron beam."""

    files = f"{', '.join(PLUGINS)} (with the extra 'electron')"

    def recognises(self, path: Path) -> bool:
        return path.suffix.lower() in PLUGINS

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        data, axes, _ = _signal(path)
        of_scan = scan_axes(axes)
        data = np.moveaxis(data, of_scan, range(len(of_scan))) if len(of_scan) else data[None]
        if data.dtype.kind not in "uif":
            raise ValueError(f"{path} holds {data.dtype}; frames of counts are real numbers.")
        stack = data.reshape(-1, *data.shape[-2:])
        return Diffraction(native(selected(path, stack, frame_indexes)), None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        _, axes, _ = _signal(path)
        n = int(np.prod([axes[i].size for i in scan_axes(axes)]))
        return (n, *(axis.size for axis in _camera(axes)))

    def read_product(self, path: StrPath) -> Scan:
        _, axes, energy_eV = _signal(path)
        of_scan = [axes[i] for i in scan_axes(axes)]
        return scan_of_axes(path, of_scan, _camera(axes), energy_eV)

    def read_instrument(self, path: StrPath) -> Instrument:
        _, axes, energy_eV = _signal(path)
        return instrument_of_axes(_camera(axes), energy_eV)


def _camera(axes: list[Axis]) -> list[Axis]:
    of_scan = scan_axes(axes)
    return [axis for i, axis in enumerate(axes) if i not in of_scan]


def _signal(path: StrPath) -> tuple[Any, list[Axis], float | None]:
    """The largest array of a file, left on disk, its axes, and the energy of the electrons."""
    plugin = PLUGINS[Path(path).suffix.lower()]
    try:
        reader = importlib.import_module(f"rsciio.{plugin}")
    except ImportError as error:
        raise ValueError(
            f"{path} is read by RosettaSciIO, which is not installed ({error}); install the extra "
            "'electron': pip install 'ptychi-neural[electron]'."
        ) from error
    loggers = logging.getLogger("rsciio")
    level = loggers.level
    loggers.setLevel(logging.ERROR)  # a .mib without a .hdr is usual
    try:
        signals = reader.file_reader(str(path), lazy=True)
    except Exception as error:  # its readers raise what they happen to meet
        raise ValueError(f"{path} cannot be read ({error!r}); it may be truncated.") from error
    finally:
        loggers.setLevel(level)
    signal = max(signals, key=lambda signal: int(np.prod(signal["data"].shape)))
    axes = [
        Axis(axis["size"], float(axis["scale"] or 0), str(axis["units"] or ""))
        for axis in sorted(signal["axes"], key=lambda axis: axis["index_in_array"])
    ]
    energy_keV = _beam_energy_keV(signal)
    return signal["data"], axes, 1e3 * float(energy_keV) if energy_keV else None


def _beam_energy_keV(signal: dict[str, Any]) -> Any:
    """The energy of the electrons, where the file tells it.

    RosettaSciIO has it in the metadata of some formats, and of others tells where it lies among
    what the file says itself.
    """
    microscope = signal["metadata"].get("Acquisition_instrument", {}).get("TEM", {})
    if "beam_energy" in microscope:
        return microscope["beam_energy"]
    for place, (name, converted) in signal.get("mapping", {}).items():
        if name.endswith(".beam_energy"):
            found: Any = signal.get("original_metadata", {})
            for key in place.split("."):
                found = found.get(key) if isinstance(found, dict) else None
            if found is not None:
                return found if converted is None else converted(found)
    return None
