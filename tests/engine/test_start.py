"""The defaults: initial reconstruction, splits of the pixels, held-out pixels."""

import numpy as np
import ptychi.api as api
import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.evaluation import align, complex_error, scanned_area
from ptychi_neural.generators.files import load_generator
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.prediction.deviation import deviation
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, error_of, make_task, object_of


def watch_errors(task, simulated):
    """Errors of the object at each validation."""
    errors = []
    judge = task.reconstructor.judge
    judged = judge.judge

    def watched(*args, **kwargs):
        judged(*args, **kwargs)
        errors.append(error_of(task, simulated))

    judge.judge = watched
    return errors


def test_the_network_beats_the_projections_and_stops_near_its_best(dim):
    """Five seeds came to .71 to .86 of the error of projections alone, to .91 to .99 of that of the
    denoised ones it starts from, and to 1.00 to 1.02 of the best."""
    options = default_options(num_epochs=0)
    options.reconstructor_options.start.total_variation = 0.0
    plain = make_task(options, dim.scan)
    plain.run()
    task = make_task(default_options(num_epochs=100), dim.scan)
    task.run(0)
    denoised = error_of(task, dim)
    errors = watch_errors(task, dim)
    task.run()
    assert error_of(task, dim) < 0.9 * error_of(plain, dim)
    assert error_of(task, dim) < 0.97 * denoised
    assert error_of(task, dim) < 1.03 * min(errors)
    validation = task.reconstructor.validation
    of_epochs = validation[validation.stage == "epoch"]
    assert task.reconstructor.judge.best_loss == of_epochs.loss.min()
    assert (validation.stage == "projections").sum() >= 60


def test_a_split_is_not_seen_by_what_is_to_predict_it(dim):
    """Counts of one split changed: the start that is to predict it stays, all others change."""
    starts = []
    options = default_options(num_epochs=1)
    options.reconstructor_options.start.total_variation = 0.0  # One weight is chosen for all.
    options.reconstructor_options.validation.trial_epochs = None
    for factor in (1, 3):
        task = make_task(options, dim.scan)
        task.reconstructor.options.start.n_iterations = 3
        # The scale is found from all pixels: let it stay.
        task.reconstructor.options.intensity_scale.start_from_data = False
        labels = task.reconstructor.pixels.labels
        task.dataset.patterns = torch.where(
            labels == 2, factor * task.dataset.patterns, task.dataset.patterns
        )
        task.run(1)
        starts.append(task.reconstructor.start.objects)
    for split in (None, 0, 1, 2, 3):
        same = torch.equal(starts[0][split], starts[1][split])
        assert same == (split == 2)


def test_runs_in_pieces_equal_one_run_with_splits_and_validation(dim):
    objects = []
    for pieces in ([10], [3, 0, 7]):
        options = default_options(num_epochs=10)
        options.reconstructor_options.start.n_iterations = 20
        options.reconstructor_options.allow_nondeterministic_algorithms = False
        options.probe_options.optimizable = True
        task = make_task(options, dim.scan)
        for n_epochs in pieces:
            task.run(n_epochs)
        assert task.reconstructor.current_epoch == 10
        objects.append(object_of(task))
    assert np.array_equal(*objects)


def test_a_network_that_does_not_help_is_given_up_early_and_costs_two_splits(dim, caplog):
    options = default_options(num_epochs=30)
    options.reconstructor_options.start.n_iterations = 20
    options.reconstructor_options.validation.trial_epochs = 7
    options.reconstructor_options.generator.optimizable = False
    options.reconstructor_options.intensity_scale.optimizable = False
    task = make_task(options, dim.scan)
    task.run()
    reconstructor = task.reconstructor
    assert reconstructor.current_epoch <= 5 + 7  # The first epochs are judged after the fifth.
    assert reconstructor.network_was_tried_in_vain
    assert set(reconstructor.start.objects) == {None, 0, 1}
    spread = deviation(reconstructor.generator, reconstructor.scan, reconstructor.start)
    assert (spread[reconstructor.scan.coverage > 0.5] > 0).all()


def test_one_that_helps_gets_a_start_without_each_split():
    """It has beaten the initial reconstruction after five epochs of this scan."""
    scan = Raster(n_y=10, n_x=10)
    dim = simulate(SimulationOptions(seed=23, photons_per_frame=1e3, scan=scan))
    task = make_task(default_options(num_epochs=11), dim.scan)
    task.run()
    assert not task.reconstructor.network_was_tried_in_vain
    assert set(task.reconstructor.start.objects) == {None, 0, 1, 2, 3}


def test_patience_ends_a_run(dim):
    options = default_options(num_epochs=30)
    options.reconstructor_options.start.n_iterations = 20
    options.reconstructor_options.validation.patience = 6
    options.reconstructor_options.validation.trial_epochs = None
    options.reconstructor_options.generator.optimizable = False
    options.reconstructor_options.intensity_scale.optimizable = False
    task = make_task(options, dim.scan)
    task.run()
    assert task.reconstructor.current_epoch < 30


