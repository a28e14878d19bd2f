"""Results folders: tried before anything is computed, whole when they appear, never lost.

A run writes to a hidden folder ``.NAME.TOKEN.partial`` beside the results folder, whose place it
takes in the end. A lock beside them keeps other runs away until then. Where the results folder
cannot be replaced (a mount point, a parent without permission), both are inside of it.
"""

import errno
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptychi_neural.runs.launcher import is_launched, is_silent
from ptychi_neural.runs.one_writer import alone_at, place_of, stem, told_by_name

PROVENANCE = "provenance.json"
"""File by which a results folder is known. Its ``files`` are all that a run wrote."""

OF_THE_BEGINNING = frozenset({PROVENANCE, "run.toml", "train.toml"})
"""Files that are written before anything is computed; alone they are not worth keeping."""

OF_EARLIER_RESULTS = (
    *("comparison.csv", "comparison.md", "comparison.png", "error_over_time.png", "figure.png"),
    *("generator-best.safetensors", "generator-last.safetensors", "generator.safetensors"),
    *("loss.png", "losses.csv", "metrics.json", "objects.h5", "product.h5", "run.toml"),
    *("state.safetensors", "trace.csv", "train.toml", "training.csv", "training.png"),
    "validation.csv",
)
"""Files that a run may have written to a results folder that has no list of them."""

TOKEN = "[0-9a-f]" * 8
"""Pattern of what makes the names of hidden files and folders differ."""


class ResultsFolder:
    """A results folder that a run is writing, made by ``results_folder``.

    Attributes
    ----------
    folder : Path
        The results folder as it was named.
    target : Path
        Where that is, when symbolic links are followed.
    temporary : Path
        The folder to write to. While a results folder grows in place, it is that folder.
    earlier : Path or None
        The folder of the run to resume: what a killed run left, or the results folder.
    """

    def __init__(self, folder: Path, target: Path, place: Path, overwrite: bool) -> None:
        self.folder, self.target = folder, target
        self.earlier: Path | None = None
        self._place, self._overwrite = place, overwrite
        self.temporary = target

    def renew(self) -> None:
        """Make a new hidden folder to write to."""
        self.temporary = self._hidden("partial")
        self.temporary.mkdir()

    def publish(self, wrote: Collection[str] = ()) -> None:
        """Put what was written in the place of the results folder.

        Of an earlier result only what a run wrote is removed; other files are kept.

        Parameters
        ----------
        wrote : collection of str
            Names of the files of a folder that has grown in place, beside which there may be
            others. Of a hidden folder all files are the run's.

        Raises
        ------
        FileExistsError
            If something has come to be there since the run began.
        """
        if self.temporary == self.target:
            _list_files(self.target, wrote)
            return
        if not self._overwrite and not _is_vacant(self.target):
            raise FileExistsError(f"{self.folder} has come to exist since the run began.")
        hidden = self.temporary
        _list_files(
            hidden, [f.relative_to(hidden).as_posix() for f in hidden.rglob("*") if f.is_file()]
        )
        moved = self._hidden("old")
        try:
            if self.target.exists():
                self.target.rename(moved)
            self.temporary.rename(self.target)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EINVAL, errno.EACCES):
                raise
            if moved.exists():
                moved.rename(self.target)
            _publish_files(self.temporary, self.target)
        else:
            _settle(moved, self.target)
        self._overwrite = True

    def left(self, suffix: str) -> list[Path]:
        """What killed runs have left beside the results folder, the oldest first."""
        pattern = f".{_glob_escaped(stem(self.target))}.{TOKEN}.{suffix}"
        found = [path for path in self._place.glob(pattern) if path.is_dir()]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def _hidden(self, suffix: str) -> Path:
        return self._place / f".{stem(self.target)}.{secrets.token_hex(4)}.{suffix}"


