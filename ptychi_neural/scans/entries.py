"""Entries of CXI and NeXus files: each is a measurement with its own frames, positions and beam.

All that is read of a file comes from one of them, for names are looked for in this entry alone.
"""

import fnmatch
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from glob import escape

import h5py

PATTERNS = ("instrument*/detector*", "data*")
"""Groups in an entry that hold patterns."""

_chosen: ContextVar[str | None] = ContextVar("entry", default=None)


@contextmanager
def entry_chosen(name: str | None, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Read files from this entry within the block, if they have it; None leaves things as they are.

    Parameters
    ----------
    name : str or None
        Name of a group at the root of a file.
    path : path, optional
        A file that has to have it.

    Raises
    ------
    ValueError
        If that file has no such entry.
    """
    if name is not None and path is not None:
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path} is no HDF5 file and has no entries: leave out data.entry.")
        with h5py.File(path, "r") as file:
            if not isinstance(file.get(name), h5py.Group):
                there = ", ".join(scans_in(file)) or "none with patterns"
                raise ValueError(f"{path} has no entry {name!r} (data.entry); there are {there}.")
    token = _chosen.set(name or _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


def is_chosen() -> bool:
    """Whether an entry was chosen."""
    return _chosen.get() is not None


def entry_of(file: h5py.File) -> str | None:
    """The entry that is read: the chosen one, or the first of several that hold patterns.

    None where one entry at most holds patterns, so that there is nothing to confuse.
    """
    chosen = _chosen.get()
    if chosen is not None and isinstance(file.get(chosen), h5py.Group):
        return chosen
    found = scans_in(file)
    return found[0] if len(found) > 1 else None


def scans_in(file: h5py.File) -> list[str]:
    """Names of the entries that hold patterns, in their order, those of CXI (``entry_1``) first."""
    found: dict[h5py.Group, str] = {}  # an entry may have two names
    for name in sorted(file, key=lambda name: (not re.match(r"entry_\d", name), in_order(name))):
        if name.startswith("entry") and _has_patterns(entry := file.get(name)):
            found.setdefault(entry, name)
    return list(found.values())


def in_entry(file: h5py.File, pattern: str) -> str:
    """A pattern such as ``entry*/data*/data``, with the entry that is read in place of any."""
    first, slash, rest = pattern.partition("/")
    if not slash or not first.startswith("entry") or first.isidentifier():
        return pattern
    entry = entry_of(file)
    return pattern if entry is None else f"{escape(entry)}/{rest}"


def in_order(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts names by the numbers in them.

    Examples
    --------
    >>> sorted(["data_10", "data_9", "data"], key=in_order)
    ['data', 'data_9', 'data_10']
    """
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _has_patterns(entry: object) -> bool:
    if not isinstance(entry, h5py.Group):
        return False
    for pattern in PATTERNS:
        groups = [entry]
        for part in pattern.split("/"):
            inside = (group.get(name) for group in groups for name in fnmatch.filter(group, part))
            groups = [item for item in inside if isinstance(item, h5py.Group)]
        if any(fnmatch.filter(group, name) for group in groups for name in ("data", "data_[0-9]*")):
            return True
    return False
