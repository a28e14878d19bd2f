"""One command at a time writes to a folder, which is tried before anything is computed."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LONGEST_NAME = 180
"""Bytes of a folder's name that go into the names of hidden ones: 255 is the usual limit."""


class WrittenByOther(FileExistsError):
    """Another run writes to a results folder."""


@contextmanager
def alone_at(folder: Path, target: Path) -> Iterator[Path]:
    """Keep other runs away from a results folder.

    Parameters
    ----------
    folder : Path
        The folder as it was named, for errors.
    target : Path
        Where that is, see ``place_of``.

    Yields
    ------
    Path
        Where what belongs to a run is hidden: beside the folder, or in it.

    Raises
    ------
    WrittenByOther
        If another run writes to it.
    OSError
        If nothing can be written there.
    """
    place = target.parent
    if target.is_dir() and (os.path.ismount(target) or not os.access(place, os.W_OK)):
        place = target
    path = place / f".{stem(target)}.lock"
    lock = FileLock(path, timeout=0)
    try:
        with told_by_name(folder):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass  # The lock would wait where no file can be made.
            lock.acquire()
    except Timeout:
        raise WrittenByOther(
            f"{folder}: another run writes to it. Wait until it ends, or write elsewhere with "
            "--output FOLDER."
        ) from None
    try:
        yield place
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def place_of(folder: Path) -> Path:
    """Where a folder is or can be made, when symbolic links are followed.

    Raises
    ------
    OSError
        If there is a file, or a circle of links.
    ValueError
        If the name is not UTF-8, as which results tell it.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{str(os.fsencode(folder))[2:-1]}: the folder's name is not UTF-8, as which results "
            "tell it; --output FOLDER writes elsewhere."
        ) from None
    with told_by_name(folder):
        target = Path(os.path.realpath(folder))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        if target.exists() and not target.is_dir():
            raise FileExistsError(f"{folder} is a file: --output FOLDER writes elsewhere.")
    return target


@contextmanager
def told_by_name(folder: Path) -> Iterator[None]:
    """Let errors of the system name the results folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        reason = (error.strerror or str(error)).lower()
        if error.filename is not None and str(error.filename) != str(folder):
            reason = f"{error.filename}: {reason}"
        raise type(error)(
            f"{folder} cannot be written ({reason}): --output FOLDER writes elsewhere."
        ) from error


def stem(target: Path) -> str:
    """The folder's name, shortened where hidden names would become too long."""
    name = os.fsencode(target.name)
    if len(name) <= LONGEST_NAME:
        return target.name
    short = name[: LONGEST_NAME - 9].decode("utf-8", errors="ignore")
    return f"{short}-{hashlib.sha256(name).hexdigest()[:8]}"