def test_zero_epochs_are_the_projections_alone(dim):
    task = make_task(default_options(num_epochs=0), dim.scan)
    task.run()
    ratio = object_of(task) / task.reconstructor.scan.start.numpy(force=True)
    assert np.ptp(np.abs(ratio)) < 1e-5  # pty-chi's common factor of object and probe
    assert len(task.reconstructor.start.objects) == 1
    assert error_of(task, dim) < 0.2


@pytest.mark.parametrize(("step_px", "largest_ratio"), [(4.0, 0.4), (8.0, 0.9)])
def test_dividing_by_the_contrast_transfer_reaches_coarse_phase_sooner(step_px, largest_ratio):
    """Three seeds came to .16 to .22 of the error with steps of 4 px, and to .53 to .73 with 8 px,
    where the first step is too long and is taken back."""
    scan = Raster(n_y=12, n_x=12, step_px=step_px, jitter_px=step_px / 4)
    simulated = simulate(SimulationOptions(seed=3, scan=scan, object={"kind": "lines"}))
    errors = []
    for floor in (None, 0.1):
        options = default_options(num_epochs=0)
        options.reconstructor_options.start.n_iterations = 40
        options.reconstructor_options.start.transfer_floor = floor
        task = make_task(options, simulated.scan)
        task.run()
        errors.append(error_of(task, simulated))
    assert errors[1] < largest_ratio * errors[0]


def test_moments_and_halves_reach_coarse_phase_in_a_fraction_of_the_time(monkeypatch):
    """Seven scans of 400 frames at 1e3 photons came, in the median, to .16 in 16 iterations without
    the moments, to .11 with them and with halves; to .12 in 32 without."""
    simulated = simulate(
        SimulationOptions(seed=202, photons_per_frame=1e3, object={"kind": "lines"})
    )
    errors, n_frames = [], [0]
    correction = ScanPhysics.correction

    def counted(self, frames, *args, **kwargs):
        n_frames[-1] += len(frames)
        return correction(self, frames, *args, **kwargs)

    monkeypatch.setattr(ScanPhysics, "correction", counted)
    for moment_iterations, alternate_halves in ((0, False), (5, False), (5, True)):
        options = default_options(num_epochs=0)
        start = options.reconstructor_options.start
        start.n_iterations, start.total_variation = 16, 0.0
        start.moment_iterations, start.alternate_halves = moment_iterations, alternate_halves
        task = make_task(options, simulated.scan)
        n_frames.append(0)
        task.run()
        errors.append(error_of(task, simulated))
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 1.1 * errors[1]
    assert n_frames[3] < 0.7 * n_frames[2]


def test_bright_scans_go_on_converging_where_losses_differ_in_their_last_digits():
    scan = Raster(n_y=10, n_x=10, step_px=8.0, jitter_px=2.0)
    bright = simulate(SimulationOptions(seed=21, photons_per_frame=1e8, scan=scan))
    errors = []
    for n_iterations in (120, 240):
        options = default_options(num_epochs=0)
        options.reconstructor_options.start.n_iterations = n_iterations
        task = make_task(options, bright.scan)
        task.run()
        errors.append(error_of(task, bright))
    assert errors[1] < 0.8 * errors[0]


def test_projections_end_where_no_step_lowers_the_loss():
    scan = Raster(n_y=10, n_x=10, step_px=3.0, jitter_px=0.7)
    faint = simulate(
        SimulationOptions(seed=4, frame_shape=(16, 16), photons_per_frame=50, scan=scan)
    )
    counts, objects = [], []
    for most_rises in (napi.StartOptions().most_rises, 10**9):
        options = default_options(num_epochs=0)
        options.reconstructor_options.start.most_rises = most_rises
        options.reconstructor_options.validation.held_out = 0
        options.reconstructor_options.start.n_iterations = 200
        task = make_task(options, faint.scan)
        task.run()
        counts.append((task.reconstructor.validation.stage == "projections").sum())
        objects.append(object_of(task))
    assert counts[0] < 180 < counts[1] == 200
    assert np.linalg.norm(objects[0] - objects[1]) < 0.01 * np.linalg.norm(objects[1] - 1)


def test_plenty_of_light_asks_for_more_projections_of_everything_than_of_splits(dim, simulated):
    bright = make_task(default_options(num_epochs=0), simulated.scan).reconstructor
    assert (bright.n_projections(), bright.n_projections(split=0)) == (200, 120)
    faint = make_task(default_options(num_epochs=0), dim.scan).reconstructor
    assert 60 <= faint.n_projections() == faint.n_projections(split=0) < 120


