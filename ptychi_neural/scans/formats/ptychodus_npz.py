"""NPZ archives of ptychodus: its product in one level, or patterns with their numbers and mask.

An attribute of a dataset of the HDF5 product is an array of its own here, ``probe_pixel_width_m``
for the ``pixel_width_m`` of ``probe``. Such a product is read as the HDF5 file that it stands for.
"""

import io
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from ptychi_neural.scans.diffraction import Diffraction, numbered_rows
from ptychi_neural.scans.formats.ptychodus import POSITIONS, product_in
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.numpy_files import check_stack, npz_header, npz_names, read_npz
from ptychi_neural.scans.scan import Scan

ATTRIBUTES = {
    f"{owner}_{name}": (owner, name)
    for owner in ("probe", "object")
    for name in ("pixel_width_m", "pixel_height_m", "center_x_m", "center_y_m")
}
"""Arrays that are attributes of a dataset in HDF5."""


@register_reader("ptychodus_npz")
class PtychodusNpz(Reader):
    """Products and patterns that ptychodus, and ``output.formats``, write as archives."""

    files = "NPZ with 'patterns', or with 'probe', 'object' and 'probe_position_x_m'"

    def recognises(self, path: Path) -> bool:
        if path.is_dir():
            return False
        names = npz_names(path)
        return "xcoords" not in names and ("patterns" in names or {*POSITIONS} <= names)

    def read_diffraction(
        self, path: StrPath, frame_indexes: ArrayLike | None = None
    ) -> Diffraction:
        names, stack = npz_names(Path(path)), read_npz(path, "patterns")
        check_stack(path, stack)
        if frame_indexes is not None:
            numbers = read_npz(path, "indexes") if "indexes" in names else None
            stack = stack[numbered_rows(path, numbers, stack.shape, np.asarray(frame_indexes))]
        bad = read_npz(path, "bad_pixels") != 0 if "bad_pixels" in names else np.zeros(1, bool)
        if bad.any() and bad.shape != stack.shape[1:]:
            raise ValueError(
                f"{path}: the pixel mask has shape {bad.shape}, patterns {stack.shape[1:]}; "
                "crop or bin the mask along with the patterns."
            )
        return Diffraction(stack, ~bad if bad.any() else None)

    def stack_shape(self, path: StrPath) -> tuple[int, ...]:
        if "patterns" not in npz_names(Path(path)):
            raise ValueError(f"{path} holds a product without patterns; give their file as well.")
        return npz_header(path, "patterns")[0]

    def read_product(self, path: StrPath) -> Scan:
        names = npz_names(Path(path))
        if not {*POSITIONS} <= names:
            return super().read_product(path)
        with h5py.File(io.BytesIO(), "w") as file:
            for name in sorted(names - {"patterns"}, key=lambda name: name in ATTRIBUTES):
                value = read_npz(path, name)
                owner, attribute = ATTRIBUTES.get(name, ("", name))
                if owner and owner in file:
                    file[owner].attrs[attribute] = value
                elif value.ndim == 0:
                    file.attrs[name] = value.item()
                elif value.dtype.kind in "uifbc":
                    file[name] = value
            try:
                return product_in(file)
            except ValueError as error:
                raise ValueError(str(error).replace(str(file.filename), str(path))) from error
