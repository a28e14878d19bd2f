"""Files of suites: those that come with the package, found by name, and those of the user."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.comparison.benchmark.suite import Suite
from ptychi_neural.runs.run_file import RunFile, RunFileError, run_from

SUITES = Path(__file__).resolve().parent / "suites"
"""Folder of the suites that come with the package."""


def packaged_suites() -> dict[str, str]:
    """Names and descriptions of the suites that come with the package."""
    files = sorted(SUITES.glob("*.toml"))
    return {path.stem: read_suite(path)[0].description.strip() for path in files}


def read_suite(suite: str | Path) -> tuple[Suite, Path]:
    """Read and check a suite.

    Parameters
    ----------
    suite : str or Path
        The TOML file, or the name of a suite that comes with the package.

    Returns
    -------
    Suite
        The suite.
    Path
        Its file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the file is not valid TOML, or has unknown, missing or ill-typed keys.
    """
    path = Path(suite)
    if not path.is_file():
        path = SUITES / f"{suite}.toml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in SUITES.glob("*.toml")))
        raise FileNotFoundError(
            f"There is no suite {suite}: neither a file, nor one of those that come with the "
            f"package ({names})."
        )
    try:
        text = json.dumps(tomllib.loads(path.read_text(encoding="utf-8-sig")), default=str)
        return TypeAdapter(Suite).validate_json(text, strict=True), path
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFileError(str(path), [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise RunFileError(str(path), [_described(detail) for detail in error.errors()]) from None


def run_file(cell: Cell, suite_path: Path, data_folder: str | Path | None = None) -> RunFile:
    """Make the run file of a cell.

    Relative paths are relative to the suite's file. In a suite that comes with the package they
    are relative to the current folder, because the user's data do not lie beside the package.

    Parameters
    ----------
    cell : Cell
        The cell.
    suite_path : Path
        File of the suite.
    data_folder : str or Path, optional
        Takes the place of ``data.folder``, as does the environment variable PTYCHI_NEURAL_DATA.

    Raises
    ------
    RunFileError
        If the contents are not those of a valid run file.
    """
    is_packaged = suite_path.resolve().parent == SUITES
    try:
        base = Path(suite_path.name) if is_packaged else suite_path
        return run_from(cell.contents, base, data_folder)
    except RunFileError as error:
        raise RunFileError(f"{suite_path}, {cell.key}", error.problems) from None


def _described(detail: Any) -> str:
    """One line on a problem that pydantic found, led by the dotted name of the key."""
    known = {"extra_forbidden": "unknown key", "missing": "required"}
    message = known.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    key = ".".join(map(str, detail["loc"]))
    return f"{key}: {message}" if key else message
