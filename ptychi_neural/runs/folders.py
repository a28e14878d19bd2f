"""Results folders, which never replace something else and are complete when they appear."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Refuse to write a result over something else.

    Raises
    ------
    FileExistsError
        If the folder exists and is not empty, unless ``overwrite`` is set and it holds an earlier
        result.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists: --overwrite replaces it, --output FOLDER writes elsewhere."
        )
    if not (folder / "provenance.json").is_file():
        raise FileExistsError(
            f"{folder} exists and is no results folder: --output FOLDER writes elsewhere."
        )


@contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside the one to write, whose place it takes when it is complete.

    An incomplete folder stays, so that hours of computing are not lost for a figure. Call
    ``check_output_folder`` first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    earlier = temporary.with_name(f"{temporary.name}.old")
    temporary.mkdir()
    try:
        yield temporary
        if overwrite and folder.exists():
            folder.rename(earlier)
        temporary.rename(folder)
    except BaseException as error:
        error.add_note(f"What was saved by then is in {temporary}.")
        raise
    if earlier.exists():
        shutil.rmtree(earlier)
