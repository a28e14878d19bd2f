"""Runs the cells of a notebook in this process, which has imported torch long ago."""

import shutil
from pathlib import Path

import nbformat

REPOSITORY = Path(__file__).resolve().parents[1]


def run_cells(name, folder, monkeypatch):
    """Run a notebook reduced, in a copy of its place.

    Returns
    -------
    dict
        The names that its cells have defined.
    """
    monkeypatch.setenv("PTYCHI_NEURAL_QUICK", "1")
    for part in ("configs", "docs/records"):
        shutil.copytree(REPOSITORY / part, folder / part)
    (folder / "notebooks").mkdir()
    monkeypatch.chdir(folder / "notebooks")
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    names = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), names)
    return names
