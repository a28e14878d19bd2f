"""The notebooks run from the first cell to the last."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_siemens_star_notebook_runs_and_its_objects_resemble_the_reference(
    data_folder, tmp_path, monkeypatch
):
    """On a copy, lest the figures of the repository be drawn anew with few frames."""
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(data_folder))
    monkeypatch.setenv("PTYCHI_NEURAL_QUICK", "1")
    notebook = nbformat.read(REPOSITORY / "notebooks" / "siemens_star.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path / "notebooks")}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    correlations = dict(re.findall(r"(\w+) +phase correlation (\S+),", text))
    assert float(correlations["neural"]) > 0.9
    assert float(correlations["LSQML"]) > 0.5
    drawn = {path.name for path in (tmp_path / "notebooks" / "figures").iterdir()}
    assert drawn == {"siemens_star.png", "siemens_star_lsqml.png"}
