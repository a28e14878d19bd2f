"""How much memory a long scan takes."""

import os
import subprocess
import sys

import pytest

RUN = """
import sys
import ptychi_neural.api as napi
from ptychi_neural.comparison.benchmark.peak_memory import peak_memory_mib
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.scans import load_scan

options = napi.NeuralPtychographyOptions()
options.reconstructor_options.default_device = "cpu"
options.reconstructor_options.start.n_iterations = 2
scan = load_scan(sys.argv[1])
assert len(scan.patterns) == 2500
task = build_task(options, scan)
task.run(1)
print(peak_memory_mib())
"""


@pytest.mark.slow
def test_2500_frames_of_128_x_128_take_less_than_1800_megabytes(data_folder):
    """From the import of torch, which takes 900 of them, to the end of an epoch.

    glibc otherwise keeps up to 500 more of freed memory, another amount at each run.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN, data_folder / "rotavirus" / "diffraction.h5"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},
    )
    assert float(done.stdout) < 1_800e6 / 2**20
