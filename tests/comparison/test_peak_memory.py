"""The memory that a benchmark tells."""

import subprocess
import sys

import numpy as np

PEAK = """
from ptychi_neural.comparison.benchmark.peak_memory import peak_memory_mib, reset_peak_memory
import numpy as np
small = peak_memory_mib()
np.ones(50 * 2**17)
with_array = peak_memory_mib()
reset_peak_memory()
print(small, with_array, peak_memory_mib())
"""


def test_memory_is_of_the_process_alone():
    """Linux counts to a child what its parent had taken when it was started."""
    np.ones(2**31 // 8)  # 2 GiB, and given back
    ran = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    small, with_array, reset = map(float, ran.stdout.split())
    assert small < 1400
    assert 45 < with_array - small < 60
    assert reset < with_array
