"""Steps of the scan positions against finite differences, and what they find."""

import numpy as np
import pytest
import torch

from ptychi_neural.projections.positions import (
    PositionRefinement,
    affine_part,
    modulus_changes,
    slopes,
)
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task


def task_of(scan, n_iterations, dtype="float32"):
    options = default_options(num_epochs=0)
    options.reconstructor_options.default_dtype = dtype
    options.reconstructor_options.start.n_iterations = n_iterations
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    return make_task(options, scan)


def off_by(simulated, positions):
    """Root mean square distance from the true positions, without the mean."""
    apart = positions - simulated.truth.positions_px
    return np.sqrt(((apart - apart.mean(0)) ** 2).sum(1).mean())


def small_scan(seed, **options):
    return simulate(
        SimulationOptions(
            seed=seed,
            frame_shape=(24, 24),
            scan=Raster(n_y=9, n_x=9, step_px=3.0),
            n_probe_modes=2,
            **options,
        )
    )


def test_changes_of_the_modulus_are_those_of_a_moved_object():
    task = task_of(small_scan(0).truth, 0, "float64")
    rng = np.random.default_rng(1)
    probe = rng.normal(size=(2, 24, 24)) + 1j * rng.normal(size=(2, 24, 24))
    spectrum = np.zeros((40, 40), complex)
    spectrum[:6, :6] = rng.normal(size=(6, 6)) + 1j * rng.normal(size=(6, 6))
    frequencies = 2 * np.pi * np.fft.fftfreq(40)

    def moved(y, x):
        turn = np.exp(1j * (frequencies[:, None] * y + frequencies * x))
        return np.fft.ifft2(spectrum * turn)

    def modulus(y, x):
        far = np.fft.fft2(probe * moved(y, x)[5:29, 7:31])
        return np.sqrt((np.abs(far) ** 2).sum(0))

    h = 1e-4
    expected = [
        (modulus(h, 0) - modulus(-h, 0)) / (2 * h),
        (modulus(0, h) - modulus(0, -h)) / (2 * h),
    ]
    canvas = torch.as_tensor(moved(0, 0))[None]
    cut = (..., slice(5, 29), slice(7, 31))
    found = modulus_changes(
        task.reconstructor.model,
        torch.as_tensor(probe)[None],
        canvas[cut][None],
        slopes(canvas)[:, 0][cut][None],
    )
    assert found[0].numpy() == pytest.approx(np.array(expected), rel=1e-3, abs=1e-5)


@torch.no_grad()
def test_a_step_finds_a_small_displacement_of_each_frame():
    simulated = small_scan(2, photons_per_frame=1e8)
    rng = np.random.default_rng(0)
    apart = rng.normal(0, 0.05, simulated.truth.positions_px.shape)
    truth = simulated.truth
    truth.positions_px = truth.positions_px + apart
    task = task_of(truth, 0)
    scan = task.reconstructor.scan
    scan.options.start.position_damping = 1e-6
    refinement = PositionRefinement(scan)
    refinement.begin(scan.start)
    patches = scan.start_patches(scan.frames)
    measured = scan.model.measured(scan.frames)
    correction = scan.correction(scan.frames, patches, measured, of_modulus=True)
    refinement.accumulate(correction, patches, measured, scan.frames)
    left = refinement._steps.numpy() + apart
    assert np.sqrt((left**2).mean()) < 0.3 * np.sqrt((apart**2).mean())


def test_affine_part_of_an_affine_map_is_all_of_it():
    rng = np.random.default_rng(3)
    positions = torch.as_tensor(rng.normal(size=(30, 2)))
    displacements = positions @ torch.as_tensor(rng.normal(size=(2, 2))) + 0.3
    rest = displacements - affine_part(displacements, positions)
    assert rest.abs().max() < 1e-12


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_positions_are_found_along_with_the_probe(seed):
    simulated = small_scan(seed, probe_defocus_error=0.3, position_error_px=0.7)
    task = task_of(simulated.scan, 80)
    task.run()
    found = task.get_data_to_cpu("probe_positions", as_numpy=True)
    assert off_by(simulated, found) < 0.5 * off_by(simulated, simulated.scan.positions_px)


def test_positions_follow_their_plan():
    simulated = small_scan(0, position_error_px=0.7)
    task = task_of(simulated.scan, 15)
    task.reconstructor.parameter_group.probe_positions.optimization_plan.stop = 5
    task.run()
    found = task.get_data_to_cpu("probe_positions", as_numpy=True)
    assert found == pytest.approx(simulated.scan.positions_px, abs=1e-5)
