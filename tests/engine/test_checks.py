"""What a task is built from: refused by name, masked with a warning, or reconstructed finite."""

import re
from operator import attrgetter

import numpy as np
import pytest
import torch

from ptychi_neural.simulation import Line, Raster, SimulationOptions, simulate
from small_tasks import default_options, error_of, make_task


@pytest.fixture(scope="module")
def simulated():
    scan = Raster(n_y=8, n_x=8, step_px=3.0, jitter_px=0.7)
    return simulate(SimulationOptions(seed=6, photons_per_frame=1e4, scan=scan))


def task_of(scan, num_epochs=2, least=None, **replaced):
    options = default_options(num_epochs)
    options.reconstructor_options.start.n_iterations = 40
    options.reconstructor_options.exclude_measured_pixels_below = least
    return make_task(options, scan, **replaced)


def test_positions_in_metres_outside_or_an_object_of_zeros_are_refused_by_name(simulated):
    scan = simulated.scan
    y, x = scan.positions_px.T
    with pytest.raises(ValueError, match=r"probe_position_x_px.*metres"):
        task_of(scan, probe_position_x_px=x * 1e-8, probe_position_y_px=y * 1e-8)
    with pytest.raises(ValueError, match=r"positions lie outside the object"):
        task_of(scan, probe_position_x_px=x + 60)
    with pytest.raises(ValueError, match=r"object_data is zero everywhere"):
        task_of(scan, object_data=0 * scan.object)
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        task_of(scan)


@pytest.mark.parametrize(
    ("positions", "pixel_size_m", "told"),
    [
        (lambda px: px * 1e-3, 1e-9, "0.0[0-9]+ pixels apart: they look like micrometres"),
        (lambda px: px * 1e-2, 1e-8, "look like micrometres; multiply them by 100"),
        (lambda px: px * 0.1, 1e-7, "look like micrometres; multiply them by 10"),
        (lambda px: px * 1e-2, None, "pty-chi takes pixels; if they are lengths, divide"),
        (lambda px: px * 0.1, None, None),
        (lambda px: px, 1e-8, None),
        (lambda px: px, None, None),
        (lambda px: np.repeat(px[::4], 4, axis=0) + 1e-3 * px, 1e-8, None),
        (lambda px: 0 * px, 1e-8, None),
    ],
    ids=[
        "um at 1 nm",
        "um at 10 nm",
        "um at 100 nm",
        "um",
        "dense",
        "pixels",
        "plain",
        "repeated",
        "equal",
    ],
)
def test_positions_that_hardly_move_the_beam_are_told(
    simulated, caplog, positions, pixel_size_m, told
):
    scan, options = simulated.scan, default_options(0)
    if pixel_size_m is not None:
        options.object_options.pixel_size_m = pixel_size_m
    y, x = positions(scan.positions_px).T
    with caplog.at_level("WARNING", logger="ptychi_neural"):
        make_task(options, scan, probe_position_x_px=x, probe_position_y_px=y)
    messages = [r.getMessage() for r in caplog.records if "probe_position_x_px" in r.getMessage()]
    assert len(messages) == (told is not None)
    if told is not None:
        assert re.search(told, messages[0])


@pytest.mark.parametrize("group", ["probe_options", "reconstructor_options.generator"])
@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"momentum": 0.9}, "unexpected keyword argument 'momentum'"),
        ({"betas": 3}, "not subscriptable"),
        ({"weight_decay": -1}, "Invalid weight_decay"),
    ],
)
def test_what_an_optimiser_does_not_take_is_refused_with_what_it_takes(
    simulated, group, parameters, problem
):
    options = default_options(1)
    options.probe_options.optimizable = True
    attrgetter(group)(options).optimizer_params = parameters
    takes = "adam takes lr = 0.001, betas = .*, eps = 1e-08, weight_decay = 0"
    with pytest.raises(ValueError, match=rf"{group}\.optimizer_params.*{problem}.*{takes}"):
        make_task(options, simulated.scan)


@pytest.mark.parametrize("marker", [2**32 - 1, 65534, 2**20 - 1, 2**31 - 1])
def test_gap_markers_in_arrays_are_masked_with_one_warning(simulated, marker, caplog):
    gap = np.zeros((32, 32), bool)
    gap[9:11] = gap[:, 20:22] = True
    patterns = np.where(gap, marker, simulated.scan.patterns).astype(np.float64)
    with caplog.at_level("WARNING", logger="ptychi_neural"):
        task = task_of(simulated.scan, 0, diffraction_data=patterns)
    assert len([r for r in caplog.records if f"masked {gap.sum()} pixels" in r.message]) == 1
    task.run()
    masked = task_of(simulated.scan, 0, valid_pixel_mask=~gap)
    masked.run()
    assert error_of(task, simulated) == pytest.approx(error_of(masked, simulated), rel=1e-3)


def test_no_grad_around_a_run_does_not_keep_the_generator_from_being_fitted(simulated):
    objects, weights = [], []
    for gradients in (True, False):
        task = task_of(simulated.scan)
        untrained = task.reconstructor.generator.tensors()["steps"].clone()
        with torch.set_grad_enabled(gradients):
            task.run()
        weights.append(task.reconstructor.continuation.last.generator["steps"])
        objects.append(task.get_data_to_cpu("object"))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], untrained)
    assert torch.equal(*objects)


def test_pixels_below_the_least_count_tell_nothing(simulated):
    """Dark counts of 5 in every empty pixel; pixels with fewer than 8 are left out."""
    patterns = np.maximum(simulated.scan.patterns, 5)
    errors = []
    for least in (None, 8.0):
        task = task_of(simulated.scan, 0, diffraction_data=patterns, least=least)
        task.run()
        errors.append(error_of(task, simulated))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("n", [1, 12])
def test_a_line_of_positions_and_a_single_frame_end_finite(n):
    scan = simulate(SimulationOptions(seed=1, scan=Line(n=n))).scan
    task = task_of(scan)
    task.run()
    for name in ("object", "probe"):
        assert task.get_data_to_cpu(name).isfinite().all()
