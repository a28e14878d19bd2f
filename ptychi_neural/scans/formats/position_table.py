"""Positions in a text file: a row for each frame, columns named in a header, or y and x.

A header may name more columns; those named y and x are taken, with their unit where it stands
behind the name: ``y_um, x_um``, ``Y (mm), X (mm)``, ``ppY ppX``, ``y_px x_px``.
"""

import re
from pathlib import Path

import numpy as np

from ptychi_neural.scans.beamline import METRES
from ptychi_neural.scans.formats.registry import Reader, register_reader
from ptychi_neural.scans.hdf5 import StrPath
from ptychi_neural.scans.preparation import Unit
from ptychi_neural.scans.scan import Scan, scan_of_positions

SUFFIXES = (".csv", ".txt", ".dat", ".tsv")

UNITS = {spelling.lower(): unit_m for spelling, unit_m in METRES.items()}

PIXELS = ("px", "pixel", "pixels")

COLUMN = re.compile(
    r"^(?:pp|pos|position|probe_position|sample|stage|motor)?[_ -]?([yx])"
    r"(?:[_ -]?(?:pos|position|coord|coords))?[_ -]*"
    rf"[(\[]?\s*({'|'.join((*UNITS, *PIXELS))}|)\s*[)\]]?$",
    re.IGNORECASE,
)
"""Names of columns of positions, with their axis and unit."""


@register_reader("position_table")
class PositionTable(Reader):
    """Positions (y, x) as text, in metres unless the header tells another unit or pixels."""

    files = "text (.csv, .txt, .dat, .tsv) with a row for each position, columns y and x"
    is_last = True

    def recognises(self, path: Path) -> bool:
        if path.suffix.lower() not in SUFFIXES:
            return False
        with open(path, "rb") as file:
            beginning = file.read(4096).decode("utf-8-sig", errors="replace").splitlines()
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
        return scan_of_positions(numbers * UNITS.get(unit, 1.0))

    def unit_of_positions(self, path: StrPath) -> Unit:
        return "px" if _table(path)[2] in PIXELS else "m"


def _table(path: StrPath) -> tuple[list[list[str]], tuple[int, int], str]:
    """Rows of numbers, columns of y and x, and their unit."""
    lines = Path(path).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    rows = [_fields(line.lstrip("# \t")) for line in lines]
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
    columns, unit = _columns(rows[first - 1]) if first else ((0, 1), "m")
    return rows[first:], columns, unit


def _columns(header: list[str]) -> tuple[tuple[int, int], str]:
    """Columns of y and x, and their unit."""
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
    return (y, x), unit or "m"


def _fields(line: str) -> list[str]:
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
