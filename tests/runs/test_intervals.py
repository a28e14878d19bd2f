"""Intervals of amplitude and phase in a results folder."""

import h5py
import numpy as np
import pytest

from ptychi_neural.runs.reconstruct import reconstruct
from ptychi_neural.runs.run_file import RunFileError, read_run_file

RUN = """
[output]
intervals = true

[simulation]
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 6, n_x = 6, step_px = 2.5 }

[reconstructor_options]
num_epochs = 1
random_seed = 0
default_device = "cpu"
start = { n_iterations = 4 }
generator = { width = 4 }

[probe_options]
optimizable = false
"""


def test_the_product_holds_the_intervals_that_the_run_file_asks_for(tmp_path):
    (tmp_path / "run.toml").write_text(RUN)
    run = read_run_file(tmp_path / "run.toml")
    result = reconstruct(run, tmp_path / "result", show_progress=False)
    with h5py.File(tmp_path / "result" / "product.h5") as file:
        for name in ("amplitude", "phase"):
            stored = file[f"{name}_interval"][()]
            np.testing.assert_array_equal(stored, getattr(result.intervals, name))
            assert stored.shape == file["object"].shape[-2:]
            assert np.nanmin(stored) > 0
        deviation = result.intervals.standard_deviation
        np.testing.assert_array_equal(file["object_std"][()], deviation)
    assert read_run_file(tmp_path / "result" / "run.toml").output.intervals


@pytest.mark.parametrize("other", ['engine = "lsqml"\n', '[refine]\nengine = "lsqml"\n'])
def test_intervals_of_another_engine_are_refused(tmp_path, other):
    text = RUN.partition("[reconstructor_options]")[0]
    path = tmp_path / "run.toml"
    path.write_text(other + text if other.startswith("engine") else text + other)
    with pytest.raises(RunFileError, match=r"output\.intervals: the result has to be the neural"):
        read_run_file(path)
