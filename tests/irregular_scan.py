"""A task in double precision on irregular positions, for tests of physics and projections."""

import numpy as np
from ptychi.api import LossFunctions
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi

H = W = 40
PATCH = 12


def complex_random(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def make_task(
    seed=0,
    n_positions=15,
    n_slices=1,
    n_modes=1,
    positions=None,
    patch=PATCH,
    loss_function=LossFunctions.POISSON,
    held_out=0.0,
    **consistency,
):
    """A float64 task on irregular sub-pixel positions, with a probe that has no symmetry."""
    rng = np.random.default_rng(seed)
    options = napi.NeuralPtychographyOptions()
    reconstructor = options.reconstructor_options
    reconstructor.default_dtype = "float64"
    reconstructor.default_device = "cpu"
    reconstructor.random_seed = seed
    reconstructor.batch_size = n_positions
    reconstructor.generator.width = 4
    reconstructor.generator.architecture = "hybrid_uno"
    reconstructor.start.n_iterations = 0
    reconstructor.validation.held_out = held_out
    reconstructor.loss_function = loss_function
    for name, value in consistency.items():
        setattr(reconstructor.consistency, name, value)
    if n_slices > 1:
        options.object_options.slice_spacings_m = [1e-6] * (n_slices - 1)
        options.object_options.pixel_size_m = 1e-8
    y, x = np.mgrid[:patch, :patch] - patch / 2 + 0.3
    probe = np.exp(-(x**2 + 0.7 * y**2) / (patch / 2) ** 2) * np.exp(0.05j * (x**2 - y * x))
    probe = probe * (1 + 0.3 * complex_random(rng, 1, n_modes, patch, patch))
    irregular = rng.uniform(-12, 12, size=(n_positions, 2))
    positions = irregular if positions is None else positions
    patterns = rng.poisson(5, size=(n_positions, patch, patch))
    object_ = np.exp(0.3 * complex_random(rng, n_slices, H, W))
    return PtychographyTask(
        options,
        diffraction_data=patterns,
        object_data=object_,
        probe_data=probe,
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )


def make_scan(*args, **kwargs):
    """What a generator would be given of ``make_task``."""
    return make_task(*args, **kwargs).reconstructor.scan
