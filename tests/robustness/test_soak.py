"""A run of many epochs."""

import gc
import os
import time
from pathlib import Path

import pytest
import torch

from ptychi_neural.runs.attend import after
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task

EPOCHS = 2_000
EARLY = 200


def resident_mib() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the kernel tells no memory")
def test_memory_is_the_same_after_2000_epochs_as_after_200():
    simulated = simulate(
        SimulationOptions(frame_shape=(16, 16), scan=Raster(n_y=4, n_x=4, step_px=3))
    )
    options = default_options(EPOCHS)
    options.reconstructor_options.start.n_iterations = 5
    options.reconstructor_options.validation.patience = None
    options.reconstructor_options.generator.width = 4
    options.reconstructor_options.generator.unrolled.n_splits = 2
    options.reconstructor_options.consistency.canvas_update_stride = 10
    task = make_task(options, simulated.scan)
    resident: list[float] = []
    n_done = 0

    def look() -> None:
        nonlocal n_done
        n_done += 1
        if n_done % EARLY == 0:
            resident.append(resident_mib())

    began = time.process_time()
    with after(task.reconstructor, "run_post_epoch_hooks", look):
        task.run()
    print(f"MiB every {EARLY} epochs: {resident}; {time.process_time() - began:.0f} CPU s")
    assert n_done == EPOCHS
    assert resident[-1] < resident[0] + 5
    assert torch.isfinite(torch.view_as_real(task.get_data("object"))).all()
    assert len(task.reconstructor.loss_tracker.table) == EPOCHS