@contextmanager
def results_folder(
    folder: str | Path,
    overwrite: bool = False,
    *,
    resume: bool = False,
    in_place: bool = False,
    reads: Collection[Path] = (),
) -> Iterator[ResultsFolder]:
    """Try a results folder and keep other runs away from it, before anything is computed.

    Of several processes of ``torchrun`` the first does, and the others write nothing.

    Write to ``temporary``, then call ``publish``. What was saved stays in the hidden folder where
    that does not happen, so that hours of computing are not lost for a figure.

    Parameters
    ----------
    folder : str or Path
        The results folder. Symbolic links are followed.
    overwrite : bool
        Whether an earlier result may be replaced, and what killed runs have left is removed.
    resume : bool
        Whether a run goes on from what an earlier one has left (``earlier``).
    in_place : bool
        Whether the folder grows in place, unless there is an earlier result.
    reads : collection of Path
        Files that the run reads, of which ``overwrite`` may remove none.

    Raises
    ------
    FileExistsError
        If there is something else, or another run writes to the folder.
    FileNotFoundError
        If there is nothing to resume.
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    if is_silent():
        yield _of_first(ResultsFolder(folder, folder, folder.parent, overwrite))
        return
    target = place_of(folder)
    if target == (here := Path(os.path.realpath(os.curdir))) or target in here.parents:
        raise FileExistsError(
            f"{folder} is the current folder or holds it: --output FOLDER names a new one."
        )
    with alone_at(folder, target) as place:
        results = ResultsFolder(folder, target, place, overwrite or resume)
        _mend(results)
        if not resume:
            _tell_left(results, overwrite)
            _check_vacant(folder, target, overwrite, reads)
        _choose_temporary(results, overwrite, resume, in_place)
        for path in results.temporary.glob(f".*.{TOKEN}.partial*"):
            path.unlink()  # A killed run was writing it.
        try:
            yield _of_first(results)
        except BaseException as error:
            if not _clear_if_empty(results):
                error.add_note(f"What was saved by then is in {results.temporary}.")
            raise
        _clear_if_empty(results)


def _of_first(results: ResultsFolder) -> ResultsFolder:
    """Let all of several processes know what the first of them is to resume."""
    if is_launched():
        from ptychi_neural.physics.ranks import of_first  # imports torch

        results.earlier = of_first(results.earlier)
    return results


def folder_name(name: str) -> str:
    """A folder's name made of one from a file, which must not decide on a path.

    Examples
    --------
    >>> folder_name("../../scan 12")
    'scan_12'
    """
    return re.sub(r"[^\w+-]+", "_", name).strip("_")[:100] or "scan"


def _check_vacant(folder: Path, target: Path, overwrite: bool, reads: Collection[Path]) -> None:
    if _is_vacant(target):
        return
    if not overwrite:
        raise FileExistsError(
            f"{folder} exists: --overwrite replaces it, --output FOLDER writes elsewhere."
        )
    if not (target / PROVENANCE).is_file():
        raise FileExistsError(
            f"{folder} exists and is no results folder: --output FOLDER writes elsewhere."
        )
    removed = {os.path.realpath(path) for path in _written(target)}
    for path in reads:
        if os.path.realpath(path) in removed:
            raise FileExistsError(
                f"{folder} holds {path.name}, which this run reads and --overwrite would remove: "
                "--output FOLDER writes elsewhere."
            )


def _tell_left(results: ResultsFolder, overwrite: bool) -> None:
    """Tell what killed runs have left that is worth keeping."""
    for path in results.left("partial"):
        if not _holds_work(path):
            continue
        remedy = "--resume goes on from there, --overwrite removes it."
        if overwrite:
            remedy = "It is removed."
        warnings.warn(f"{path} was left by a killed run. {remedy}", stacklevel=4)


def _is_vacant(target: Path) -> bool:
    """Whether nothing is there but what a run hides inside."""
    if not target.exists():
        return True
    hidden = f".{stem(target)}."
    return all(path.name.startswith(hidden) for path in target.iterdir())


def _choose_temporary(
    results: ResultsFolder, overwrite: bool, resume: bool, in_place: bool
) -> None:
    """Choose the folder to write to, and tell or remove what killed runs have left."""
    left = []
    for path in results.left("partial"):
        if resume and any((path / name).exists() for name in ("run.toml", "train.toml")):
            left.append(path)
        elif overwrite or not _holds_work(path):
            shutil.rmtree(path)
    if resume and left:
        results.earlier = results.temporary = left[-1]
        return
    if resume:
        if _is_vacant(results.target):
            raise FileNotFoundError(f"{results.folder}: holds nothing to resume.")
        results.earlier = results.target
    with told_by_name(results.folder):
        if in_place and (resume or _is_vacant(results.target)):
            results.target.mkdir(parents=True, exist_ok=True)
        else:
            results.renew()


def _holds_work(path: Path) -> bool:
    """Whether a hidden folder holds what has taken time, and not only what was being written."""
    names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    return not names <= OF_THE_BEGINNING


def _clear_if_empty(results: ResultsFolder) -> bool:
    """Remove the folder that was written to if nothing was computed; tell whether it is gone."""
    path = results.temporary
    if not path.exists():
        return True
    if path != results.target and not _holds_work(path):
        shutil.rmtree(path, ignore_errors=True)
        return True
    return path == results.target


def _mend(results: ResultsFolder) -> None:
    """Finish what a run was killed in the middle of: putting a result in the place of another."""
    for moved in results.left("old"):
        if results.target.exists():
            _settle(moved, results.target)
        else:
            moved.rename(results.target)


def add_to_list(folder: Path, name: str) -> None:
    """Let later runs that replace a results folder remove a file that was added to it."""
    _list_files(folder, {name, *(path.relative_to(folder).as_posix() for path in _written(folder))})


def _list_files(folder: Path, names: Collection[str]) -> None:
    """Let the provenance list the files that were written, by which later runs remove them."""
    path = folder / PROVENANCE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content |= {"files": sorted(name for name in names if (folder / name).is_file())}
    temporary = folder / f".{PROVENANCE}.{secrets.token_hex(4)}.partial"
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:  # The disk is full; what can be in a folder without a list is known.
        temporary.unlink(missing_ok=True)


def _written(folder: Path) -> set[Path]:
    """Files in a results folder that a run wrote."""
    names: object = None
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        names = content.get("files") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = OF_EARLIER_RESULTS
    inside = Path(os.path.realpath(folder))
    found = {folder / name for name in (*names, PROVENANCE) if "\0" not in name}
    return {
        path
        for path in found
        if Path(os.path.realpath(path.parent)).is_relative_to(inside)
        and (path.is_file() or path.is_symlink())
    }


def _publish_files(source: Path, target: Path) -> None:
    """Move new files one by one over those of an earlier result, the product first."""
    target.mkdir(exist_ok=True)
    outdated = _written(target)
    files = [file for file in source.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda f: (f.name != "product.h5", f.name == PROVENANCE)):
        destination = target / file.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, destination)
        outdated.discard(destination)
    for path in outdated:
        path.unlink()
    shutil.rmtree(source)


def _settle(moved: Path, target: Path) -> None:
    """Remove what a run wrote from a folder that was replaced, and carry over all else."""
    if not moved.exists():
        return
    for path in _written(moved):
        path.unlink()
    for path in sorted(moved.rglob("*"), key=lambda path: len(path.parts)):
        destination = target / path.relative_to(moved)
        if path.is_dir() and not path.is_symlink():
            if any(path.iterdir()):
                destination.mkdir(exist_ok=True)
            continue
        if os.path.lexists(destination):
            destination = destination.with_name(f"{destination.name}.{secrets.token_hex(4)}")
        shutil.move(path, destination)
    shutil.rmtree(moved)


def _glob_escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
