"""One generator trained on many scans."""

import numpy as np
import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.simulation import simulate
from ptychi_neural.training import workflow as workflow_module
from small_trainings import (
    assert_equal,
    in_new_process,
    many_scans,
    recipe,
    trained,
    training_options,
)


@pytest.mark.slow
def test_a_training_resumed_in_a_new_process_equals_one_that_was_never_stopped(tmp_path):
    whole = many_scans()
    whole.run(3)

    half = many_scans(scans_in_memory=1)
    half.run(1)
    half.step()  # Stopped in the middle of an epoch.
    half.save_state(tmp_path / "state.safetensors")
    in_new_process(
        """
workflow = many_scans()
workflow.load_state(sys.argv[1])
workflow.run(2)
np.savez(sys.argv[2], **trained(workflow, Path(sys.argv[1]).parent))
""",
        tmp_path / "state.safetensors",
        tmp_path / "outcome.npz",
    )
    with np.load(tmp_path / "outcome.npz") as resumed:
        assert_equal(dict(resumed), trained(whole, tmp_path))


def test_training_on_a_single_scan_is_what_the_engine_does():
    task = build_task(training_options(), simulate(recipe(0)).scan)
    task.run(3)
    workflow = napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), training_options())
    workflow.run(3)
    expected = task.reconstructor.parameter_group.generator.network.tensors()
    for name, tensor in workflow.generator.network.tensors().items():
        assert tensor.equal(expected[name]), name
    np.testing.assert_array_equal(
        workflow.table.loss[1:], task.reconstructor.loss_tracker.table.loss
    )


def test_training_lowers_the_score_of_a_scan_that_it_has_not_seen():
    workflow = many_scans()
    workflow.run(3)
    scores = workflow.table.score
    assert scores.iloc[-1] < scores.iloc[0]
    assert workflow.best_score == scores.min()


@pytest.fixture
def loaded(monkeypatch):
    """(seed, noise_seed) of the simulations that a training asks for."""
    seeds = []

    def noted(options):
        seeds.append((options.seed, options.noise_seed))
        return simulate(options)

    monkeypatch.setattr(workflow_module, "simulate", noted)
    return seeds


def test_a_fresh_scan_is_drawn_anew_in_every_epoch_and_others_are_read_once(loaded):
    workflow = many_scans(architecture="hybrid_uno")
    workflow.run(3)
    seeds = [seed for seed, _ in loaded]
    fixed = [seed for seed in seeds if seed in (0, 2, 9)]
    drawn = [seed for seed in seeds if seed not in (0, 2, 9)]
    assert fixed.count(2) == fixed.count(9) == 1
    assert len(drawn) == len(set(drawn)) == 3


def test_fresh_noise_exposes_the_same_scan_again_in_every_epoch(loaded):
    scan = napi.TrainingScan(recipe(1), fresh="noise")
    napi.MultiscanTrainingWorkflow([scan], recipe(9), training_options("hybrid_uno")).run(3)
    exposed = [noise_seed for seed, noise_seed in loaded if seed == 1]
    assert len(set(exposed) - {None}) == len(set(exposed)) == 3


def test_each_scan_refines_its_own_probe(tmp_path):
    arrays = trained(run_of(many_scans(), 2), tmp_path)
    first, second = arrays["0.probe.tensor.data"], arrays["2.probe.tensor.data"]
    start = torch.view_as_real(torch.as_tensor(simulate(recipe(0)).scan.probe)).numpy()
    start = start / np.hypot(*np.moveaxis(start, -1, 0)).max()
    assert np.abs(first - start).max() > 1e-4
    assert np.abs(second - start).max() > 1e-4
    assert np.abs(first - second).max() > 1e-4


def run_of(workflow, n_epochs):
    workflow.run(n_epochs)
    return workflow


def test_training_ends_when_patience_does():
    options = training_options()
    options.reconstructor_options.validation.patience = 2
    options.reconstructor_options.generator.optimizable = False
    workflow = napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), options)
    workflow.run(9)
    assert workflow.out_of_patience
    assert workflow.epoch == workflow.best_epoch + 2 < 9


def test_scans_that_cannot_share_a_generator_are_refused():
    options = training_options("hybrid_uno")
    other = recipe(1).model_copy(update={"frame_shape": (20, 20)})
    with pytest.raises(ValueError, match="16 x 16 pixels and cannot work with 20 x 20"):
        napi.MultiscanTrainingWorkflow([recipe(0), other], recipe(9), options).run(1)
    with pytest.raises(ValueError, match="held_out: set it to 0"):
        napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), training_options(held_out=0.1))
    fresh = napi.TrainingScan(simulate(recipe(0)).scan, fresh="object")
    with pytest.raises(ValueError, match="fresh needs SimulationOptions"):
        napi.MultiscanTrainingWorkflow([fresh], recipe(9), options)
