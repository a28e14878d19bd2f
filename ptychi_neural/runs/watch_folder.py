"""A folder in which scans arrive: each is reconstructed once, by one run file for all."""

import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from ptychi_neural.counted import counted
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.configuration import (
    RunFileError,
    key_names,
    merged,
    read_keys,
    validated,
    without_none,
)
from ptychi_neural.runs.folders import PROVENANCE
from ptychi_neural.runs.growing_folder import growing_folder
from ptychi_neural.runs.one_writer import WrittenByOther
from ptychi_neural.runs.provenance import write_json
from ptychi_neural.runs.reconstruct import reconstruct
from ptychi_neural.runs.run_file import RunFile, run_from
from ptychi_neural.runs.sections import DataAlone
from ptychi_neural.scans.formats import READERS
from ptychi_neural.scans.links import linked_files

SCAN = "{scan}"
"""What stands in a template's file names for the name of a scan."""

STATE = "watch.json"

SHORTEST_S = 0.1
"""Seconds between two looks at the least."""

Files = list[list[Any]]
"""Path, size and time of change of each file of a scan; 0 and 0 of a linked one that is missing."""


@dataclass
class _Seen:
    """The files of a scan as they were seen last."""

    files: Files
    since: float


@dataclass
class FolderWatch:
    """Reconstructs the scans of a folder as they arrive.

    ``{scan}`` in ``data.diffraction`` of the template stands for the name of a scan, and may do so
    in ``data.product`` and ``data.reference``. A scan is taken when all of its files exist and
    have not changed for ``settle_s``. Results go to ``output_folder/<scan>``. What was done, and
    what was set aside for which reason, is in ``watch.json`` there, from which another watch goes
    on. A scan that was set aside is tried again when its files change. Several watches of a folder
    share its scans.

    Parameters
    ----------
    folder : Path
        The folder in which scans arrive. It takes the place of ``data.folder``.
    template : Path
        Run file for all scans.
    output_folder : Path, optional
        None: ``output.folder`` of the template, or ``results/<its name>``.
    changes : dict, optional
        Contents that take the place of the template's.
    settle_s : float
        Seconds for which files must not have changed.
    retry : bool
        Try scans that were set aside again.
    say : callable
        Takes a line for each scan.
    complain : callable, optional
        Takes the lines of scans that are set aside; None: ``say`` does.

    Raises
    ------
    FileNotFoundError
        If folder or template do not exist.
    OSError
        If the output folder cannot be written.
    ValueError
        If the template is no valid run file, or names no ``{scan}``.
    """

    folder: Path
    template: Path
    output_folder: Path | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    settle_s: float = 10.0
    retry: bool = False
    say: Callable[[str], None] = print
    complain: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is no folder to watch.")
        self._contents = merged(read_keys(self.template), self.changes)
        checked = self._checked()
        self.output_folder = Path(self.output_folder or checked.output_folder)
        self._file = growing_folder(self.output_folder, (STATE,), [self.template]) / STATE
        self.state: dict[str, dict[str, Any]] = self._kept()
        if self.retry and self.state:
            with self._alone():
                self.state = {k: v for k, v in self._kept().items() if v["state"] != "set aside"}
                write_json(self._file, {"scans": self.state})
        self._seen: dict[str, _Seen] = {}

    def run(self, every_s: float = 5.0, once: bool = False) -> bool:
        """Look at the folder again and again, until Ctrl-C.

        Parameters
        ----------
        every_s : float
            Seconds between two looks.
        once : bool
            End when every scan that is there was reconstructed or set aside.

        Returns
        -------
        bool
            Whether the watch was interrupted while it reconstructed.
        """
        while True:
            self.state = self._kept()
            waiting = list(self._waiting())
            ready = [name for name, files in waiting if self._has_settled(name, files)]
            n_done = 0
            for name in ready:
                with interruptible("the batch") as interrupted:
                    ended = False
                    with suppress(WrittenByOther):  # as by another watch, which notes what comes
                        ended = self._reconstruct(name)
                        n_done += 1
                if ended or interrupted():
                    return True
            if once and n_done == len(waiting):
                return False
            if not n_done:
                time.sleep(min(every_s, max(self.settle_s, SHORTEST_S)) if once else every_s)

    # --- the template ------------------------------------------------------------------------

    def _checked(self) -> RunFile:
        """Check all of the template that does not depend on a scan."""
        problems: list[str] = []
        data = self._contents.get("data", {})
        contents = without_none(DataAlone, {"data": data})
        frame = validated(DataAlone, contents, list(key_names(DataAlone)), problems)
        if frame is not None:
            problems += [f"data.{problem}" for problem in frame.data.problems()]
        if "simulation" in self._contents:
            problems.append("simulation: a template names measured data")
        diffraction = str(data.get("diffraction", "")) if isinstance(data, dict) else ""
        if Path(diffraction).is_absolute():
            problems.append("data.diffraction: has to be relative to the watched folder")
        if SCAN not in diffraction:
            problems.append(
                f"data.diffraction: write {SCAN} in the place of a scan's name, such as \"{SCAN}"
                f'.cxi" or "{SCAN}/diffraction.h5"'
            )
        if problems:
            raise RunFileError(str(self.template), problems)
        rest = {key: value for key, value in self._contents.items() if key != "data"}
        return run_from(rest | {"simulation": {}}, self.template)

    def _run_of(self, name: str) -> RunFile:
        data = {key: _named(value, name) for key, value in self._contents["data"].items()}
        contents = self._contents | {"data": data | {"folder": str(self.folder.resolve())}}
        return run_from(contents, self.template, self.folder)

    # --- scans -------------------------------------------------------------------------------

    def _waiting(self) -> Iterator[tuple[str, Files]]:
        """Scans to be reconstructed whose files are all there."""
        pattern = str(self._contents["data"]["diffraction"])
        parts = pattern.split(SCAN)
        first, *others = map(re.escape, parts)
        name_of = re.compile(f"{first}(?P<scan>[^/]+){'(?P=scan)'.join(others)}")
        anything = re.sub(r"\*+", "*", "*".join(map(glob.escape, parts)))
        for path in sorted(self.folder.glob(anything)):
            matched = name_of.fullmatch(path.relative_to(self.folder).as_posix())
            name = matched["scan"] if matched else "."
            is_done = self.state.get(name, {}).get("state") == "done"
            files = None if is_done or name.startswith(".") else self._files(name)
            if files is None or self._is_known(name, files):
                continue
            yield name, files

    def _files(self, name: str) -> Files | None:
        """The files of a scan; None as long as one of them is missing."""
        data = self._contents["data"]
        named = [data[key] for key in ("diffraction", "product", "reference") if key in data]
        paths = [self.folder / _named(value, name) for value in named]
        if "product" not in data:
            beside = (reader.product_beside(paths[0]) for reader in READERS.values())
            paths += [path for path in beside if path is not None and path.is_file()]
        try:
            found = [_stated(path, path.stat()) for path in paths]
        except FileNotFoundError:
            return None
        for path in linked_files(paths[0]):  # of a master that may be there before its data
            is_there = path.is_file()
            found.append(_stated(path, path.stat()) if is_there else [str(path), 0, 0])
        return found

    def _is_known(self, name: str, files: Files) -> bool:
        known = self.state.get(name)
        if known is None:
            return False
        return known["state"] == "done" or (
            known["state"] == "set aside" and known["files"] == files
        )

    def _has_settled(self, name: str, files: Files) -> bool:
        seen, now = self._seen.get(name), time.monotonic()
        if seen is None or seen.files != files:
            seen = self._seen[name] = _Seen(files, now)
        return now - seen.since >= self.settle_s

    # --- results -----------------------------------------------------------------------------

    def _reconstruct(self, name: str) -> bool:
        """Reconstruct a scan or set it aside; tell whether the watch was interrupted.

        Raises
        ------
        WrittenByOther
            If another run is at it.
        """
        assert self.output_folder is not None
        files, target = self._seen[name].files, self.output_folder / name
        self.state = self._kept()
        if self._is_known(name, files):  # since the folder was looked at
            return False
        interrupted = self.state.get(name, {}).get("state") == "interrupted"
        if (target / PROVENANCE).is_file() and not interrupted:
            self._note(name, files, "done", "there is a result")
            return False
        try:
            result = reconstruct(self._run_of(name), target, interrupted, show_progress=False)
        except WrittenByOther:
            raise
        except Exception as error:
            told = isinstance(error, ValueError | OSError | FloatingPointError)
            reason = str(error) if told else f"{type(error).__name__}: {error}"
            self._note(name, files, "set aside", reason)
            return False
        if result.stopped == "interrupted":
            self._note(name, files, "interrupted", "it will be reconstructed anew")
            return True
        how = result.stopped or f"{counted(len(result.losses), 'epochs')} in {result.seconds:.1f} s"
        if result.unsaved:
            how += f", incomplete, without {', '.join(result.unsaved)}"
        self._note(name, files, "done", how)
        return False

    def _note(self, name: str, files: Files, state: str, reason: str) -> None:
        """Note what became of a scan, so that another watch goes on from here."""
        assert self.output_folder is not None
        self._seen.pop(name, None)
        with self._alone():
            self.state = self._kept() | {name: {"state": state, "reason": reason, "files": files}}
            write_json(self._file, {"scans": self.state})
        tell = self.complain if self.complain and state == "set aside" else self.say
        tell(f"{name}: {state}: {reason}")

    def _kept(self) -> dict[str, dict[str, Any]]:
        """What this watch and others have noted."""
        if not self._file.is_file():
            return {}
        try:
            scans: dict[str, dict[str, Any]] = json.loads(self._file.read_text("utf-8"))["scans"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(
                f"{self._file} does not tell what became of scans ({error}); put back what a watch "
                "wrote, or remove it: scans that have a result are not reconstructed again."
            ) from error
        return scans

    def _alone(self) -> FileLock:
        """Keep other watches from noting anything."""
        return FileLock(self._file.with_name(f".{STATE}.lock"))


def _stated(path: Path, stat: os.stat_result) -> list[Any]:
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _named(value: Any, name: str) -> Any:
    return value.replace(SCAN, name) if isinstance(value, str) else value
