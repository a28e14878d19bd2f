"""Tables of the documentation come from the records that are kept beside it."""

from pathlib import Path

import pandas as pd
import pytest

from ptychi_neural.comparison.benchmark.documented import keep, read_cells, table, with_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "architectures.md"


def test_the_tables_of_the_documentation_are_those_of_the_records():
    text = PAGE.read_text("utf-8")
    assert text.count("<!-- records of ") == text.count("<!-- end of records -->") > 3
    assert with_tables(text, DOCS / "records") == text


def write_cells(folder, errors, recorded=True):
    rows = [
        {"dose": "1e5", "object": "lines", "seed": seed, "engine": engine, "recorded": recorded}
        | {"error": error, "stopped": None}
        for (engine, seed), error in errors.items()
    ]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "cells.csv", index=False)
    return folder / "cells.csv"


def test_recorded_rows_are_kept_and_those_of_the_same_cell_replaced(tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    mine = tmp_path / "mine"
    path = keep(write_cells(mine, {("fno", 0): 0.5, ("fno", 1): 0.123456789}), records)
    assert path == records / "mine.csv"
    keep(write_cells(mine, {("fno", 0): 0.4, ("cnn", 0): 0.3}), records)
    keep(write_cells(mine, {("fno", 1): 9.0}, recorded=False), records)
    kept = read_cells(path)
    found = {(row.engine, row.seed): row.error for row in kept.itertuples()}
    assert found == {("fno", "0"): 0.4, ("fno", "1"): 0.123457, ("cnn", "0"): 0.3}
    assert "stopped" not in kept
    assert set(kept["dose"]) == {"1e5"}


def test_a_table_is_written_between_its_comments_and_nothing_else(tmp_path):
    cells = write_cells(tmp_path / "mine", {("fno", 0): 0.5, ("fno", 1): 0.1, ("cnn", 0): 0.3})
    keep(cells, tmp_path)
    begin = "<!-- records of mine: dose=1e5 engine=cnn,fno; error -->\n"
    page = f"Text\n\n{begin}old\n<!-- end of records -->\n\nmore"
    page = with_tables(page, tmp_path)
    assert page == (
        f"Text\n\n{begin}\n"
        "| engine | error                  |\n"
        "| ------ | ---------------------- |\n"
        "| fno    | 0.300 (0.100 to 0.500) |\n"
        "| cnn    | 0.300                  |\n\n"
        "<!-- end of records -->\n\nmore"
    )
    assert with_tables(page, tmp_path) == page


@pytest.mark.parametrize(
    ("chosen", "shown", "message"),
    [
        ({"dose": ["1e9"]}, ["error"], "dose: there is no 1e9"),
        ({"does": ["1e5"]}, ["error"], "no such columns: does"),
        ({"dose": ["1e5"]}, ["eror"], "no such columns: eror"),
        ({"dose": ["1e5"]}, ["flops"], "no such columns: flops"),
    ],
)
def test_what_is_not_in_the_records_is_refused(tmp_path, chosen, shown, message):
    rows = read_cells(write_cells(tmp_path / "mine", {("fno", 0): 0.5}))
    with pytest.raises(ValueError, match=message):
        table(rows, chosen, shown)
