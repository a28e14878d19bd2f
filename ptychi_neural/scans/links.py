"""Links of HDF5 files: what they point to exists, and lies in the data folder.

HDF5 reads a virtual dataset whose source is missing as zeros, and reports a broken link as a
missing name. A file from elsewhere may point to any file of the reader. Therefore links are
checked before they are followed.
"""

import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

MOST_LINKS = 16
"""Links in a row after which they are taken for a circle."""

MOST_ITEMS, DEEPEST = 10_000, 16
"""Names of a file, and groups within groups, beyond which nothing is looked for."""

_outside_allowed: ContextVar[bool] = ContextVar("outside_allowed", default=False)


@contextmanager
def links_outside_allowed(allowed: bool = True) -> Iterator[None]:
    """Follow links to files outside the data folder within this block.

    Parameters
    ----------
    allowed : bool
        False leaves things as they are.
    """
    token = _outside_allowed.set(allowed or _outside_allowed.get())
    try:
        yield
    finally:
        _outside_allowed.reset(token)


def check_links(file: h5py.File, name: str, n_followed: int = 0) -> None:
    """Check the links on the way to a name.

    Parameters
    ----------
    file : h5py.File
        An open file.
    name : str
        A name in it.
    n_followed : int
        Links that led here.

    Raises
    ------
    ValueError
        If the target of a link does not exist or is not to be read; the message names it.
    """
    if n_followed > MOST_LINKS:
        raise ValueError(f"{file.filename}: the links at {name!r} go round in a circle.")
    group: h5py.Group = file
    parts = [part for part in name.split("/") if part]
    for i, part in enumerate(parts):
        link = group.get(part, getlink=True)
        rest = "/".join(parts[i + 1 :])
        here = f"{file.filename}: {'/'.join(parts[: i + 1])!r}"
        if isinstance(link, h5py.ExternalLink):
            path = source_path(file.filename, link.filename, f"{here} is a link to")
            with h5py.File(path, "r") as target:
                _check_target(target, f"{link.path}/{rest}", f"{here} is a link to", n_followed)
            return
        if isinstance(link, h5py.SoftLink):
            inside = link.path if link.path.startswith("/") else f"{group.name}/{link.path}"
            _check_target(file, f"{inside}/{rest}", f"{here} is a link to", n_followed)
            return
        item = group.get(part)
        if not isinstance(item, h5py.Group):
            return
        group = item


def check_sources(data: h5py.Dataset) -> None:
    """Check the files that a virtual dataset is made of, or whose bytes a dataset takes.

    Raises
    ------
    ValueError
        If one is missing or lies outside the data folder; the message names all that are missing.
    """
    here = f"{data.file.filename}: {data.name.lstrip('/')!r} takes its data from"
    problems = []
    for name in [entry[0] for entry in data.external or ()]:
        source_path(data.file.filename, name, here)
    sources = data.virtual_sources() if data.is_virtual else ()
    for file_name, name in dict.fromkeys((s.file_name, s.dset_name) for s in sources):
        try:
            if file_name == ".":
                _check_target(data.file, name, here, 0)
                continue
            path = source_path(data.file.filename, file_name, here)
            with h5py.File(path, "r") as target:
                _check_target(target, name, here, 0)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f" {len(problems)} sources are affected." if len(problems) > 1 else ""
        raise ValueError(f"{problems[0]}{more}")
    if data.is_virtual and data.ndim > 0:
        unmapped = np.flatnonzero(~_mapped(data))
        if len(unmapped) > 0:
            warnings.warn(
                f"{here} {len(dict.fromkeys(s.file_name for s in sources))} files, none of which "
                f"is the source of {len(unmapped)} of its {len(data)} entries, from number "
                f"{unmapped[0]} on: they read as zeros. Add the missing source to the virtual "
                "dataset, or leave them out.",
                stacklevel=2,
            )


def _mapped(data: h5py.Dataset) -> NDArray[np.bool_]:
    """(n,) True for the entries of a virtual dataset that have a source."""
    mapped = np.zeros(len(data), bool)
    for source in data.virtual_sources():
        space = source.vspace
        if space.get_select_type() == h5py.h5s.SEL_ALL:
            return np.ones(len(data), bool)
        if space.is_regular_hyperslab():  # it may be unlimited, and has no bounds then
            start, stride, count, block = (of_axis[0] for of_axis in space.get_regular_hyperslab())
            mapped[start : start + (count - 1) * stride + block] = True
        else:
            first, last = (of_axis[0] for of_axis in space.get_select_bounds())
            mapped[first : last + 1] = True
    return mapped


def source_path(owner: str, name: str, what: str) -> Path:
    """The file that a link names.

    Parameters
    ----------
    owner : str
        The file that holds the link.
    name : str
        The file's name in the link, relative to the folder of ``owner``.
    what : str
        Who asks for it, for the message.

    Raises
    ------
    ValueError
        If the file does not exist, or lies outside the folder of ``owner`` and
        ``links_outside_allowed`` is not in force.
    """
    folders = [Path(os.path.abspath(owner)).parent, Path(os.path.realpath(owner)).parent]
    for folder in folders:
        path = Path(os.path.normpath(folder / name))
        inside = any(path.is_relative_to(parent) for parent in folders)
        if not inside and not _outside_allowed.get():
            raise ValueError(
                f"{what} {name!r}, which lies outside the folder of the data; move the file there, "
                "or allow links outside it (allow_outside_links=True)."
            )
        if path.is_file():
            return path
    raise ValueError(
        f"{what} {name!r}, which does not exist in {folders[0]}; copy the missing file there."
    )


def contents(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset | h5py.ExternalLink]]:
    """Names of datasets and external links of a file, those in the fewest groups first.

    HDF5's own visit follows groups within groups until the stack is full.
    """
    groups, seen, n_items = [("", file["/"])], set(), 0
    for _ in range(DEEPEST):
        inner = []
        for prefix, group in groups:
            for name in itertools.islice(group, MOST_ITEMS - n_items):
                n_items += 1
                link, path = group.get(name, getlink=True), f"{prefix}{name}"
                if isinstance(link, h5py.ExternalLink):
                    yield path, link
                item = group.get(name) if isinstance(link, h5py.HardLink) else None
                if item is None or item in seen:
                    continue
                seen.add(item)
                if isinstance(item, h5py.Dataset):
                    yield path, item
                elif isinstance(item, h5py.Group):
                    inner.append((f"{path}/", item))
        groups = inner


def linked_files(path: Path) -> list[Path]:
    """Files that external links and virtual datasets of an HDF5 file name, there or not.

    The list is empty where the file is none of HDF5, or cannot be read yet.
    """
    names: list[str] = []
    if not path.is_file() or not h5py.is_hdf5(path):
        return []
    try:
        with h5py.File(path, "r") as file:
            for _, item in contents(file):
                if isinstance(item, h5py.ExternalLink):
                    names.append(item.filename)
                elif item.is_virtual:
                    names.extend(source.file_name for source in item.virtual_sources())
    except (OSError, RuntimeError):
        return []
    return [path.parent / name for name in dict.fromkeys(names) if name != "."]


def _check_target(file: h5py.File, name: str, what: str, n_followed: int) -> None:
    check_links(file, name, n_followed + 1)
    if file.get(name.rstrip("/")) is None:
        raise ValueError(
            f"{what} {name.strip('/')!r} of {file.filename}, which does not exist; check how the "
            "file was written."
        )
    item = file[name.rstrip("/")]
    if isinstance(item, h5py.Dataset):
        check_sources(item)
