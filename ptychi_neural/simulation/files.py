"""Complex arrays in files, from which simulations take probes and objects."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


def read_array(path: str | Path, dataset: str, what: str) -> NDArray[np.complex128]:
    """Read an array from a NumPy file or an HDF5 file such as a ptychodus product.

    Parameters
    ----------
    path : path
        ``.npy`` file, or HDF5 file of any other suffix.
    dataset : str
        Name of the dataset in an HDF5 file.
    what : str
        What the array is called in error messages.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If there is no such file or dataset, or its values are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no {what} file {path}.")
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
    else:
        with h5py.File(path) as file:
            found: Any = file.get(dataset)
            if not isinstance(found, h5py.Dataset):
                raise KeyError(f"dataset: {path} has no dataset {dataset!r}, only {list(file)}.")
            array = found[()]
    if not np.isfinite(array).all():
        raise ValueError(f"path: the {what} in {path} is not finite.")
    return np.asarray(array, dtype=complex)
