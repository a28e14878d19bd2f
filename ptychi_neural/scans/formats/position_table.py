"""Positions in a text file: a row for each frame, columns named in a header, or y and x.

A header may name more columns; those named y and x are taken, with their unit where it stands
behind the name: ``y_um, x_um``, ``Y (mm), X (mm)``, ``ppY ppX``, ``y_px x_px``. A column named
``frame``, ``index`` or the like tells the number of the frame that a row belongs to.
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.scans.beamline import METRES
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.preparation import Unit
from ptychi_neural.scans.scan import Scan, scan_of_positions

SUFFIXES = (".csv", ".txt", ".dat", ".tsv")

UNITS = {spelling.lower(): unit_m for spelling, unit_m in METRES.items()}

PIXELS = ("px", "pixel", "pixels")

COLUMN = re.compile(
    r"^(?:pp|pos|position|probe_position|sam|sample|stage|motor)?[_ -]?([yx])"
    r"(?:[_ -]?(?:pos|position|coord|coords))?[_ -]*"
    rf"[(\[]?\s*({'|'.join((*UNITS, *PIXELS))}|)\s*[)\]]?$",
    re.IGNORECASE,
)
"""Names of columns of positions, with their axis and unit."""


NUMBER = re.compile(
    r"^(?:(?:scan|frame|image|pattern|point)[_ -]?)?"
    r"(?:frame|image|pattern|point|index|indexes|idx|no|number|num|nr)s?\.?$",
    re.IGNORECASE,
)
"""Names of columns of the numbers of frames."""


@register_reader("position_table")
class PositionTable(Reader):
    """Positions (y, x) as text, in metres unless the header tells another unit or pixels."""

    files = "text (.csv, .txt, .dat, .tsv) with a row for each position, columns y and x"
    is_last = True

    def recognises(self, path: Path) -> bool:
        if path.suffix.lower() not in SUFFIXES:
            return False
        with open(path, "rb") as file:
            beginning = _decoded(file.read(4096)).splitlines()
        rows = [_fields(line) for line in beginning]
        return any(len(row) > 1 and all(map(_is_number, row)) for row in rows)

    def read_product(self, path: StrPath) -> Scan:
        rows, columns, unit = _table(path)
        try:
            numbers = np.array([[_number(row[column]) for column in columns] for row in rows])
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path}: a row holds no numbers for y and x ({error}); write a row for each frame."
            ) from error
        scan = scan_of_positions(numbers[:, :2] * UNITS.get(unit, 1.0))
        if len(columns) > 2:
            scan.frame_indexes = _rows_of_frames(numbers[:, 2], path)
        return scan

    def unit_of_positions(self, path: StrPath) -> Unit:
        return "px" if _table(path)[2] in PIXELS else "m"


def _rows_of_frames(numbers: NDArray[np.float64], path: StrPath) -> NDArray[np.int64]:
    """(n,) frames of numbers that count from their least, or, where some are missing, from 0 or 1.

    Examples
    --------
    >>> _rows_of_frames(np.array([3.0, 1.0, 2.0]), "at.csv")
    array([2, 0, 1])
    >>> _rows_of_frames(np.array([0.0, 1.0, 4.0]), "at.csv")
    array([0, 1, 4])
    """
    whole = np.array_equal(numbers, np.round(numbers))
    if not whole or len(np.unique(numbers)) < len(numbers) or numbers.min() < 0:
        raise ValueError(
            f"{path}: the column of the frames' numbers has other than distinct whole ones; write "
            "those, or give the column another name."
        )
    is_whole_scan = np.ptp(numbers) == len(numbers) - 1
    first = numbers.min() if is_whole_scan else min(numbers.min(), 1)
    return (numbers - first).astype(np.int64)


def _table(path: StrPath) -> tuple[list[list[str]], tuple[int, ...], str]:
    """Rows of numbers, columns of y, x and perhaps of the frames' numbers, and the unit."""
    lines = _decoded(Path(path).read_bytes()).splitlines()
    rows = [_fields(line.lstrip("# \t")) for line in lines]
    is_comment = [line.startswith("#") for line, row in zip(lines, rows) if any(row)]
    rows = [row for row in rows if any(row)]
    first = next((i for i, row in enumerate(rows) if all(map(_is_number, row))), None)
    if first is None:
        raise ValueError(
            f"{path} holds no row of numbers; write a row for each frame: y and x, in metres."
        )
    if not first and len(rows[0]) > 2:
        raise ValueError(
            f"{path} has {len(rows[0])} columns without names, such as {' '.join(rows[0])}; write "
            "a header that names y and x, with their unit: frame y_um x_um."
        )
    columns: tuple[int, ...] = (0, 1)
    unit = "m"
    if first:
        columns, unit = _columns(rows[first - 1])
    kept = [row for row, told in zip(rows[first:], is_comment[first:]) if not told]
    return kept, columns, unit


def _decoded(content: bytes) -> str:
    """Text of a file, as spreadsheets of many systems write it."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _columns(header: list[str]) -> tuple[tuple[int, ...], str]:
    """Columns of y, x and perhaps of the frames' numbers, and the unit of positions."""
    named: dict[str, tuple[int, str]] = {}
    for column, name in enumerate(header):
        match = COLUMN.match(name.strip())
        if match:
            named.setdefault(match[1].lower(), (column, match[2].lower()))
    if set(named) != {"y", "x"}:
        raise ValueError(
            f"the header {header} names no columns y and x; name them so, with their unit: "
            "y_m, x_m, or y_um, x_um, or y_px, x_px."
        )
    (y, unit), (x, other) = named["y"], named["x"]
    if unit != other:
        raise ValueError(f"y is in {unit!r} and x in {other!r}; write both in one unit.")
    of_frames = [column for column, name in enumerate(header) if NUMBER.match(name.strip())]
    return (y, x, *of_frames[:1]), unit or "m"


def _fields(line: str) -> list[str]:
    line = line.rstrip(";\t, ")
    separator = next((mark for mark in ";\t," if mark in line), None)
    return [field.strip().strip('"') for field in line.split(separator)]


def _number(field: str) -> float:
    """A number, whose decimal mark may be a comma where commas part no columns."""
    return float(field.replace(",", "."))


def _is_number(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return False
    return True
