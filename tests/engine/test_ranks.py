"""The engine in several processes: the result of one, and what they do when one of them fails."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptychi_neural.physics.ranks import RankLostError, rank
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from several_ranks import on_ranks
from small_tasks import default_options, make_task

NAMES = ("object", "probe", "probe_positions", "opr_mode_weights")


def reconstructed(scan, options):
    """Object, probe, positions, OPR weights and held-out losses, and the frames that were kept."""
    task = make_task(options, scan)
    task.run()
    found = {name: task.get_data_to_cpu(name, as_numpy=True) for name in NAMES}
    found["losses"] = np.asarray(task.reconstructor.validation["loss"], dtype=float)
    return found, len(task.dataset.patterns)


def assert_same(scan, options, n):
    alone, n_frames = reconstructed(scan, options)
    together = on_ranks(n, reconstructed, scan, options)
    kept = [n_kept for _, n_kept in together]
    assert sum(kept) == n_frames
    assert max(kept) <= -(-n_frames // n) + 1
    for found, _ in together:
        for name, expected in alone.items():
            known = np.isfinite(expected)  # No loss is known of an iteration over one half.
            assert (np.isfinite(found[name]) == known).all()
            apart = np.linalg.norm((found[name] - expected)[known])
            apart /= np.linalg.norm(expected[known])
            assert apart < 1e-4, name


def test_two_processes_find_what_one_finds(simulated):
    options = default_options(0)
    options.reconstructor_options.start.n_iterations = 12
    options.reconstructor_options.batch_size = 24
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    options.reconstructor_options.start.first_position_iteration = 8
    assert_same(simulated.scan, options, 2)


def failing(scan, fails):
    """What is left of a run that fails on the last rank, and how it ended."""
    options = default_options(0)
    options.reconstructor_options.start.n_iterations = 12
    options.reconstructor_options.start.total_variation = 0.0
    task = make_task(options, scan)
    number, done = rank(), []

    def fail():
        done.append(task.get_data_to_cpu("object", as_numpy=True))
        if number == 1 and len(done) == fails:
            raise MemoryError

    task.reconstructor.run_post_projection_hooks = fail
    with pytest.raises((MemoryError, RankLostError)) as ended:
        task.run()
    return ended.type, len(done), done[-1], task.get_data_to_cpu("object", as_numpy=True)


def test_what_was_reached_is_left_on_all_ranks_when_one_fails(simulated):
    (lost, n_done, reached, left), (failed, n_failed, _, _) = on_ranks(
        2, failing, simulated.scan, 5
    )
    assert (lost, failed) == (RankLostError, MemoryError)
    assert (n_done, n_failed) == (5, 5)
    cosine = np.abs(np.vdot(reached, left)) / np.linalg.norm(reached) / np.linalg.norm(left)
    assert cosine > 1 - 1e-6  # The common factor of object and probe is removed in the end.


def test_what_needs_one_process_is_refused_by_name(simulated):
    epochs, checkpoint = default_options(3), default_options(0)
    checkpoint.reconstructor_options.generator.checkpoint = "generator.safetensors"
    for error in on_ranks(2, make_task, epochs, simulated.scan):
        assert isinstance(error, ValueError)
        assert "num_epochs = 3" in str(error)
        assert "set it to 0, or start without torchrun" in str(error)
    for error in on_ranks(2, make_task, checkpoint, simulated.scan):
        assert isinstance(error, ValueError)
        assert "generator.checkpoint" in str(error)


def run_epochs(scan):
    options = default_options(0)
    options.reconstructor_options.start.n_iterations = 0
    make_task(options, scan).run(2)


def with_own_positions(scan):
    jitter = np.random.default_rng(int(os.environ["RANK"])).normal(0, 3, len(scan.patterns))
    make_task(default_options(0), scan, probe_position_x_px=scan.positions_px[:, 1] + jitter)


def test_epochs_are_refused_when_they_are_asked_for_later(simulated):
    for error in on_ranks(2, run_epochs, simulated.scan):
        assert isinstance(error, ValueError)
        assert "num_epochs = 2" in str(error)


def test_scans_that_cannot_be_shared_are_refused(simulated):
    one = {"patterns": simulated.scan.patterns[:1], "positions_px": simulated.scan.positions_px[:1]}
    for error in on_ranks(2, make_task, default_options(0), replace(simulated.scan, **one)):
        assert "1 frame for 2 processes" in str(error)
    for error in on_ranks(2, with_own_positions, simulated.scan):
        assert "differ between the processes" in str(error)


@pytest.mark.slow
def test_three_processes_take_moments_and_halves_as_one(dim):
    options = default_options(0)
    start = options.reconstructor_options.start
    start.n_iterations, start.moment_iterations, start.alternate_halves = 15, 5, True
    options.reconstructor_options.batch_size = 20
    assert_same(dim.scan, options, 3)


@pytest.mark.slow
def test_three_processes_refine_what_one_refines():
    scan = Raster(n_y=9, n_x=9, step_px=3.0)
    errors = {"photons_per_frame": 1e4, "probe_defocus_error": 0.3, "position_error_px": 0.5}
    simulated = simulate(SimulationOptions(seed=5, frame_shape=(24, 24), scan=scan, **errors))
    options = default_options(0)
    options.probe_options.optimizable = options.probe_position_options.optimizable = True
    weights = options.opr_mode_weight_options
    weights.optimizable = weights.optimize_intensity_variation = True
    weights.optimize_eigenmode_weights = False
    options.reconstructor_options.batch_size = 30
    start = options.reconstructor_options.start
    start.n_iterations, start.first_position_iteration = 60, 20
    assert_same(simulated.scan, options, 3)


def test_a_task_of_one_process_needs_no_group(simulated):
    make_task(default_options(0), simulated.scan)
    assert not torch.distributed.is_initialized()
