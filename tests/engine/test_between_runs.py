"""What somebody puts into a task, or sets in its options, between two runs."""

import copy
import re
from functools import reduce

import numpy as np
import ptychi.api as api
import pytest
import torch

from ptychi_neural.engine.changes import START, TAKEN_UP, is_in, values_of
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, error_of, make_task, neural_options, object_of


@pytest.fixture(scope="module")
def astray():
    """64 frames of 32x32 whose nominal positions are 1.4 px off, and defocus 30 %."""
    scan = Raster(n_y=8, n_x=8)
    return simulate(
        SimulationOptions(seed=4, scan=scan, position_error_px=1.0, probe_defocus_error=0.3)
    )


def projected(scan, num_epochs=0, **replaced):
    options = default_options(num_epochs)
    options.reconstructor_options.start.n_iterations = 20
    return make_task(options, scan, **replaced)


def set_in(task, **data):
    with torch.no_grad():
        for name, values in data.items():
            getattr(task, name).set_data(torch.as_tensor(values))


def test_positions_and_probe_put_in_between_runs_lead_where_a_new_task_with_them_does(astray):
    truth = astray.truth
    task = projected(astray.scan)
    task.run(1)
    wrong = error_of(task, astray)
    set_in(task, probe_positions=truth.positions_px, probe=truth.probe)
    task.run(1)
    y, x = truth.positions_px.T
    fresh = projected(
        astray.scan, probe_data=truth.probe, probe_position_y_px=y, probe_position_x_px=x
    )
    fresh.run(1)
    assert np.array_equal(task.get_data_to_cpu("probe_positions"), truth.positions_px.astype("f4"))
    assert error_of(task, astray) < 0.5 * wrong
    assert error_of(task, astray) < 1.15 * error_of(fresh, astray)  # Other splits, other steps.


def test_what_moves_by_less_than_matters_is_taken_up_without_another_start(simulated):
    task = projected(simulated.scan)
    task.run(2)
    start, network = task.reconstructor.start, task.reconstructor.generator
    positions = task.get_data_to_cpu("probe_positions") + 0.02
    set_in(task, probe_positions=positions)
    task.run(2)
    assert torch.equal(task.get_data_to_cpu("probe_positions"), positions)
    assert task.reconstructor.start is start
    assert task.reconstructor.generator is network


def test_opr_weights_put_in_between_runs_stay_and_set_the_counts(simulated):
    probe = np.concatenate([simulated.scan.probe, 0.5j * simulated.scan.probe])
    weights = np.ones((64, 2))
    weights[:, 1] = 0
    task = make_task(
        neural_options(), simulated.scan, probe_data=probe, opr_mode_weights_data=weights
    )
    task.run(1)
    weights[:, 0] = np.linspace(0.5, 1.5, 64)
    set_in(task, opr_mode_weights=weights)
    task.run(1)
    np.testing.assert_allclose(task.get_data_to_cpu("opr_mode_weights"), weights, rtol=1e-6)
    model = task.reconstructor.model
    with torch.no_grad():
        counts = model(model.everything).sum(dim=(1, 2))
        set_in(task, opr_mode_weights=np.tile([1.0, 0.0], (64, 1)))
        evenly = model(model.everything).sum(dim=(1, 2))
    np.testing.assert_allclose(counts / evenly, weights[:, 0] ** 2, rtol=1e-4)


def test_positions_put_in_before_the_first_run_make_the_batches(astray):
    options = neural_options()
    options.reconstructor_options.batch_size = 16
    task = make_task(options, astray.scan)
    order = np.random.default_rng(0).permutation(64)
    set_in(task, probe_positions=astray.scan.positions_px[order])
    task.run(0)
    for batch in task.reconstructor.dataloader.batch_sampler:
        assert np.ptp(astray.scan.positions_px[order][batch], axis=0).max() < 30


@pytest.mark.parametrize(
    ("name", "spoil", "named"),
    [
        ("probe_positions", lambda data: data * np.nan, "probe_positions: has NaN"),
        ("probe_positions", lambda data: data + 60, "outside the object"),
        ("probe", lambda data: 0 * data, "carries no light"),
        ("object", lambda data: 0 * data, "zero everywhere"),
        ("opr_mode_weights", lambda data: data * np.inf, "opr_weights: has NaN or Inf"),
    ],
)
def test_bad_data_put_in_between_runs_are_refused_by_name(simulated, name, spoil, named):
    task = make_task(neural_options(), simulated.scan)
    task.run(1)
    set_in(task, **{name: spoil(task.get_data_to_cpu(name, as_numpy=True))})
    with pytest.raises(ValueError, match=named):
        task.run(1)


# --- options -----------------------------------------------------------------------------------


