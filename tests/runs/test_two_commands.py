"""From the files of a scan to a reconstruction in two commands: init, reconstruct."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.scans import read_product
from scan_kinds import DISTANCE_M, KINDS, WAVELENGTH_M, emd, ptychodus

COMMAND = shutil.which("ptychi-neural", path=Path(sys.executable).parent)

SHORT = (
    "--set=reconstructor_options.num_epochs=0",
    "--set=reconstructor_options.start.n_iterations=3",
    "--set=reconstructor_options.default_device=cpu",
)


@pytest.fixture
def scan(simulated):
    """64 frames of 16 x 16 with a geometry."""
    geometry = {"wavelength_m": WAVELENGTH_M, "detector_distance_m": DISTANCE_M}
    return dataclasses.replace(simulated.scan, pixel_size_m=1e-8, **geometry)


def positions_of(folder):
    found = read_product(folder / "product.h5")
    positions_m = found.positions_px * found.pixel_size_m
    return positions_m - positions_m.mean(axis=0), found.pixel_size_m


def expected(scan, kind):
    positions_m = scan.positions_px * scan.pixel_size_m
    if kind is emd:  # 8 x 8 positions of a calibrated raster
        positions_m = np.indices((8, 8)).reshape(2, -1).T * 4 * scan.pixel_size_m
    return positions_m - positions_m.mean(axis=0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_two_commands_lead_from_files_to_a_result(kind, scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    arguments = kind(tmp_path / "data", scan)
    for command in (["init", *arguments, "--output=../run.toml"], ["reconstruct", "../run.toml"]):
        options = [*SHORT, "--output=../out"] if command[0] == "reconstruct" else []
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
    read_run_file(tmp_path / "run.toml")
    positions_m, pixel_size_m = positions_of(tmp_path / "out")
    assert pixel_size_m == pytest.approx(scan.pixel_size_m, rel=1e-6)
    np.testing.assert_allclose(positions_m, expected(scan, kind), atol=1e-3 * pixel_size_m)
    assert np.isfinite(read_product(tmp_path / "out" / "product.h5").object).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_two_commands_of_the_shell_lead_to_a_result(kind, scan, tmp_path):
    arguments = kind(tmp_path, scan)
    for command in (["init", *arguments, "--output=run.toml"], ["reconstruct", "run.toml", *SHORT]):
        done = subprocess.run(
            [COMMAND, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    positions_m, _ = positions_of(tmp_path / "results" / "run")
    np.testing.assert_allclose(positions_m, expected(scan, kind), atol=1e-11)


def test_the_table_of_the_documentation_names_the_files_of_every_kind(scan, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "at_the_beamline.md").read_text()
    rows = re.findall(r"^\| .* \| `init ([^`]*)`", page, re.M)
    files = []
    for kind in KINDS:
        (folder := tmp_path / kind.__name__).mkdir()
        names = [name for name in kind(folder, scan) if not name.startswith("--")]
        files.append(" ".join(names))
    assert [row.partition(" --set")[0].replace("S012/", "") for row in rows] == files


def test_init_finds_the_focus_of_a_measured_near_field_scan(data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = data_folder / "near_field" / "PETRAIII_P25_Near_Field_Ptycho.cxi"
    done = CliRunner().invoke(app, ["init", str(path), "--output", "run.toml"])
    assert done.exit_code == 0, done.output
    section = read_run_file(tmp_path / "run.toml").data
    # The beamline's own number, and no key turns the frames.
    assert section.focus_object_distance_m == pytest.approx(-3.65e-3, rel=0.02)
    assert not section.moves_frames


def test_a_run_file_is_not_replaced(scan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ptychodus(tmp_path, scan)
    for code in (0, 2):
        done = CliRunner().invoke(app, ["init", "diffraction.h5"])
        assert done.exit_code == code, done.output
    assert "exists" in done.output
