"""A metric is declared once: it is then in records, tables, figures and reports."""

import json

import numpy as np
import pandas as pd
import pytest

from ptychi_neural.comparison import compare
from ptychi_neural.comparison.benchmark import benchmark
from ptychi_neural.comparison.benchmark.record import read_record
from ptychi_neural.evaluation import METRICS, Metric


def brightness(ours, theirs, area):
    """Mean amplitude over that of the target."""
    return float(np.abs(ours[area]).mean() / np.abs(theirs[area]).mean())


@pytest.fixture
def declared(monkeypatch):
    monkeypatch.setitem(METRICS, "brightness", Metric("relative brightness", brightness, ".5f"))


@pytest.fixture
def suite_file(tiny_suite, tmp_path):
    path = tmp_path / "tiny.toml"
    metrics = '[figures]\nmetrics = ["error", "brightness"]'
    path.write_text(tiny_suite.replace("[figures]", metrics))
    return path


def test_a_metric_that_a_script_declares_is_in_records_tables_and_figures(
    declared, suite_file, tmp_path
):
    folder = tmp_path / "results"
    table = benchmark(suite_file, folder, show_progress=False).table
    values = [
        json.loads(path.read_text())["end"]["brightness"] for path in (folder / "records").iterdir()
    ]
    assert len(values) == 4
    assert all(0.5 < value < 2 for value in values)
    assert table["brightness"].between(0.5, 2).all()
    assert "| brightness |" in (folder / "table.md").read_text()
    assert "brightness" in pd.read_csv(folder / "cells.csv")
    assert (folder / "curves_brightness.png").stat().st_size > 10_000
    assert (folder / "curves.png").is_file()


def test_a_metric_that_a_script_declares_is_in_the_report_of_a_comparison(declared, run, tmp_path):
    changes = {"lsqml": {"reconstructor_options": {"num_epochs": 2}}}
    compare(run, ["lsqml"], tmp_path / "compared", changes=changes, show_progress=False)
    value = pd.read_csv(tmp_path / "compared" / "comparison.csv").end_relative_brightness[0]
    report = (tmp_path / "compared" / "comparison.md").read_text()
    assert report.count("| relative brightness |") == 3
    assert f"{value:.5f}" in report


def test_a_metric_that_has_no_value_is_shown_as_missing(monkeypatch, run, tmp_path):
    def refuse(ours, theirs, area):
        raise ValueError("the reference is flat")

    monkeypatch.setitem(METRICS, "refused", Metric("refused", refuse))
    changes = {"lsqml": {"reconstructor_options": {"num_epochs": 2}}}
    comparison = compare(run, ["lsqml"], tmp_path / "compared", changes=changes)
    assert np.isnan(comparison.table.end_refused[0])
    assert "- |" in comparison.report


def test_records_from_before_a_metric_was_declared_are_still_read(
    tiny_suite, tmp_path, monkeypatch
):
    path, folder = tmp_path / "tiny.toml", tmp_path / "results"
    path.write_text(tiny_suite)
    benchmark(path, folder, show_progress=False)
    monkeypatch.setitem(METRICS, "brightness", Metric("relative brightness", brightness))
    result = benchmark(path, folder, show_progress=False)
    assert result.n_run == 0
    assert result.cells["brightness"].isna().all()
    assert result.cells["ssim_phase"].notna().all()
    assert "brightness" not in result.table


def test_a_record_keeps_its_numbers_when_it_is_read_and_written(tiny_suite, tmp_path):
    path, folder = tmp_path / "tiny.toml", tmp_path / "results"
    path.write_text(tiny_suite)
    benchmark(path, folder, show_progress=False)
    file = sorted((folder / "records").iterdir())[0]
    content = json.loads(file.read_text())
    content["end"]["frc_resolution_px"] = "Infinity"
    file.write_text(json.dumps(content))
    record = read_record(file)
    assert record.end.frc_resolution_px == np.inf
    record.write(tmp_path / "copy.json")
    assert json.loads((tmp_path / "copy.json").read_text()) == content
