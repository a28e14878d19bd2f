"""HDF5 files opened with errors that say what to do, and files written whole or not at all."""

import fnmatch
import io
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.entries import in_entry, in_order
from ptychi_neural.scans.links import check_links, check_sources

StrPath = str | os.PathLike[str]

ALWAYS_FREE = 2**20
"""Bytes for which nobody looks how much memory is free, which takes longer than to read them."""


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
    token = secrets.token_hex(4)  # Processes of two containers may have the same number.
    temporary = target.with_name(f".{target.stem[:100]}.{token}.partial{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(target)  # A disk that is full tells no name.
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written(path: StrPath, earlier: StrPath | None = None) -> Iterator[h5py.File]:
    """An HDF5 file that is made in memory, and written to ``path`` when the block ends.

    HDF5 itself may find out that a disk is full only while it throws a file away. It crashes then.

    Parameters
    ----------
    path : path
        The file.
    earlier : path, optional
        A file whose contents it begins with, which may be the same; None: it begins empty.
    """
    content = io.BytesIO(b"" if earlier is None else Path(earlier).read_bytes())
    with h5py.File(content, "w" if earlier is None else "r+") as file:
        yield file
    Path(path).write_bytes(content.getbuffer())


@contextmanager
def opened(path: StrPath) -> Iterator[h5py.File]:
    """An HDF5 file open for reading, with the compression filters of detectors registered.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an HDF5 file, or something in it cannot be read.
    """
    import hdf5plugin  # noqa: F401  (registers bitshuffle, LZ4, Zstandard; takes .15 s)

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path} is not an HDF5 file; it may be truncated or of another format.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be opened ({error}); it may be truncated, or still be written."
        ) from error
    with file, damage_told(path):
        yield file


@contextmanager
def damage_told(path: StrPath) -> Iterator[None]:
    """Turn whatever a library raises on a file from elsewhere into an error that names the file.

    Libraries raise what they happen to meet in damaged bytes, of types without end.

    Raises
    ------
    ValueError
        In the place of any error within this block but a missing file.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, ImportError, Warning):
        raise
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ValueError(f"{path} declares more than fits into memory: {error}") from error
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); it may be damaged.") from error


def names_like(file: h5py.File, pattern: str) -> list[str]:
    """Names in a file that a pattern such as ``entry*/data*/data`` matches, in order.

    A name that is a link is among them, whether or not its target exists. In place of any entry
    of a CXI or NeXus file stands the one that is read (``entries``).
    """
    found = [""]
    for part in in_entry(file, pattern.strip("/")).split("/"):
        if not any(wildcard in part for wildcard in "*?["):
            found = [f"{name}/{part}" for name in found]
            continue
        matching = []
        for name in found:
            group = file.get(name or "/")
            if isinstance(group, h5py.Group):
                keys = (key for key in group if fnmatch.fnmatchcase(key, part))
                matching += [f"{name}/{key}" for key in sorted(keys, key=in_order)]
            elif group is None and _is_link(file, name[1:]):
                matching.append(f"{name}/{part}")
        found = matching
    return [name[1:] for name in found if _is_link(file, name[1:])]


def dataset(file: h5py.File, *names: str) -> h5py.Dataset:
    """The first of the named datasets that the file holds.

    Parameters
    ----------
    file : h5py.File
        An open file.
    names : str
        Names, or patterns such as ``entry*/data*/data``.

    Raises
    ------
    ValueError
        If it holds none of them, or if the file to which a link or a virtual dataset points is
        missing or lies outside the data folder.
    """
    found = find(file, *names)
    if found is None:
        raise ValueError(
            f"{file.filename} has no dataset {' or '.join(map(repr, names))}; it holds "
            f"{sorted(file)}. Check that the file is of the right kind."
        )
    return found


def find(file: h5py.File, *names: str) -> h5py.Dataset | None:
    """The first of the named datasets, as ``dataset`` finds it; None if the file has none."""
    name = found_name(file, *names)
    return None if name is None else file[name]


def found_name(file: h5py.File, *names: str) -> str | None:
    """The name under which ``find`` finds a dataset; None if the file has none."""
    for pattern in names:
        for name in names_like(file, pattern):
            check_links(file, name)
            item = file.get(name)
            if isinstance(item, h5py.Dataset):
                check_sources(item)
                return name
    return None


def read(data: h5py.Dataset, rows: slice = slice(None)) -> NDArray[Any]:
    """An array, or some rows of it, in native byte order.

    Raises
    ------
    ValueError
        If it is larger than the memory of this machine, or cannot be decompressed.
    """
    if data.shape is None:
        raise ValueError(f"{where(data)} is empty; write numbers into it.")
    check_size(data, len(range(*rows.indices(len(data)))) if data.shape else None)
    try:
        array = data[rows] if data.shape else data[()]
    except OSError as error:
        raise ValueError(
            f"{where(data)} cannot be read ({error}); the file is damaged, or compressed in a way "
            "that hdf5plugin does not know."
        ) from error
    return native(np.asarray(array))


def check_size(data: h5py.Dataset, n_rows: int | None = None) -> None:
    """Refuse an array, or as many rows of its kind, that is larger than the free memory."""
    check_memory(
        where(data), data.shape if n_rows is None else (n_rows, *data.shape[1:]), data.dtype
    )


def check_memory(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse an array of this shape that is larger than the free memory."""
    size = math.prod(shape) * dtype.itemsize
    if size <= ALWAYS_FREE:
        return
    memory = available_memory()
    if size > memory:
        raise ValueError(
            f"{what} declares {size / 2**30:.3g} GiB ({shape} {dtype}), more than the "
            f"{memory / 2**30:.3g} GiB of memory that are free; read fewer frames, crop or bin."
        )


