"""A scan has the name that its files tell, or else that of its patterns, not of its positions."""

from pathlib import Path

import numpy as np
import pytest

from ptychi_neural.comparison.target import load_with_target
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.runs.run_scan import load
from ptychi_neural.runs.summary import summarize
from ptychi_neural.scans import load_scan, write_scan
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.scans.scan_names import scan_name
from ptychi_neural.simulation import Raster, SimulationOptions, simulate, write_simulation


@pytest.fixture
def scan(simulated):
    return simulated().scan()


@pytest.fixture
def patterns(scan, tmp_path):
    folder = tmp_path / "S007"
    folder.mkdir()
    np.save(folder / "S008.npy", scan.patterns)
    np.save(folder / "frames.npy", scan.patterns)
    at = 1e6 * scan.pixel_size_m * scan.positions_px
    np.savetxt(folder / "at.csv", at, delimiter=",", header="y_um, x_um", comments="")
    return folder


@pytest.mark.parametrize(("file", "name"), [("S008.npy", "S008"), ("frames.npy", "S007")])
def test_a_scan_whose_positions_are_text_is_named_after_its_patterns(scan, patterns, file, name):
    sized = Preparation(pixel_size_m=scan.pixel_size_m)
    assert load_scan(patterns / file, patterns / "at.csv", preparation=sized).name == name


@pytest.mark.parametrize(("told", "name"), [("gold", "gold"), ("", "S007"), ("simulation", "S007")])
def test_a_name_in_the_product_goes_before_that_of_the_folder(scan, patterns, told, name):
    scan.name = told
    write_scan(patterns / "product.h5", scan)
    assert load_scan(patterns / "frames.npy", patterns / "product.h5").name == name


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("S1/patterns/diffraction.h5", "S1"),
        ("S1/raw/Data/frames.npy", "S1"),
        ("S1/gold_dp.hdf5", "gold"),
        ("results/S1.b/product.h5", "S1.b"),
        ("/data.h5", "data"),
    ],
)
def test_names_that_every_scan_has_leave_it_to_the_nearest_folder(file, name):
    assert scan_name(Path(file)) == name


def test_simulated_scans_are_told_apart_by_their_folders(tmp_path):
    recipe = SimulationOptions(frame_shape=(16, 16), scan=Raster(n_y=3, n_x=3))
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_simulation(simulate(recipe), folder)
        assert load_scan(folder / "diffraction.h5").name == folder.name
        assert summarize(folder)["name"] == folder.name


def test_the_simulated_scan_of_a_run_file_has_the_name_of_the_file(tmp_path):
    for name, key in (("first", ""), ("second", 'name = "gold"')):
        section = f"frame_shape = [16, 16]\nscan = {{ kind = 'raster', n_y = 3, n_x = 3 }}\n{key}"
        (tmp_path / f"{name}.toml").write_text(f"[simulation]\n{section}")
        scan, _ = load(read_run_file(tmp_path / f"{name}.toml"))
        assert scan.name == ("gold" if key else name)
        compared, _ = load_with_target(read_run_file(tmp_path / f"{name}.toml"))
        assert compared.name == scan.name
