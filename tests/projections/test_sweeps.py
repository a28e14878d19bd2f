"""Sweeps, by which the initial reconstruction leaves traps."""

import pytest
import torch

from ptychi_neural.engine.tasks import build_task
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.simulation import Raster, SimulationOptions, ZonePlate, simulate
from small_tasks import default_options, error_of


def near_focus(seed, photons=1e6):
    """A small probe and much light: where patterns of many frames are fitted at once, fringes with
    the period of the scan stay."""
    return simulate(
        SimulationOptions(
            seed=seed,
            photons_per_frame=photons,
            frame_shape=(48, 48),
            probe=ZonePlate(defocus=0.15),
            scan=Raster(n_y=10, n_x=10),
        )
    )


def reconstructed(simulated, sweeps, n_iterations=60):
    options = default_options(num_epochs=0)
    options.reconstructor_options.start.sweeps = sweeps
    options.reconstructor_options.start.n_iterations = n_iterations
    task = build_task(options, simulated.scan)
    task.run()
    return task


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_scan_near_the_focus_comes_to_the_truth(seed):
    simulated = near_focus(seed)
    errors = [error_of(reconstructed(simulated, sweeps), simulated) for sweeps in (0, 3)]
    assert errors[1] < 0.012
    assert errors[1] < 0.6 * errors[0]


def test_where_only_noise_is_left_nothing_is_swept(simulated):
    objects = [
        reconstructed(simulated, sweeps, 40).get_data_to_cpu("object", as_numpy=True)
        for sweeps in (0, 3)
    ]
    assert (objects[0] == objects[1]).all()


def test_a_sweep_is_one_update_after_the_other_of_all_frames():
    simulated = near_focus(0)
    reconstructor = reconstructed(simulated, 0, 1).reconstructor
    reconstructor.begin_run()
    scan, update, seen = reconstructor.scan, type(reconstructor.scan).update, []
    scan.options.start.sweeps = 2

    def noted(part, object_):
        seen.append(part.frames)
        return update(part, object_)

    projections = AcceleratedProjections(scan, reconstructor.judge.loss_function, None, None)
    expected = projections.object
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(type(scan), "update", noted)
        swept = projections.swept()
    for part in seen:
        with torch.no_grad():
            expected = expected + scan.of(part).update(expected)
    torch.testing.assert_close(swept, expected)
    for sweep in (seen[:10], seen[10:]):
        assert torch.cat(sweep).sort().values.tolist() == scan.frames.tolist()
    assert not torch.equal(seen[0], seen[10])