def available_memory() -> int:
    """Bytes of memory that a program can take without swapping, of the machine or its container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    meminfo, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            limits.append(1024 * int(lines["MemAvailable"].split()[0]))
    if container.is_file() and (most := container.read_text().strip()).isdigit():
        limits.append(int(most))
    return min(limits)


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in the byte order of this machine, which torch asks for."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def where(data: h5py.Dataset) -> str:
    """File and name of a dataset, for messages."""
    return f"{data.file.filename}: {data.name.lstrip('/')!r}"


def reals(array: NDArray[Any], what: str) -> NDArray[np.float64]:
    """Real numbers in double precision.

    Raises
    ------
    ValueError
        If they are complex, text, truth values or anything else.
    """
    if array.dtype.kind not in "uif":
        raise ValueError(f"{what} is {array.dtype}; write real numbers.")
    return array.astype(np.float64)


def frame_numbers(data: h5py.Dataset, rows: Any = slice(None)) -> NDArray[np.int64]:
    """Whole numbers, of whatever type, or some of them.

    Raises
    ------
    ValueError
        If they are no whole numbers.
    """
    numbers = native(np.asarray(data[rows])) if data.shape else np.zeros(())
    if data.ndim != 1 or numbers.dtype.kind not in "uif" or not np.all(numbers == numbers.round()):
        raise ValueError(
            f"{where(data)} is {numbers.dtype} of shape {data.shape}, and not all whole; write one "
            "whole number for each frame."
        )
    return numbers.astype(np.int64)


def scalar(value: Any, what: str) -> float:
    """One number from an attribute or dataset, which may be an array of one element.

    Raises
    ------
    ValueError
        If it is empty, text, or more than one number.
    """
    array = np.asarray(np.nan if isinstance(value, h5py.Empty) else value)
    if array.size != 1 or array.dtype.kind not in "uifb":
        raise ValueError(f"{what} is {value!r}; write one number.")
    return float(array.reshape(())[()])


def text(value: Any) -> str:
    """Text from an attribute or dataset, which may be bytes, an array of one element, or empty."""
    if isinstance(value, h5py.Empty):
        return ""
    array = np.asarray(value)
    value = array.reshape(-1)[0] if array.size else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_link(file: h5py.File, name: str) -> bool:
    """Whether the file has this name, be it a link to something that does not exist."""
    group: Any = file
    *parents, last = name.split("/")
    for part in parents:
        link = group.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink) and group.get(part) is None:
            return True
        group = group.get(part)
        if not isinstance(group, h5py.Group):
            return False
    return group.get(last, getlink=True) is not None
