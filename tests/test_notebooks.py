"""The notebooks run from the first cell to the last."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def execute(data_folder, tmp_path, monkeypatch):
    """Runs a notebook on a copy, lest the figures of the repository be drawn anew in haste."""
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(data_folder))
    monkeypatch.setenv("PTYCHI_NEURAL_QUICK", "1")

    def run(name):
        """What the notebook printed, and the names of what it drew."""
        notebook = nbformat.read(REPOSITORY / "notebooks" / name, as_version=4)
        resources = {"metadata": {"path": str(tmp_path / "notebooks")}}
        NotebookClient(notebook, timeout=600, resources=resources).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        figures = {path.name for path in (tmp_path / "notebooks" / "figures").iterdir()}
        return "".join(output.get("text", "") for output in outputs), figures

    return run


@pytest.mark.slow
def test_the_siemens_star_notebook_runs_and_its_objects_resemble_the_reference(execute):
    text, drawn = execute("siemens_star.ipynb")
    correlations = dict(re.findall(r"(\w+) +phase correlation (\S+),", text))
    assert float(correlations["neural"]) > 0.9
    assert float(correlations["LSQML"]) > 0.5
    assert drawn == {"siemens_star.png", "siemens_star_lsqml.png"}


@pytest.mark.slow
def test_the_measured_probe_notebook_runs_and_its_prediction_beats_an_empty_object(execute):
    text, drawn = execute("measured_probe.ipynb")
    errors = re.findall(r"scan \d+ +(neural, no fit|LSQML|empty object) +error (\S+),", text)
    assert len(errors) == 9
    for neural, _, empty in zip(*[(float(error) for _, error in errors)] * 3):
        assert neural < empty
    assert drawn == {"measured_probe.png"}
