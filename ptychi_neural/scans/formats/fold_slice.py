"""fold_slice and PtychoShelves pairs: ``STEM_dp.hdf5`` with patterns, ``STEM_para.hdf5``.

The parameter file holds the positions ``ppY``, ``ppX`` in metres, the wavelength ``lambda``, the
object's pixel size ``dx``, and perhaps a ``probe``. Those of simulations may hold positions alone.
"""

import math
from pathlib import Path

import h5py
import numpy as np

from ptychi_neural.scans.beamline import number
from ptychi_neural.scans.formats.ptychodus import complex_array, expanded
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath, dataset, find, opened, read, reals
from ptychi_neural.scans.scan import Scan, middle


@register_reader("fold_slice")
class FoldSlice(Reader):
    """Parameter files; their patterns are read as pty-chi's ``dp``."""

    files = "HDF5 with 'ppX' and 'ppY' (STEM_para.hdf5, beside STEM_dp.hdf5)"

    def recognises(self, path: Path) -> bool:
        if not h5py.is_hdf5(path):
            return False
        with opened(path) as file:
            return "ppX" in file and "ppY" in file

    def read_product(self, path: StrPath) -> Scan:
        with opened(path) as file:
            pixel_size_m = number(file, "dx") or math.nan
            y_m, x_m = (
                reals(read(dataset(file, name)), f"{path}: {name!r}").ravel()
                for name in ("ppY", "ppX")
            )
            if y_m.shape != x_m.shape or len(y_m) == 0:
                raise ValueError(
                    f"{path}: 'ppY' and 'ppX' have {len(y_m)} and {len(x_m)} numbers; write one "
                    "each for every frame."
                )
            positions_m = np.stack([y_m, x_m], axis=1)
            is_sized = math.isfinite(pixel_size_m)
            center_m = middle(positions_m) if is_sized else np.zeros(2)
            probe = find(file, "probe")
            angle_deg = number(file, "angle")
            return Scan(
                patterns=np.empty((0, 0, 0), dtype=np.float32),
                positions_px=(positions_m - center_m) / pixel_size_m if is_sized else positions_m,
                probe=np.empty((0, 0, 0, 0), dtype=np.complex64)
                if probe is None
                else expanded(complex_array(probe), 4),
                object=np.empty((0, 0, 0), dtype=np.complex64),
                pixel_size_m=pixel_size_m,
                wavelength_m=number(file, "lambda"),
                frame_indexes=np.arange(len(positions_m)),
                object_center_m=(float(center_m[0]), float(center_m[1])),
                attributes={} if angle_deg is None else {"tomography_angle_deg": angle_deg},
            )

    def product_beside(self, path: Path) -> Path | None:
        is_dp = path.stem.lower().endswith("_dp")
        return path.with_name(f"{path.stem[:-3]}_para{path.suffix}") if is_dp else None
