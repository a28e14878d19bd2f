"""Generators fitted to one small scan and saved, for tests of prediction."""

import numpy as np

import ptychi_neural.api as napi
from small_tasks import make_task

FRAME = (16, 16)

SPECTRAL = {
    "architecture": "cascaded",
    "lifter": "backprojection",
    "block": "fno",
    "shallow_cnn": False,
}
"""Resolution-invariant: spectral layers and 1x1 convolutions, from real space to real space."""


def options_of(**generator):
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.random_seed = 0
    settings.batch_size = 12
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 0
    settings.validation.held_out = 0
    options.probe_options.optimizable = False
    for name, value in ({"architecture": "hybrid_uno", "width": 4} | generator).items():
        setattr(settings.generator, name, value)
    return options


def saved(scan, path, epochs=3, options=None, **generator):
    task = make_task(options or options_of(**generator), scan)
    task.run(epochs)
    task.reconstructor.save_generator(path)
    return path


def predictor_of(path):
    predictor = napi.NeuralPredictor.from_file(path)
    predictor.options.reconstructor_options.default_device = "cpu"
    return predictor


def whole(predictor, scan):
    shape = scan.object.shape[-2:]
    return predictor.reconstruct(scan.patterns, scan.positions_px, scan.probe, shape)


def streamed(predictor, scan, probe, batches, batch_size=8):
    stream = predictor.stream(probe, scan.object.shape[-2:], batch_size=batch_size)
    n_new = [stream.add(scan.patterns[b], scan.positions_px[b], np.array(b)) for b in batches]
    return stream.current(), n_new


def corner(shape, position):
    """First row and column of a patch at a whole-pixel position, by the documented convention."""
    return np.round(np.array(shape) / 2 - 0.5 + position - (np.array(FRAME) - 1) / 2).astype(int)


def cut(image, position):
    y, x = corner(image.shape, position)
    return image[y : y + FRAME[0], x : x + FRAME[1]]
