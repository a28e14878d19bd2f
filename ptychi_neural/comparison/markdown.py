"""Tables in Markdown."""

from collections.abc import Mapping

import pandas as pd
from pandas.api.types import is_numeric_dtype


def markdown(table: pd.DataFrame, formats: Mapping[str, str] | None = None) -> str:
    """Write a table in Markdown that reads well as plain text too.

    Parameters
    ----------
    table : DataFrame
        Columns of numbers are aligned on the right; what is missing becomes a dash.
    formats : mapping of str to str, optional
        Formats of the values of some columns. Other fractions have three significant digits.

    Examples
    --------
    >>> table = pd.DataFrame({"engine": ["neural", "lsqml"], "error": [0.12345, float("nan")]})
    >>> print(markdown(table))
    | engine | error |
    | ------ | ----: |
    | neural | 0.123 |
    | lsqml  |     - |
    """
    columns = []
    for name, values in table.items():
        form = (formats or {}).get(str(name))
        cells = [str(name), *(_text(value, form) for value in values)]
        width = max(map(len, cells))
        if is_numeric_dtype(values):
            heading, *rest = [cell.rjust(width) for cell in cells]
            rule = "-" * (width - 1) + ":"
        else:
            heading, *rest = [cell.ljust(width) for cell in cells]
            rule = "-" * width
        columns.append([heading, rule, *rest])
    return "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns))


def _text(value: object, form: str | None) -> str:
    if pd.isna(value):
        return "-"
    return format(value, form or (".3g" if isinstance(value, float) else ""))
