"""Folders of commands that add to what they hold, and go on from it."""

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptychi_neural.runs.one_writer import alone_at, place_of, told_by_name


def growing_folder(
    folder: str | Path, replaces: Collection[str] = (), reads: Collection[Path] = ()
) -> Path:
    """Make a folder if there is none, and try to write to it, before anything is computed.

    Parameters
    ----------
    folder : str or Path
        The folder. Symbolic links are followed.
    replaces : collection of str
        Names of files in it that are written anew.
    reads : collection of Path
        Files that the command reads, none of which may be replaced.

    Raises
    ------
    FileExistsError
        If there is a file, or a file that is read would be replaced.
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    target = place_of(folder)
    for path in reads:
        if os.path.realpath(path) in {os.path.realpath(target / name) for name in replaces}:
            raise FileExistsError(
                f"{folder} holds {path.name}, which this command reads and would replace: "
                "--output FOLDER writes elsewhere."
            )
    with told_by_name(folder):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    return folder


@contextmanager
def alone_in(
    folder: str | Path, replaces: Collection[str] = (), reads: Collection[Path] = ()
) -> Iterator[Path]:
    """Make a growing folder, to which no other command writes until the block ends.

    Raises
    ------
    WrittenByOther
        If another does.
    OSError
        As for ``growing_folder``.
    """
    folder = Path(folder)
    with alone_at(folder, place_of(folder)):
        yield growing_folder(folder, replaces, reads)
