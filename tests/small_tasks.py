"""Tasks of the engine on small simulated scans, for tests of several rooms."""

from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.evaluation import complex_error, scanned_area


def neural_options(**generator):
    """A short, repeatable run of a small one-shot generator that does nothing but its epochs."""
    options = napi.NeuralPtychographyOptions()
    reconstructor = options.reconstructor_options
    reconstructor.default_device = "cpu"
    reconstructor.random_seed = 0
    reconstructor.batch_size = 16
    reconstructor.num_epochs = 2
    reconstructor.allow_nondeterministic_algorithms = False
    reconstructor.start.n_iterations = 0
    reconstructor.validation.held_out = 0
    reconstructor.consistency.canvas_update_stride = 1
    options.probe_options.optimizable = False
    chosen = {"architecture": "hybrid_uno", "width": 4} | generator
    for name, value in chosen.items():
        setattr(reconstructor.generator, name, value)
    if chosen["architecture"] == "unrolled":
        reconstructor.generator.unrolled.n_splits = 1
    return options


def default_options(num_epochs):
    """The defaults, with a known probe."""
    options = napi.NeuralPtychographyOptions()
    options.reconstructor_options.default_device = "cpu"
    options.reconstructor_options.random_seed = 0
    options.reconstructor_options.num_epochs = num_epochs
    options.probe_options.optimizable = False
    return options


def make_task(options, scan, **replaced):
    data = {
        "diffraction_data": scan.patterns,
        "object_data": scan.object,
        "probe_data": scan.probe,
        "probe_position_x_px": scan.positions_px[:, 1],
        "probe_position_y_px": scan.positions_px[:, 0],
    }
    return PtychographyTask(options, **(data | replaced))


def object_of(task):
    return task.get_data_to_cpu("object", as_numpy=True)


def error_of(task, simulated):
    truth = simulated.truth
    mask = scanned_area(truth.positions_px, truth.object.shape[-2:])
    return complex_error(object_of(task)[0], truth.object[0], mask)
