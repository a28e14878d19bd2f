"""Positions that are found along with object and probe."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychi_neural.comparison.target import Target
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.projections.positions import affine_part
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task, object_of


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
            **{"n_probe_modes": 2, **options},
        )
    )


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_an_object_goes_on_while_positions_move_at_little_light(seed):
    """Loss that rose as positions moved used to shorten the object's steps to nothing: the errors
    were .15 and .19."""
    scan = Raster(n_y=14, n_x=14, step_px=7.0, jitter_px=1.75)
    simulated = simulate(
        SimulationOptions(
            seed=seed,
            frame_shape=(64, 64),
            scan=scan,
            object={"kind": "cells"},
            photons_per_frame=1e4,
            probe_defocus_error=0.3,
            position_error_px=1.0,
        )
    )
    options = default_options(num_epochs=0)
    options.probe_options.optimizable = options.probe_position_options.optimizable = True
    task = make_task(options, simulated.scan)
    task.run()
    target = Target(simulated.truth.object, "ground truth")
    assert target.error(object_of(task), simulated.scan, refined=True) < 0.1
    assert (task.reconstructor.validation.stage == "projections").sum() > 60  # and not after twenty


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_positions_are_found_through_two_slices(seed):
    object_ = {"kind": "dead_leaves", "amplitude_range": (0.77, 1), "phase_range": (-0.6, 0.6)}
    simulated = small_scan(
        seed, position_error_px=0.7, n_slices=2, slice_spacing_m=1e-5, object=object_
    )
    options = default_options(num_epochs=0)
    options.reconstructor_options.start.n_iterations = 80
    options.probe_position_options.optimizable = True
    task = build_task(options, simulated.scan)
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


def test_a_wrong_scale_of_all_positions_is_found_late():
    simulated = small_scan(0, photons_per_frame=1e6)
    scan = replace(simulated.scan, positions_px=1.03 * simulated.scan.positions_px)
    left = []
    for first in (60, 10**6):
        options = default_options(num_epochs=0)
        options.probe_position_options.optimizable = True
        options.reconstructor_options.start.n_iterations = 120
        options.reconstructor_options.start.first_affine_iteration = first
        task = make_task(options, scan)
        task.run()
        left.append(off_by(simulated, task.get_data_to_cpu("probe_positions", as_numpy=True)))
    assert left[0] < 0.8 * left[1]
