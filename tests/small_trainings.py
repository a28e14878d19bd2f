"""Reconstructions and trainings that are stopped and go on, if need be in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import ptychi_neural.api as napi
from ptychi_neural.engine.state_files import read_state
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


def recipe(seed, **changes):
    """36 frames of 16 x 16."""
    scan = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.5)
    return SimulationOptions(seed=seed, frame_shape=(16, 16), scan=scan, **changes)


def training_options(architecture="unrolled", held_out=0.0):
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.random_seed = 0
    settings.batch_size = 18
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 3
    settings.validation.held_out = held_out
    settings.consistency.canvas_update_stride = 1
    settings.generator.architecture = architecture
    settings.generator.width = 4
    if architecture == "unrolled":
        settings.generator.unrolled.n_splits = 2
    plan = settings.generator.optimization_plan
    plan.step_size_scheduler_class = "CosineAnnealingLR"
    plan.step_size_scheduler_options = {"T_max": 10}
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    return options


def single_task(architecture, seed=0):
    """With held-out pixels; compact batches, or random ones in the scope of the scan."""
    options = training_options(architecture, held_out=0.05)
    if architecture != "unrolled":
        options.reconstructor_options.batching_mode = "random"
        options.reconstructor_options.consistency.scope = "scan"
    return build_task(options, simulate(recipe(seed)).scan)


def outcome(task):
    """Everything a reconstruction has come to, as arrays."""
    reconstructor = task.reconstructor
    arrays = {
        name: task.get_data_to_cpu(name, as_numpy=True)
        for name in ("object", "probe", "probe_positions")
    }
    network = reconstructor.parameter_group.generator.network
    arrays |= {f"generator.{k}": v.numpy(force=True) for k, v in network.tensors().items()}
    arrays["losses"] = reconstructor.loss_tracker.table.to_numpy(float)
    arrays["validation"] = reconstructor.validation.loss.to_numpy(float)
    return arrays


def assert_equal(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def many_scans(scans_in_memory=8, architecture="unrolled"):
    return napi.MultiscanTrainingWorkflow(
        [recipe(0), napi.TrainingScan(recipe(1), fresh="object"), recipe(2, photons_per_frame=1e3)],
        recipe(9),
        training_options(architecture),
        scans_in_memory,
    )


def trained(workflow, folder):
    """Everything a training has come to, as arrays."""
    workflow.save_state(folder / "final.safetensors")
    state = read_state(folder / "final.safetensors", "training on many scans")
    arrays = {f"best.{name}": tensor.numpy() for name, tensor in state["best"].items()}
    arrays |= {f"last.{name}": tensor.numpy() for name, tensor in state["generator"].items()}
    for scan, of_scan in state["scans"].items():
        for name, tensors in of_scan["parameters"].items():
            arrays |= {f"{scan}.{name}.{key}": value.numpy() for key, value in tensors.items()}
    arrays["table"] = workflow.table[["epoch", "loss", "score"]].to_numpy(float)
    return arrays


def in_new_process(code, *arguments):
    """Run code with this module's functions in a new process."""
    code = "import sys\nfrom small_trainings import *\n" + code
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, env=environment)
