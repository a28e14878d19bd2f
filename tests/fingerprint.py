"""Hashes of what the engine computes on three fixed scans, to compare two versions of the code.

    OMP_NUM_THREADS=1 python tests/fingerprint.py [--save FILE.npz] [--compare FILE.npz]

The script prints a line for each result and one hash of all of them. Two versions that print the
same hash on one machine compute the same, bit by bit. ``--save`` keeps the arrays, and
``--compare`` tells the largest relative difference from arrays that were kept.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.simulation import Raster, SimulationOptions, simulate

SCANS = {
    "bright": SimulationOptions(
        seed=3, frame_shape=(16, 16), scan=Raster(n_y=8, n_x=8, step_px=2.0, jitter_px=0.5)
    ),
    "dim": SimulationOptions(
        seed=21, photons_per_frame=1e3, object={"kind": "lines"}, scan=Raster(n_y=8, n_x=8)
    ),
    "unknown": SimulationOptions(
        seed=5,
        photons_per_frame=1e4,
        scan=Raster(n_y=8, n_x=8),
        probe_defocus_error=0.3,
        position_error_px=0.5,
    ),
}


def options_for(name: str, num_epochs: int = 3) -> napi.NeuralPtychographyOptions:
    """Options of a short run of the defaults for one of ``SCANS``."""
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.random_seed = 0
    settings.num_epochs = num_epochs
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 12
    settings.consistency.canvas_update_stride = 1
    options.probe_options.optimizable = name == "unknown"
    options.probe_position_options.optimizable = name == "unknown"
    return options


def one_shot(options: napi.NeuralPtychographyOptions, architecture: str) -> None:
    """Make the options those of a small one-shot generator."""
    settings = options.reconstructor_options
    settings.generator.architecture = architecture
    settings.generator.width = 4
    settings.batch_size = 16


def variants() -> Iterator[tuple[str, str, napi.NeuralPtychographyOptions]]:
    """Name of the scan, name of the variant, options."""
    for scan in SCANS:
        yield scan, "defaults", options_for(scan, 6)
        open_number = options_for(scan, 0)
        open_number.reconstructor_options.start.n_iterations = None
        yield scan, "projections", open_number
        for architecture in ("cascaded", "hybrid_uno", "cnn"):
            options = options_for(scan)
            one_shot(options, architecture)
            yield scan, architecture, options
    for network in napi.UnrolledNetworks:
        options = options_for("bright")
        unrolled = options.reconstructor_options.generator.unrolled
        unrolled.network, unrolled.n_iterations, unrolled.n_layers = network, 2, 2
        yield "bright", f"unrolled {network.value}", options
    for lifter in napi.Lifters:
        options = options_for("bright")
        one_shot(options, "hybrid_uno")
        options.reconstructor_options.generator.lifter = lifter
        yield "bright", f"lifter {lifter.value}", options
    options = options_for("bright")
    one_shot(options, "cascaded")
    options.reconstructor_options.consistency.scope = "scan"
    options.reconstructor_options.generator.grid_size = 2
    options.reconstructor_options.generator.cascaded.rough_loss_weight = 0.5
    options.reconstructor_options.generator.cascaded.stage_one_epochs = 1
    yield "bright", "cascade of groups, scan scope", options
    options = options_for("dim")
    start = options.reconstructor_options.start
    start.moment_iterations, start.alternate_halves = 5, True
    yield "dim", "moments and halves", options


def results() -> Iterator[tuple[str, np.ndarray]]:
    """Name and array of everything that is compared."""
    scans = {name: simulate(recipe).scan for name, recipe in SCANS.items()}
    for scan_name, variant, options in variants():
        scan = scans[scan_name]
        task = PtychographyTask(
            options,
            diffraction_data=scan.patterns,
            object_data=scan.object,
            probe_data=scan.probe,
            probe_position_x_px=scan.positions_px[:, 1],
            probe_position_y_px=scan.positions_px[:, 0],
        )
        task.run()
        for name in ("object", "probe", "probe_positions"):
            yield f"{scan_name}, {variant}: {name}", task.get_data_to_cpu(name, as_numpy=True)
        losses = np.asarray(task.reconstructor.validation["loss"], dtype=float)
        yield f"{scan_name}, {variant}: validation", losses
    trained = (("unrolled", 12), ("unrolled", 0), ("hybrid_uno", 6), ("hybrid_uno", 0))
    for architecture, n_iterations in trained:
        options = options_for("bright")
        if architecture != "unrolled":
            one_shot(options, architecture)
        options.reconstructor_options.start.n_iterations = n_iterations
        options.reconstructor_options.validation.held_out = 0.0
        training = [SCANS["bright"].model_copy(update={"seed": seed}) for seed in (1, 2)]
        workflow = napi.MultiscanTrainingWorkflow(training, SCANS["bright"], options)
        workflow.run(2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generator.safetensors"
            workflow.save_generator(path)
            predictor = napi.NeuralPredictor.from_file(path)
            what = f"trained {architecture} after {n_iterations}"
            yield f"{what}: score", workflow.table["score"].to_numpy(dtype=float)
            for name in SCANS if architecture == "unrolled" else ("bright",):
                scan = scans[name]
                predicted = predictor.reconstruct(scan.patterns, scan.positions_px, scan.probe)
                yield f"{what}, {name}: object", predicted.object
                yield f"{what}, {name}: weight", predicted.weight
                yield f"{what}, {name}: deviation", predicted.standard_deviation
                yield f"{what}, {name}: error", predicted.reprojection_error
                yield f"{what}, {name}: probe", predicted.probe
            if n_iterations > 0:  # Frames cannot be added up one by one.
                continue
            scan = scans["bright"]
            stream = predictor.stream(scan.probe, scan.object.shape[-2:], batch_size=10)
            stream.add(scan.patterns, scan.positions_px, np.arange(len(scan.patterns)))
            current = stream.current()
            yield f"{what}, streamed: object", current.object
            yield f"{what}, streamed: deviation", current.standard_deviation


def _difference(array: np.ndarray, known: np.ndarray) -> str:
    if array.shape != known.shape:
        return f" has the shape {array.shape} instead of {known.shape}"
    array, known = np.nan_to_num(array), np.nan_to_num(known)
    apart = np.linalg.norm(array - known) / max(np.linalg.norm(known), 1e-30)
    return f" differs by {apart:.2g}" if apart else " same"


def main() -> None:
    """Print the hashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="file for the arrays")
    parser.add_argument("--compare", type=Path, help="file of arrays to compare with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    earlier = np.load(arguments.compare) if arguments.compare else {}
    kept, total = {}, hashlib.sha256()
    for name, array in results():
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        total.update(f"{name} {digest}".encode())
        kept[name] = array
        difference = ""
        if name in earlier:
            difference = _difference(array, earlier[name])
        print(f"{digest[:16]}  {name}{difference}", flush=True)
    print(f"{total.hexdigest()[:32]}  all")
    if arguments.save:
        np.savez_compressed(arguments.save, **kept)


if __name__ == "__main__":
    main()