@pytest.mark.parametrize("wait", [20, 10_000], ids=["early", "in the end"])
def test_projections_go_back_to_where_held_out_pixels_were_predicted_best(dim, wait):
    options = default_options(num_epochs=0)
    options.reconstructor_options.start.held_out_rise = 1e-3
    options.reconstructor_options.start.held_out_wait = wait
    task = make_task(options, dim.scan)
    n_open = task.reconstructor.n_projections()
    task.run()
    validation = task.reconstructor.validation
    course = validation.loss[validation.stage == "projections"]
    n_projections = task.reconstructor.n_projections()
    assert 0 < n_projections == course.argmin() < n_open
    assert course.iloc[-1] > course.min() + 1e-3
    assert (len(course) == n_open) == (wait > n_open)
    options.reconstructor_options.start.n_iterations = n_projections
    as_many = make_task(options, dim.scan)
    as_many.run()
    assert np.array_equal(object_of(task), object_of(as_many))


def test_held_out_pixels_end_projections_that_see_halves_of_the_frames_first(dim):
    options = default_options(num_epochs=0)
    options.reconstructor_options.start.alternate_halves = True
    options.reconstructor_options.start.share_of_halves = 0.5
    options.reconstructor_options.start.held_out_rise = 1e-5
    task = make_task(options, dim.scan)
    n_open = task.reconstructor.n_projections()
    task.run()
    validation = task.reconstructor.validation
    course = validation.loss[validation.stage == "projections"]
    assert course.isna().any()
    assert len(course) < n_open
    assert task.reconstructor.n_projections() == course.argmin()


WEIGHTS = napi.StartOptions().total_variation_weights


@pytest.fixture(scope="module")
def projected_with(dim):
    """Tasks after projections, by their weight of total variation."""
    tasks = {}
    for weight in (None, *WEIGHTS):
        options = default_options(num_epochs=0)
        options.reconstructor_options.start.total_variation = weight
        tasks[weight] = make_task(options, dim.scan)
        tasks[weight].run()
    return tasks


def test_total_variation_smooths_the_projected_object(projected_with):
    variations = [
        np.abs(np.diff(object_of(projected_with[weight])[0], axis=0)).mean() for weight in WEIGHTS
    ]
    assert variations == sorted(variations, reverse=True)
    assert variations[-1] < 0.5 * variations[0]


def test_an_open_weight_of_total_variation_is_the_one_that_predicts_best(projected_with, dim):
    losses = {
        weight: projected_with[weight].reconstructor.validation.loss.iloc[-1] for weight in WEIGHTS
    }
    best = min(losses, key=losses.get)
    assert best > 0
    assert np.array_equal(object_of(projected_with[None]), object_of(projected_with[best]))
    unvalidated = default_options(num_epochs=0)
    unvalidated.reconstructor_options.validation.held_out = 0
    objects = []
    for weight in (None, 0.0):
        unvalidated.reconstructor_options.start.total_variation = weight
        task = make_task(unvalidated, dim.scan)
        task.run()
        objects.append(object_of(task))
    assert np.array_equal(*objects)


def test_a_generator_is_saved_with_the_weight_of_its_start(projected_with, tmp_path):
    projected_with[None].reconstructor.save_generator(tmp_path / "generator.safetensors")
    _, _, metadata = load_generator(tmp_path / "generator.safetensors")
    weight = metadata["start"]["total_variation"]
    assert np.array_equal(object_of(projected_with[None]), object_of(projected_with[weight]))


def test_projections_survive_a_wrong_probe_when_they_refine_it():
    scan = Raster(n_y=12, n_x=12)
    simulated = simulate(SimulationOptions(seed=22, scan=scan, probe_defocus_error=0.3))
    errors = []
    for refined in (False, True):
        options = default_options(num_epochs=0)
        options.probe_options.optimizable = refined
        task = make_task(options, simulated.scan)
        task.run()
        truth = simulated.truth
        mask = scanned_area(truth.positions_px, truth.object.shape[-2:])
        aligned = align(object_of(task)[0], truth.object[0], ramp=True, shift=True, mask=mask)
        errors.append(complex_error(aligned.aligned, truth.object[0], mask))
    assert errors[1] < 0.5 * errors[0]


def test_projections_with_a_probe_of_unknown_defocus_impose_the_modulus_whatever_the_loss(dim):
    objects = []
    for loss in (api.LossFunctions.POISSON, api.LossFunctions.MSE_SQRT):
        options = default_options(num_epochs=0)
        options.probe_options.optimizable = True
        options.reconstructor_options.loss_function = loss
        options.reconstructor_options.start.n_iterations = 10
        options.reconstructor_options.start.defocus_range = 0
        options.reconstructor_options.validation.held_out = 0
        task = make_task(options, dim.scan)
        task.run()
        objects.append(object_of(task))
    assert np.abs(objects[0] - objects[1]).max() < 1e-4
