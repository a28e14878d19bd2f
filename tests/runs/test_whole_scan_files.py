"""Run files of scans that are whole in one file."""

import h5py
import numpy as np

from ptychi_neural.runs import reconstruct
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


def test_a_cxi_file_is_reconstructed_without_a_product(tmp_path):
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
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    run = read_run_file(tmp_path / "run.toml")
    result = reconstruct(run, tmp_path / "result", show_progress=False)
    assert np.isfinite(result.scan.object).all()
    assert result.scan.pixel_size_m == 2e-8
    assert "product" not in read_run_file(tmp_path / "result" / "run.toml").filled_in()["data"]