def switch_on(constraint, **values):
    def change(options, plan):
        of_constraint = reduce(getattr, constraint.split("."), options)
        of_constraint.enabled = True
        of_constraint.optimization_plan.start = plan
        for name, value in values.items():
            setattr(of_constraint, name, value)

    return change


def optimise(group):
    def change(options, plan):
        of_group = getattr(options, group)
        of_group.optimizable = True
        of_group.optimization_plan.start = plan

    return change


def shorter_steps(options, plan):
    """A step of a tenth, or a scheduler that comes to it in time."""
    generator = options.reconstructor_options.generator
    if plan == 0:
        generator.step_size = 1e-3
    else:
        generator.optimization_plan.step_size_scheduler_class = "MultiStepLR"
        generator.optimization_plan.step_size_scheduler_options = {
            "milestones": [plan], "gamma": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        switch_on("object_options.total_variation", weight=10.0),
        switch_on("object_options.l1_norm_constraint", weight=1e3),
        switch_on("object_options.l2_norm_constraint", weight=1e3),
        switch_on("probe_options.support_constraint"),
        switch_on("probe_options.center_constraint"),
        optimise("probe_options"),
        optimise("probe_position_options"),
        shorter_steps,
    ],
    ids=["tv", "l1", "l2", "support", "centre", "probe", "positions", "steps"],
)
def test_an_option_changed_after_an_epoch_acts_as_one_planned_for_then(simulated, change):
    objects = []
    for planned in (True, False, None):
        options = neural_options(architecture="unrolled", width=2)
        options.reconstructor_options.batch_size = 64
        options.reconstructor_options.generator.optimizer = "sgd"
        options.reconstructor_options.generator.step_size = 1e-2
        if planned:
            change(options, 1)
        task = make_task(options, simulated.scan)
        task.run(1)
        if planned is False:
            change(options, 0)
        task.run(1)
        objects.append(np.concatenate([object_of(task).ravel(), task.get_data("probe").ravel()]))
    assert np.array_equal(objects[0], objects[1])
    assert not np.allclose(objects[0], objects[2], rtol=1e-6)


def test_batches_and_the_number_of_epochs_change_between_runs(simulated):
    options = neural_options()
    task = make_task(options, simulated.scan)
    task.run(1)
    options.reconstructor_options.batch_size = 8
    options.reconstructor_options.batching_mode = "random"
    options.reconstructor_options.num_epochs = 3
    task.run()
    reconstructor = task.reconstructor
    assert reconstructor.current_epoch == 4
    assert (len(reconstructor.dataloader), reconstructor.options.batch_size) == (8, 8)


def test_the_options_of_the_start_can_change_until_it_is_made(simulated):
    task = projected(simulated.scan)
    start = task.options.reconstructor_options.start
    start.n_iterations = 7
    task.run(0)
    assert (task.reconstructor.validation.stage == "projections").sum() == 7
    start.n_iterations = 9
    with pytest.raises(ValueError, match=r"start\.n_iterations: was changed from 7 to 9.*is made"):
        task.run(0)
    start.n_iterations = 7
    task.run(0)


def test_options_loaded_into_a_task_are_changes_as_any_other(simulated):
    task = make_task(neural_options(), simulated.scan)
    task.run(1)
    told = task.get_options_as_dict()
    task.load_options_from_dict(copy.deepcopy(told))
    task.run(1)
    told["object_options"]["total_variation"] |= {"enabled": True, "weight": 10.0}
    task.load_options_from_dict(copy.deepcopy(told))
    task.run(1)
    assert task.reconstructor.loss_tracker.table.reg_loss.iloc[-1] > 0
    told["reconstructor_options"]["loss_function"] = api.LossFunctions.MSE_SQRT
    task.load_options_from_dict(told)
    with pytest.raises(ValueError, match="loss_function: was changed"):
        task.run(1)


def test_every_option_is_taken_up_or_refused_by_name(simulated):
    task = make_task(neural_options(), simulated.scan)
    asked = task.reconstructor.asked
    seen = set()
    for group, options in asked.groups.items():
        for name, value in list(values_of(options, group)):
            *owner, last = name.split(".")[1:]
            holder = vars(reduce(getattr, owner, options))
            holder[last] = "another"
            if any(is_in(name, entry) for entry in TAKEN_UP) and not is_in(name, START):
                seen |= {entry for entry in TAKEN_UP if is_in(name, entry)}
            else:
                with pytest.raises(ValueError, match=re.escape(f"{name}: was changed")):
                    asked.changes(start_is_made=True)
            holder[last] = value
    assert seen == set(TAKEN_UP) - {START}
    assert asked.changes(start_is_made=True) == set()
