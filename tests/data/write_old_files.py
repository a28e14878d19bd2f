"""Writes the files of earlier code that today's code has to read; see README.md beside it.

    PYTHONPATH=CHECKOUT OMP_NUM_THREADS=1 python write_old_files.py FOLDER

CHECKOUT is a checkout of the commit whose name the folder has.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from ptychi.api.task import PtychographyTask
from ptychi_neural.training_state import save_training_state

import ptychi_neural.api as napi
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


def small_scan(seed):
    """9 frames of 16 x 16."""
    raster = Raster(n_y=3, n_x=3, step_px=2.5, jitter_px=0.5)
    return simulate(SimulationOptions(seed=seed, frame_shape=(16, 16), scan=raster)).scan


def options_of(architecture, held_out=0.0):
    """A short run that refines probe and positions."""
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.random_seed = 0
    settings.batch_size = 5
    settings.num_epochs = 2
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 3
    settings.validation.held_out = held_out
    settings.consistency.canvas_update_stride = 1
    settings.generator.architecture = architecture
    settings.generator.width = 4
    if architecture == "unrolled":
        settings.generator.unrolled.n_splits = 2
    else:
        settings.generator.n_modes = 4
        settings.generator.hybrid_uno.depth = 1
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    return options


def task_of(options, scan):
    return PtychographyTask(
        options,
        diffraction_data=scan.patterns,
        object_data=scan.object,
        probe_data=scan.probe,
        probe_position_x_px=scan.positions_px[:, 1],
        probe_position_y_px=scan.positions_px[:, 0],
    )


def object_of(task):
    return task.get_data_to_cpu("object", as_numpy=True)


def predicted(path, scan):
    predictor = napi.NeuralPredictor.from_file(path)
    predictor.options.reconstructor_options.default_device = "cpu"
    shape = scan.object.shape[-2:]
    return predictor.reconstruct(scan.patterns, scan.positions_px, scan.probe, shape).object


def main():
    """Write the files."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    scans = [small_scan(seed) for seed in (1, 2, 3)]
    arrays, options, expected = {}, {}, {}
    for number, scan in enumerate(scans):
        for name in ("patterns", "positions_px", "probe", "object", "pixel_size_m"):
            arrays[f"{number}.{name}"] = np.asarray(getattr(scan, name))

    for architecture in ("unrolled", "hybrid_uno"):
        task = task_of(options_of(architecture), scans[0])
        task.run()
        path = folder / f"{architecture}.safetensors"
        task.reconstructor.save_generator(path, overwrite=True)
        expected[f"{architecture}.object"] = predicted(path, scans[1])

    options["reconstruction"] = options_of("unrolled", held_out=0.05)
    task = task_of(options["reconstruction"], scans[0])
    task.run(2)
    save_training_state(folder / "reconstruction.safetensors", task.reconstructor)
    task.run(2)
    expected["reconstruction.object"] = object_of(task)
    expected["reconstruction.validation"] = task.reconstructor.validation.loss.to_numpy(float)

    options["training"] = options_of("unrolled")
    workflow = napi.MultiscanTrainingWorkflow(scans[:2], scans[2], options["training"])
    workflow.run(1)
    workflow.save_state(folder / "training.safetensors")
    workflow.run(1)
    workflow.save_generator(folder / "trained.safetensors", best=False, overwrite=True)
    expected["training.object"] = predicted(folder / "trained.safetensors", scans[2])
    expected["training.table"] = workflow.table[["epoch", "loss", "score"]].to_numpy(float)
    (folder / "trained.safetensors").unlink()

    np.savez(folder / "scans.npz", **arrays)
    np.savez(folder / "expected.npz", **expected)
    dictionaries = {name: group.get_dict() for name, group in options.items()}
    (folder / "options.json").write_text(json.dumps(dictionaries, indent=1) + "\n")


if __name__ == "__main__":
    main()
