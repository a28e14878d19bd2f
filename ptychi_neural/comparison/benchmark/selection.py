"""Which cells of a suite are run: the whole, its reduced form, or chosen labels of either."""

from collections.abc import Sequence
from pathlib import Path

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.comparison.benchmark.record import record_path
from ptychi_neural.comparison.benchmark.suite import Suite


def selected_cells(suite: Suite, whole: bool, only: Sequence[str], records: Path) -> list[Cell]:
    """The cells that are run and reported.

    Parameters
    ----------
    suite : Suite
        The suite.
    whole : bool
        Take the whole suite instead of its reduced form.
    only : sequence of str
        Labels of the whole suite that are run in the place of those of the form, as
        ``"engine=lsqml,neural"``: of an axis, ``object``, ``seed`` or ``engine``. Cells that have
        a record are reported beside those that are chosen, so that a suite can be run in parts.
    records : Path
        Folder of the records.

    Raises
    ------
    ValueError
        If the suite has no such name or label, or no cell with all of them.
    """
    cells, every = suite.cells(whole), suite.cells(whole=True)
    if not only:
        return cells
    kept, known = _labels(cells), _labels(every)
    chosen: dict[str, list[str]] = {}
    for text in only:
        name, _, listed = text.partition("=")
        chosen.setdefault(name.strip(), []).extend(label.strip() for label in listed.split(","))
    for name, labels in chosen.items():
        if name not in known:
            raise ValueError(f"--only {name}: there is no such name, only {', '.join(known)}.")
        if missing := [label for label in labels if label not in known[name]]:
            raise ValueError(
                f"--only {name}: there is no {', '.join(missing)}, only {', '.join(known[name])}."
            )
    kept |= chosen
    keys = {cell.key for cell in every if all(v in kept[k] for k, v in cell.labels.items())}
    if not keys:
        raise ValueError(f"--only {' '.join(only)}: {suite.name} has no such cell.")
    return [cell for cell in every if cell.key in keys or record_path(cell, records).exists()]


def _labels(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The labels of cells by the names of what they are labels of."""
    names = cells[0].labels
    return {name: list(dict.fromkeys(cell.labels[name] for cell in cells)) for name in names}
