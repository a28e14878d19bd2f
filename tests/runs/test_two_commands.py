"""From the files of a scan to a reconstruction in two commands: init, reconstruct."""

import dataclasses
import math
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.scans import read_product, write_diffraction, write_product, write_scan

COMMAND = shutil.which("ptychi-neural", path=Path(sys.executable).parent)

SHORT = (
    "--set=reconstructor_options.num_epochs=0",
    "--set=reconstructor_options.start.n_iterations=3",
    "--set=reconstructor_options.default_device=cpu",
)

WAVELENGTH_M, DISTANCE_M = 1.4e-10, 2.0


def numbers(scan):
    """Keys of the geometry of a scan, for files that tell nothing of it."""
    detector_m = WAVELENGTH_M * DISTANCE_M / (scan.probe.shape[-1] * scan.pixel_size_m)
    return [
        f"--set=data.wavelength_m={WAVELENGTH_M}",
        f"--set=data.detector_distance_m={DISTANCE_M}",
        f"--set=data.detector_pixel_size_m={detector_m}",
    ]


def ptychodus(folder, scan):
    write_diffraction(folder / "diffraction.h5", scan.patterns)
    write_product(folder / "product.h5", scan)
    return ["diffraction.h5"]


def cxi(folder, scan):
    write_scan(folder / "scan.cxi", scan, "cxi")
    with h5py.File(folder / "scan.cxi", "a") as file:
        del file["entry_1/image_1"], file["entry_1/image_2"], file["entry_1/ptychodus"]
    return ["scan.cxi"]


def fold_slice(folder, scan):
    with h5py.File(folder / "a_dp.hdf5", "w") as file:
        file["dp"] = scan.patterns
    with h5py.File(folder / "a_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = (scan.positions_px * scan.pixel_size_m).T
        file["lambda"], file["dx"] = scan.wavelength_m, scan.pixel_size_m
    return ["a_dp.hdf5"]


def ptychopinn(folder, scan):
    write_scan(folder / "scan.npz", scan, "ptychopinn")
    return ["scan.npz"]


def numpy_stack(folder, scan):
    np.save(folder / "patterns.npy", scan.patterns)
    np.save(folder / "positions.npy", scan.positions_px * scan.pixel_size_m)
    return ["patterns.npy", "positions.npy", *numbers(scan)]


def tiff(folder, scan):
    tifffile.imwrite(folder / "patterns.tif", scan.patterns.astype(np.uint16))
    rows = np.column_stack([scan.positions_px[:, ::-1] * scan.pixel_size_m * 1e6])
    np.savetxt(folder / "at.csv", rows, delimiter=",", header="x_um,y_um", comments="")
    return ["patterns.tif", "at.csv", *numbers(scan)]


def tiff_folder(folder, scan):
    (folder / "frames").mkdir()
    for i, pattern in enumerate(scan.patterns):
        tifffile.imwrite(folder / "frames" / f"f_{i}.tif", pattern.astype(np.uint16))
    np.savetxt(folder / "at.txt", scan.positions_px * scan.pixel_size_m)
    return ["frames", "at.txt", *numbers(scan)]


def emd(folder, scan):
    """py4DSTEM's layout; the raster's positions are those of the file's calibration."""
    n = math.isqrt(len(scan.patterns))
    cube = scan.patterns.reshape(n, n, *scan.patterns.shape[1:])
    with h5py.File(folder / "cube.h5", "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = cube
        step_nm = 4e9 * scan.pixel_size_m
        per_nm = 1e-9 / (scan.probe.shape[-1] * scan.pixel_size_m)
        for i, (size, step, unit) in enumerate(
            zip(cube.shape, 2 * [step_nm] + 2 * [per_nm], 2 * ["nm"] + 2 * ["nm^-1"])
        ):
            group[f"dim{i}"] = np.arange(size) * step
            group[f"dim{i}"].attrs["units"] = unit
    return ["cube.h5"]


def hdf5_by_names(folder, scan):
    with h5py.File(folder / "own.h5", "w") as file:
        file["a/frames"], file["a/bad"] = scan.patterns, np.zeros(scan.patterns.shape[1:], np.uint8)
        file["b/v"], file["b/h"] = (scan.positions_px * scan.pixel_size_m * 1e6).T
    named = 'patterns = "a/frames", mask = "a/bad", y = "b/v", x = "b/h"'
    return [
        "own.h5",
        f"--set=data.datasets={{ {named} }}",
        "--set=data.position_units=um",
        *numbers(scan),
    ]


KINDS = (
    *(ptychodus, cxi, fold_slice, ptychopinn, numpy_stack, tiff, tiff_folder, emd),
    hdf5_by_names,
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
@pytest.mark.parametrize("kind", KINDS[::4], ids=lambda kind: kind.__name__)
def test_two_commands_of_the_shell_lead_to_a_result(kind, scan, tmp_path):
    arguments = kind(tmp_path, scan)
    for command in (["init", *arguments, "--output=run.toml"], ["reconstruct", "run.toml", *SHORT]):
        done = subprocess.run(
            [COMMAND, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    positions_m, _ = positions_of(tmp_path / "results" / "run")
    np.testing.assert_allclose(positions_m, expected(scan, kind), atol=1e-11)


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
