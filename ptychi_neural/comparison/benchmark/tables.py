"""Tables of a benchmark: ratios to the best baseline, and medians over objects and seeds.

A table of cells has a row for each cell. Its columns are the labels of the cell (scan, object,
seed), the ``engine``, and what its record says. A cell without a record has a row without numbers,
and nothing is computed that would need them.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


def with_ratios(
    cells: pd.DataFrame, where: Sequence[str], baselines: Sequence[str]
) -> pd.DataFrame:
    """Add a column ``ratio``: the error over the smallest error of the baselines.

    Parameters
    ----------
    cells : DataFrame
        Columns ``engine``, ``error`` and those of ``where``.
    where : sequence of str
        Columns that tell scans apart.
    baselines : sequence of str
        Engines that a cell is compared with. There is no ratio where one of them has no error.

    Examples
    --------
    >>> cells = pd.DataFrame({"seed": [0, 0], "engine": ["neural", "lsqml"], "error": [0.1, 0.2]})
    >>> with_ratios(cells, ["seed"], ["lsqml"])["ratio"].tolist()
    [0.5, 1.0]
    """
    return cells.assign(ratio=cells["error"] / of_best_baseline(cells, where, baselines, "error"))


def of_best_baseline(
    cells: pd.DataFrame, where: Sequence[str], baselines: Sequence[str], value: str
) -> pd.Series:
    """Look up, for each cell, a value of the baseline of the smallest error on its scan.

    Parameters
    ----------
    cells, where, baselines
        As for ``with_ratios``.
    value : str
        Column of the value.

    Returns
    -------
    Series
        A value for each cell, NaN where one of the baselines has no error.
    """
    theirs = cells[cells["engine"].isin(baselines)]
    errors = theirs.pivot(index=list(where), columns="engine", values="error").dropna()
    if errors.empty:
        return pd.Series(np.nan, cells.index)
    best = errors.idxmin(axis=1).rename("engine").reset_index()
    found = best.merge(theirs, on=[*where, "engine"]).set_index(list(where))[value]
    return cells[list(where)].join(found.astype(float).rename("found"), on=list(where))["found"]


def medians(cells: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Take the median of each value over the cells that have it.

    Parameters
    ----------
    cells : DataFrame
        Columns of ``by`` and ``values``, and ``recorded`` (bool).
    by : sequence of str
        Columns whose labels name the rows of the result, in the order in which they appear.
    values : sequence of str
        Columns whose medians are taken.

    Returns
    -------
    DataFrame
        Columns of ``by``; ``cells``, such as "8/9", which tells how many of the cells have a
        record; and the medians.
    """
    groups = cells.groupby(list(by), sort=False)
    counts = groups["recorded"].agg(["sum", "size"]).astype(int).astype(str)
    table = groups[list(values)].median()
    table.insert(0, "cells", counts["sum"] + "/" + counts["size"])
    return table.reset_index()


def with_extremes(
    table: pd.DataFrame, cells: pd.DataFrame, by: Sequence[str], values: Sequence[str]
) -> pd.DataFrame:
    """Add the smallest and the largest of some values behind their medians.

    Parameters
    ----------
    table : DataFrame
        From ``medians`` of the same ``cells`` and ``by``, which has ``values``.
    cells, by, values
        As for ``medians``.

    Examples
    --------
    >>> cells = pd.DataFrame({"dose": ["1e5"] * 3, "error": [0.3, 0.1, 0.2], "recorded": True})
    >>> table = medians(cells, ["dose"], ["error"])
    >>> table = with_extremes(table, cells, ["dose"], ["error"])
    >>> table[["error", "error_min", "error_max"]].values.tolist()
    [[0.2, 0.1, 0.3]]
    """
    groups = cells.groupby(list(by), sort=False)
    for name in values:
        place = table.columns.get_loc(name) + 1
        table.insert(place, f"{name}_min", groups[name].min().to_numpy())
        table.insert(place + 1, f"{name}_max", groups[name].max().to_numpy())
    return table


def side_by_side(table: pd.DataFrame, where: Sequence[str], value: str) -> pd.DataFrame:
    """Rearrange a table to one row for each place and one column for each engine.

    Parameters
    ----------
    table : DataFrame
        From ``medians``, with a column ``engine``.
    where : sequence of str
        Columns that name a place.
    value : str
        Column that is shown.
    """
    wide = table.pivot(index=list(where), columns="engine", values=value)
    places = pd.MultiIndex.from_frame(table[list(where)].drop_duplicates())
    wide = wide.reindex(places if len(where) > 1 else places.get_level_values(0))
    return wide[table["engine"].unique()].rename_axis(columns=None).reset_index()
