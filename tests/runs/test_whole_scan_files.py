"""Run files of scans that are whole in one file."""

import warnings

import h5py
import numpy as np
import pytest

from ptychi_neural.runs import reconstruct
from ptychi_neural.runs.measured import load_measured, section_of
from ptychi_neural.runs.run_file import read_run_file

RUN = """
[data]
diffraction = "scan.cxi"
pixel_size_m = 2e-8

[reconstructor_options]
num_epochs = 1
default_device = "cpu"
random_seed = 0
start = { n_iterations = 5 }
"""


@pytest.fixture
def cxi(tmp_path):
    """A file of patterns, positions and geometry."""
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    translation = np.zeros((36, 3))
    translation[:, :2] = positions[:, ::-1] * 6e-8
    with h5py.File(tmp_path / "scan.cxi", "w") as file:
        file["cxi_version"] = 160
        file["entry_1/data_1/data"] = rng.poisson(40, (36, 16, 16)).astype(np.int32)
        file["entry_1/sample_1/geometry_1/translation"] = translation
        file["entry_1/instrument_1/source_1/energy"] = 1.6e-15
        file["entry_1/instrument_1/detector_1/x_pixel_size"] = 75e-6
        file["entry_1/instrument_1/detector_1/y_pixel_size"] = 75e-6
        file["entry_1/instrument_1/detector_1/distance"] = 1.0
    return tmp_path / "scan.cxi"


def test_a_cxi_file_is_reconstructed_without_a_product(cxi, tmp_path):
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    run = read_run_file(tmp_path / "run.toml")
    result = reconstruct(run, tmp_path / "result", show_progress=False)
    assert np.isfinite(result.scan.object).all()
    assert result.scan.pixel_size_m == 2e-8
    assert "product" not in read_run_file(tmp_path / "result" / "run.toml").filled_in()["data"]


def test_a_lacking_probe_is_told_where_none_is_asked_for(cxi):
    with pytest.warns(UserWarning, match="started the probe from the root of the mean pattern"):
        load_measured(section_of(cxi, None, []))
    optics = 'probe={ kind = "aperture", semi_angle_rad = 5e-4, defocus_m = 1e-5 }'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_measured(section_of(cxi, None, [f"data.{optics}"]))
