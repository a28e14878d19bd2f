"""Tables of the documentation, written from records that are kept beside it.

    python -m ptychi_neural.comparison.benchmark.documented docs/architectures.md [CELLS ...]

takes the recorded rows of each ``cells.csv`` of a benchmark into the records beside the page
(``results/benchmarks/ablations/cells.csv`` into ``docs/records/ablations.csv``, where other cells
stay) and writes the tables of the page anew. A table stands between two comments, of which the
first tells its rows and columns:

    <!-- records of ablations: dose=1e5 network=ffno,u_fno; error ratio n_parameters -->
    <!-- end of records -->
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ptychi_neural.comparison.markdown import markdown
from ptychi_neural.scans.hdf5 import replacing

TABLE = re.compile(
    r"(<!-- records of (\S+): (.*?); (.*?) -->\n).*?(<!-- end of records -->)", re.DOTALL
)


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    text: Callable[[float], str]
    with_extremes: bool = False
    """Whether the smallest and the largest value stand beside the median."""


COLUMNS = {
    "error": Column("error", "{:#.3g}".format, True),
    "ratio": Column("ratio", "{:.2f}".format, True),
    "ssim_amplitude": Column("amplitude SSIM", "{:.3f}".format, True),
    "ssim_phase": Column("phase SSIM", "{:.3f}".format, True),
    "frc_resolution_px": Column("FRC (px)", "{:.1f}".format),
    "n_parameters": Column("parameters", lambda n: f"{n / 1e6:.3f} M"),
    "flops": Column("GFLOPs", lambda n: f"{n / 1e9:.1f}"),
    "engine_seconds": Column("seconds", "{:.0f}".format),
}
"""What tables can tell, by the columns of ``cells.csv``."""


def labels_of(columns: Sequence[str]) -> list[str]:
    """The columns of ``cells.csv`` that tell cells apart: axes, object, seed and engine."""
    return [*columns[: [*columns].index("recorded")]]


def read_cells(path: Path) -> pd.DataFrame:
    """Read the recorded rows of a ``cells.csv``, whose labels are text: 1e5 is no number."""
    with path.open(encoding="utf-8") as file:
        labels = labels_of(file.readline().strip().split(","))
    cells = pd.read_csv(path, dtype=dict.fromkeys(labels, str))
    return cells[cells["recorded"]]


def keep(cells: Path, folder: Path) -> Path:
    """Take the recorded rows of a benchmark's ``cells.csv`` into the kept ones of its suite.

    Parameters
    ----------
    cells : Path
        ``cells.csv`` in a folder with the name of the suite.
    folder : Path
        Folder of the kept records.

    Returns
    -------
    Path
        The file of the kept rows, in which rows of the same cell are replaced.
    """
    rows, path = read_cells(cells), folder / f"{cells.parent.name}.csv"
    if path.exists():
        rows = pd.concat([read_cells(path), rows])
    rows = rows.drop_duplicates(labels_of([*rows]), keep="last").dropna(axis="columns", how="all")
    with replacing(path, overwrite=True) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    return path


def table(rows: pd.DataFrame, chosen: Mapping[str, Sequence[str]], shown: Sequence[str]) -> str:
    """Medians over seeds, with the extremes, in Markdown.

    Parameters
    ----------
    rows : DataFrame
        Rows of cells.
    chosen : mapping
        Labels of the rows that are shown, by column.
    shown : sequence of str
        Names in ``COLUMNS``.

    Raises
    ------
    ValueError
        If a label or a column is not there.

    Examples
    --------
    >>> rows = pd.DataFrame({"dose": "1e5", "engine": ["fno", "cnn"] * 3, "seed": list("001122")})
    >>> rows = rows.assign(recorded=True, error=[0.1, 0.2, 0.3, 0.5, 0.2, 0.3])
    >>> print(table(rows, {"dose": ["1e5"]}, ["error"]))
    | engine | error                  |
    | ------ | ---------------------- |
    | fno    | 0.200 (0.100 to 0.300) |
    | cnn    | 0.300 (0.200 to 0.500) |
    """
    labels = labels_of([*rows])
    if unknown := {*chosen} - {*labels} | {*shown} - {*COLUMNS} | {*shown} - {*rows}:
        raise ValueError(f"no such columns: {', '.join(sorted(unknown))}.")
    for name, values in chosen.items():
        if missing := {*values} - {*rows[name]}:
            raise ValueError(f"{name}: there is no {', '.join(sorted(missing))}.")
    for name, values in chosen.items():
        rows = rows[rows[name].isin(values)]
    by = [name for name in labels if name != "seed" and rows[name].nunique() > 1] or ["engine"]
    told = [
        [*map(str, key if isinstance(key, tuple) else (key,))]
        + [_told(group[name].dropna(), COLUMNS[name]) for name in shown]
        for key, group in rows.groupby(by, sort=False)
    ]
    return markdown(pd.DataFrame(told, columns=[*by, *(COLUMNS[name].heading for name in shown)]))


def _told(values: pd.Series, column: Column) -> str:
    if values.empty:
        return "-"
    median, *extremes = (column.text(x) for x in (values.median(), values.min(), values.max()))
    if not column.with_extremes or len(values) == 1:
        return median
    return f"{median} ({' to '.join(extremes)})"


def with_tables(text: str, folder: Path) -> str:
    """A page with its tables written anew from the records in a folder."""

    def written(found: re.Match[str]) -> str:
        begin, suite, chosen, shown, end = found.groups()
        labels = {n: v.split(",") for n, v in (pair.split("=") for pair in chosen.split())}
        rows = read_cells(folder / f"{suite}.csv")
        return f"{begin}\n{table(rows, labels, shown.split())}\n\n{end}"

    return TABLE.sub(written, text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    for argument in sys.argv[2:]:
        keep(Path(argument), page.parent / "records")
    page.write_text(with_tables(page.read_text("utf-8"), page.parent / "records"), "utf-8")
