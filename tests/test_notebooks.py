"""The notebooks run from the first cell to the last."""

import logging
import re
import shutil

import h5py
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from notebook_cells import REPOSITORY, run_cells

LARGEST_PICTURE = 2**21
"""Characters of the largest picture that a notebook carries."""


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


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Runs a notebook and gives its names, what it printed, and the names of what it drew."""
    logger = logging.getLogger("ptychi")
    level = logger.level

    def run(name):
        names = run_cells(name, tmp_path, monkeypatch)
        drawn = {path.name for path in (tmp_path / "results" / name).rglob("*.png")}
        return names, capsys.readouterr().out, drawn

    yield run
    logger.setLevel(level)


def test_the_quick_start_shows_an_object_and_how_sure_it_is(run_here):
    names, text, drawn = run_here("quick_start")
    errors = re.findall(r"(?:projections|with network) +error (\S+),", text)
    assert len(errors) == 2
    assert max(map(float, errors)) < 0.2
    assert all(holds.mean() > 0.5 for holds in names["inside"].values())
    assert drawn == {"comparison.png", "intervals.png"}


def test_the_notebook_of_architectures_draws_all_kept_records(run_here):
    names, _, _ = run_here("architectures")
    assert plt.get_fignums() == [1, 2, 3, 4, 5, 6]
    plt.close("all")
    for rows in (names["family"], names["ablations"], names["probes"]):
        assert rows.groupby("engine")["seed"].nunique().max() == 3


@pytest.mark.slow
def test_the_notebook_of_few_photons_compares_three_engines(run_here):
    names, text, drawn = run_here("low_dose")
    assert [int(overlap) // 10 for overlap in re.findall(r"overlap (\d+)%", text)] == [8, 6]
    assert {"few-photons.png", "large-steps.png"} <= drawn
    table = (names["FOLDER"] / "large-steps" / "comparison.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table[1:]] == ["neural", "network-off", "lsqml-poisson"]


@pytest.mark.slow
def test_the_notebook_of_training_predicts_better_than_an_empty_object(run_here):
    names, _, drawn = run_here("trained_generator")
    errors = names["errors"]
    assert errors["prediction"] < 0.2
    assert errors["LSQML from prediction, 1 epochs"] < errors["LSQML from empty, 1 epochs"]
    assert drawn == {"training.png", "prediction.png", "comparison.png"}


@pytest.mark.slow
def test_the_notebook_of_own_data_finds_the_near_field_and_goes_on_to_objects(
    data_folder, run_here, monkeypatch
):
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(data_folder))
    names, text, drawn = run_here("own_data")
    assert re.findall(r"propagation: +(\w+ field)", text) == ["near field", "far field"]
    assert re.findall(r"(neural|lsqml) +\S+ s, held-out NLL", text) == 2 * ["neural", "lsqml"]
    inspected = {f"{name}-inspect.png" for name in ("near-field", "siemens-star")}
    assert drawn == inspected | {"comparison.png", "error_over_time.png"}
    for name in ("near-field", "siemens-star"):
        with h5py.File(names["FOLDER"] / f"{name}-comparison" / "objects.h5") as file:
            assert all(
                np.isfinite(file[f"{engine}/object"]).all() for engine in ("neural", "lsqml")
            )


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_keeps_all_outputs_and_none_is_large_or_an_error(path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    data = [output.data for output in outputs if "data" in output]
    pictures = [shown["image/png"] for shown in data if "image/png" in shown]
    assert pictures
    assert max(map(len, pictures)) < LARGEST_PICTURE
