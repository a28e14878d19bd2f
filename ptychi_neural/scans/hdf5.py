"""HDF5 files opened with errors that say what to do, and files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

StrPath = str | os.PathLike[str]


@contextmanager
def replacing(path: StrPath, overwrite: bool = False) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends without an error.

    Parameters
    ----------
    path : path
        The file to write. Its folder is created where needed.
    overwrite : bool
        Whether an existing file may be replaced.

    Yields
    ------
    Path
        The temporary name, with the suffix of ``path``.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def opened(path: StrPath) -> Iterator[h5py.File]:
    """An HDF5 file open for reading.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an HDF5 file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an HDF5 file; it may be truncated or of another format.")
    with h5py.File(path, "r") as file:
        yield file


def dataset(file: h5py.File, *names: str) -> h5py.Dataset:
    """The first of the named datasets that the file holds.

    Raises
    ------
    ValueError
        If it holds none of them.
    """
    for name in names:
        if isinstance(file.get(name), h5py.Dataset):
            return file[name]
    raise ValueError(
        f"{file.filename} has no dataset {' or '.join(map(repr, names))}; it holds "
        f"{sorted(file)}. Check that the file is of the right kind."
    )
