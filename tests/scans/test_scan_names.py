"""A scan has the name that its files tell, or else that of its patterns, not of its positions."""

import numpy as np
import pytest

from ptychi_neural.scans import load_scan, write_scan
from ptychi_neural.scans.preparation import Preparation


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


@pytest.mark.parametrize(("told", "name"), [("gold", "gold"), ("", "S007")])
def test_a_name_in_the_product_goes_before_that_of_the_folder(scan, patterns, told, name):
    scan.name = told
    write_scan(patterns / "product.h5", scan)
    assert load_scan(patterns / "frames.npy", patterns / "product.h5").name == name
