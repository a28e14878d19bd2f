"""The engine in several processes: the result of one, and what they do when one of them fails."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from ptychi.api.enums import LossFunctions

from ptychi_neural.physics import scan_physics
from ptychi_neural.physics.ranks import RankLostError, rank
from ptychi_neural.prediction import deviation
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from several_ranks import errors_on_ranks, on_ranks
from small_tasks import default_options, make_task

NAMES = ("object", "probe", "probe_positions", "opr_mode_weights")


def reconstructed(scan, options):
    """Object, probe, positions, OPR weights, generator and all losses, and the frames that were
    kept."""
    task = make_task(options, scan)
    task.run()
    reconstructor = task.reconstructor
    found = {name: task.get_data_to_cpu(name, as_numpy=True) for name in NAMES}
    found["held-out losses"] = np.asarray(reconstructor.validation["loss"], dtype=float)
    found["losses"] = reconstructor.loss_tracker.table["loss"].to_numpy(dtype=float)
    if reconstructor.is_trained:
        deviation_ = deviation(reconstructor.generator, reconstructor.scan, reconstructor.start)
        found["deviation"] = deviation_.numpy(force=True)
    return found, len(task.dataset.patterns)


def assert_same(scan, options, n, tolerance=1e-4):
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
            most = 3e-4 if name == "deviation" else tolerance  # The root of a small difference.
            assert apart <= most * np.linalg.norm(expected[known]), name


def known_scan(scan, options):
    known = make_task(options, scan).reconstructor.known_scan.state_dict()
    return {name: np.asarray(value) for name, value in known.items()}


def test_a_scan_is_known_again_by_any_number_of_processes(simulated):
    alone = known_scan(simulated.scan, default_options(0))
    for known in on_ranks(2, known_scan, simulated.scan, default_options(0)):
        assert set(known) == set(alone)
        for name, value in alone.items():
            np.testing.assert_array_equal(known[name], value)


def test_two_processes_find_what_one_finds(simulated):
    options = default_options(0)
    options.reconstructor_options.start.n_iterations = 12
    options.reconstructor_options.batch_size = 24
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    options.reconstructor_options.start.first_position_iteration = 8
    assert_same(simulated.scan, options, 2)


def with_modes_and_positions():
    options = default_options(0)
    options.probe_options.optimizable = options.probe_position_options.optimizable = True
    return options


def dim_scan_with_modes(photons):
    raster = Raster(n_y=9, n_x=9, step_px=3.0)
    errors = {"probe_defocus_error": 0.3, "position_error_px": 0.5, "n_probe_modes": 2}
    dose = {"photons_per_frame": photons}
    return simulate(
        SimulationOptions(seed=1, frame_shape=(24, 24), scan=raster, **dose, **errors)
    ).scan


def test_portions_in_which_frames_come_do_not_change_the_bits(monkeypatch):
    """As ranks have other portions than one process."""
    options, scan = with_modes_and_positions(), dim_scan_with_modes(1e4)
    start = options.reconstructor_options.start
    start.n_iterations, start.first_position_iteration = 14, 4
    whole, _ = reconstructed(scan, options)
    monkeypatch.setattr(scan_physics, "CACHED_NUMBERS", 7 * 2 * 24 * 24)
    in_sevens, _ = reconstructed(scan, options)
    for name in NAMES:
        np.testing.assert_array_equal(in_sevens[name], whole[name], err_msg=name)


@pytest.mark.slow
def test_rounding_takes_no_step_back_where_little_light_falls():
    """In single precision sums this scan of 300 photons parted by 8 percent in two processes."""
    assert_same(dim_scan_with_modes(300.0), with_modes_and_positions(), 2, tolerance=1e-5)


def fit_options(num_epochs, **generator):
    """A short fit of a network after a short initial reconstruction, in small batches, judged in
    every second epoch."""
    options = default_options(num_epochs)
    settings = options.reconstructor_options
    settings.batch_size = 24
    settings.start.n_iterations = 12
    settings.consistency.canvas_update_stride = 2
    for name, value in generator.items():
        setattr(settings.generator, name, value)
    return options


def one_shot_options(**generator):
    """A fit of a one-shot network, in which rounding grows fast: in double precision. Of its small
    batches a rank may have no frame."""
    options = fit_options(2, **{"architecture": "hybrid_uno", "width": 4} | generator)
    settings = options.reconstructor_options
    settings.default_dtype, settings.batch_size, settings.start.n_iterations = "float64", 5, 0
    options.probe_options.optimizable = True
    return options


def test_two_processes_fit_what_one_fits(simulated):
    options = fit_options(4)
    options.probe_options.optimizable = True
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


def failing_epoch(scan, fails):
    """What is left of a fit that fails on the last rank in an epoch, how it and the next end, and
    the best held-out loss."""
    task = make_task(fit_options(8), scan)
    reconstructor, number = task.reconstructor, rank()
    run_minibatch = reconstructor.run_minibatch

    def fail(*batch):
        if number == 1 and reconstructor.current_epoch == fails:
            raise MemoryError
        run_minibatch(*batch)

    reconstructor.run_minibatch = fail
    with pytest.raises((MemoryError, RankLostError)) as ended:
        task.run()
    with pytest.raises(RankLostError, match="build a new task"):
        task.run()
    return ended.type, task.get_data_to_cpu("object", as_numpy=True)


def test_the_best_by_then_is_left_on_all_ranks_when_one_fails_in_an_epoch(simulated):
    (lost, left), (failed, of_failed) = on_ranks(2, failing_epoch, simulated.scan, 5)
    assert (lost, failed) == (RankLostError, MemoryError)
    alone = make_task(fit_options(4), simulated.scan)
    alone.run()
    expected = alone.get_data_to_cpu("object", as_numpy=True)
    for found in (left, of_failed):
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


def test_what_needs_one_process_is_refused_by_name(simulated):
    whole_scan, groups = one_shot_options(), one_shot_options(grid_size=2)
    uniform, unseeded = fit_options(2), fit_options(2)
    whole_scan.reconstructor_options.consistency.scope = "scan"
    uniform.reconstructor_options.batching_mode = "uniform"
    unseeded.reconstructor_options.random_seed = None
    for options, named in (
        (whole_scan, "scope = 'scan': needs one process, not 2; choose another, or start"),
        (uniform, "batching_mode = 'uniform': needs one process"),
        (groups, "generator.grid_size = 2: sees patterns of neighbours"),
        (unseeded, "random_seed: is not set"),
    ):
        for error in errors_on_ranks(2, make_task, options, simulated.scan):
            assert isinstance(error, ValueError)
            assert named in str(error)


def run_unseeded_epochs(scan):
    options = default_options(0)
    options.reconstructor_options.start.n_iterations = 0
    options.reconstructor_options.random_seed = None
    make_task(options, scan).run(2)


def with_own_seed(scan):
    options = fit_options(2)
    options.reconstructor_options.random_seed = int(os.environ["RANK"])
    make_task(options, scan)


def with_own_positions(scan):
    jitter = np.random.default_rng(int(os.environ["RANK"])).normal(0, 3, len(scan.patterns))
    make_task(default_options(0), scan, probe_position_x_px=scan.positions_px[:, 1] + jitter)


def test_epochs_are_refused_when_networks_would_differ(simulated):
    for error in errors_on_ranks(2, run_unseeded_epochs, simulated.scan):
        assert "random_seed: is not set" in str(error)
    for error in errors_on_ranks(2, with_own_seed, simulated.scan):
        assert "random_seed: differs between the processes" in str(error)


def test_scans_that_cannot_be_shared_are_refused(simulated):
    one = {"patterns": simulated.scan.patterns[:1], "positions_px": simulated.scan.positions_px[:1]}
    for error in errors_on_ranks(2, make_task, default_options(0), replace(simulated.scan, **one)):
        assert "1 frame for 2 processes" in str(error)
    for error in errors_on_ranks(2, with_own_positions, simulated.scan):
        assert "differ between the processes" in str(error)


@pytest.mark.slow
def test_three_processes_take_moments_and_halves_as_one(dim):
    options = default_options(0)
    start = options.reconstructor_options.start
    start.n_iterations, start.moment_iterations, start.alternate_halves = 15, 5, True
    options.reconstructor_options.batch_size = 20
    assert_same(dim.scan, options, 3)


def with_unknowns(options):
    """A scan whose probe, positions and intensities are not known, which the options refine."""
    options.probe_options.optimizable = options.probe_position_options.optimizable = True
    weights = options.opr_mode_weight_options
    weights.optimizable = weights.optimize_intensity_variation = True
    weights.optimize_eigenmode_weights = False
    scan = Raster(n_y=9, n_x=9, step_px=3.0)
    errors = {"photons_per_frame": 1e4, "probe_defocus_error": 0.3, "position_error_px": 0.5}
    return simulate(SimulationOptions(seed=5, frame_shape=(24, 24), scan=scan, **errors)).scan


@pytest.mark.slow
def test_three_processes_refine_what_one_refines():
    options = default_options(0)
    scan = with_unknowns(options)
    options.reconstructor_options.batch_size = 30
    start = options.reconstructor_options.start
    start.n_iterations, start.first_position_iteration = 60, 20
    assert_same(scan, options, 3)


@pytest.mark.slow
def test_three_processes_fit_positions_and_intensities_as_one():
    options = fit_options(6)
    scan = with_unknowns(options)
    options.object_options.total_variation.enabled = True
    options.object_options.total_variation.weight = 1e-3
    for n in (2, 3):
        assert_same(scan, options, n)


@pytest.mark.slow
def test_two_processes_lose_patience_in_the_same_epoch(simulated):
    options = fit_options(60)
    settings = options.reconstructor_options
    settings.default_dtype, settings.start.n_iterations = "float64", 40
    settings.validation.patience, settings.validation.trial_epochs = 10, 6
    assert_same(simulated.scan, options, 2, tolerance=1e-8)


@pytest.mark.slow
def test_three_processes_unroll_several_iterations_as_one(simulated):
    options = fit_options(3)
    settings = options.reconstructor_options
    settings.default_dtype, settings.batch_size = "float64", 5
    unrolled = settings.generator.unrolled
    unrolled.n_iterations, unrolled.activation_checkpointing = 3, True
    options.probe_options.optimizable = True
    settings.fit_loss.amplitude_error.enabled = True
    settings.fit_loss.amplitude_error.counts_above = 10.0
    settings.displayed_loss_function = LossFunctions.MSE_SQRT
    assert_same(simulated.scan, options, 3, tolerance=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("lifter", ["standardized", "backprojection", "cnn"])
@pytest.mark.parametrize("architecture", ["hybrid_uno", "cascaded"])
def test_three_processes_fit_one_shot_networks_as_one(simulated, architecture, lifter):
    options = one_shot_options(architecture=architecture, lifter=lifter)
    if architecture == "cascaded":
        options.reconstructor_options.generator.cascaded.rough_loss_weight = 0.5
    assert_same(simulated.scan, options, 3, tolerance=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_processes_fit_a_one_shot_network_after_a_start_as_one(simulated, n):
    options = fit_options(4, architecture="hybrid_uno", width=4)
    options.reconstructor_options.default_dtype = "float64"
    assert_same(simulated.scan, options, n, tolerance=1e-8)


@pytest.mark.slow
def test_two_processes_predict_what_one_predicts(simulated, tmp_path):
    for architecture in ("unrolled", "hybrid_uno"):
        trained = make_task(fit_options(2, architecture=architecture), simulated.scan)
        trained.run()
        path = tmp_path / f"{architecture}.safetensors"
        trained.reconstructor.save_generator(path)
        options = default_options(0)
        options.reconstructor_options.generator.checkpoint = str(path)
        assert_same(simulated.scan, options, 2)


def test_a_task_of_one_process_needs_no_group(simulated):
    make_task(default_options(0), simulated.scan)
    assert not torch.distributed.is_initialized()
