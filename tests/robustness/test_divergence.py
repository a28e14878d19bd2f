"""Step sizes that scatter the object: the result is no worse than what the run began with, and a
command that has nothing better to show does not end as if all was well."""

import numpy as np
import pytest
import tomli_w
import torch
from typer.testing import CliRunner

from hostile_scans import result_or_words
from ptychi_neural.cli import app
from ptychi_neural.engine.misfit import is_far_worse, misfit_of_object
from ptychi_neural.projections.accelerated import AcceleratedProjections
from small_tasks import error_of, make_task, neural_options, object_of

SCATTERING = {
    "generator": {"reconstructor_options": {"generator": {"step_size": 1.0}}},
    "generator, NaN": {"reconstructor_options": {"generator": {"step_size": 1e30}}},
    "probe": {"probe_options": {"optimizable": True, "step_size": 1e2}},
    "probe, NaN": {"probe_options": {"optimizable": True, "step_size": 1e30}},
    "positions": {
        "probe_position_options": {
            "optimizable": True,
            "step_size": 1e3,
            "correction_options": {
                "update_magnitude_limit": float("inf"),
                "clip_update_magnitude_by_mad": False,
            },
        }
    },
}


def misfit_of(task):
    """The misfit of what a task holds in the end."""
    reconstructor = task.reconstructor
    return misfit_of_object(reconstructor.scan, task.object.data.detach())


@pytest.mark.parametrize("held_out", [0.0, 0.03])
@pytest.mark.parametrize("n_iterations", [0, 8])
@pytest.mark.parametrize("changes", SCATTERING.values(), ids=SCATTERING)
def test_a_result_is_not_far_worse_than_its_start(simulated, changes, n_iterations, held_out):
    options = neural_options()
    options.reconstructor_options.num_epochs = 5
    options.reconstructor_options.start.n_iterations = n_iterations
    options.reconstructor_options.validation.held_out = held_out
    start = make_task(options, simulated.scan)
    start.run(0)
    options.load_from_dict(changes)
    task = make_task(options, simulated.scan)
    _, words = result_or_words(task.run, errors=FloatingPointError)
    assert words is None or "finite state" in words
    assert np.isfinite(object_of(task)).all()
    assert not is_far_worse(misfit_of(task), misfit_of(start))
    assert error_of(task, simulated) < 1.2 * error_of(start, simulated)


def test_a_scattered_object_does_not_take_back_what_the_next_run_goes_on_from(simulated):
    options = neural_options(step_size=1.0)
    task = make_task(options, simulated.scan)
    task.run(3)
    reconstructor = task.reconstructor
    assert reconstructor.judge.is_scattered
    assert np.ptp(np.abs(object_of(task))) < 1e-6  # The start was empty.
    assert np.ptp(reconstructor.continuation.last.parameters["object"].abs().numpy()) > 0.5


def test_an_epoch_that_fits_is_not_taken_for_scattered(simulated):
    task = make_task(neural_options(), simulated.scan)
    task.run(6)
    assert not task.reconstructor.judge.is_scattered
    assert error_of(task, simulated) < 0.9 * error_of(
        make_task(neural_options(), simulated.scan), simulated
    )


@pytest.mark.parametrize("what", ["object", "probe", "positions"])
def test_an_initial_reconstruction_that_becomes_nan_keeps_what_it_had(simulated, monkeypatch, what):
    options = neural_options()
    options.reconstructor_options.start.n_iterations = 8
    iterate, found = AcceleratedProjections.iterate, []

    def spoiled(projections, *args, **kwargs):
        loss = iterate(projections, *args, **kwargs)
        found.append(projections.object)
        if len(found) == 5:
            model = projections.scan.model
            if what == "object":
                projections.object = projections.object * torch.nan
            elif what == "probe":
                model.probe.set_data(model.probe.data * torch.nan)
            else:
                model.probe_positions.set_data(model.probe_positions.data + 1e6)
        return loss

    monkeypatch.setattr(AcceleratedProjections, "iterate", spoiled)
    task = make_task(options, simulated.scan)
    with pytest.raises(FloatingPointError, match=r"in iteration 4; .*reconstructor_options\.start"):
        task.run()
    kept, before = object_of(task), found[3].numpy()
    np.testing.assert_allclose(kept / kept[0, 0, 0], before / before[0, 0, 0], rtol=1e-5)
    for name in ("probe", "probe_positions"):
        assert task.get_data(name).isfinite().all()
    assert error_of(task, simulated) < 0.4


RUN = {
    "simulation": {
        "frame_shape": [16, 16],
        "scan": {"kind": "raster", "n_y": 6, "n_x": 6, "step_px": 2.5},
    },
    "reconstructor_options": {"num_epochs": 4, "batch_size": 12, "default_device": "cpu"},
}

ENGINES = [
    ("epie", {}, 0, None),
    ("lsqml", {}, 0, None),
    ("rpie", {"object_options": {"step_size": 5.0}}, 1, "far worse than before the first epoch"),
    ("bh", {"probe_options": {"step_size": 1e2}}, 1, "far worse than before the first epoch"),
    ("lsqml", {"object_options": {"step_size": 1e30}}, 1, "became nan"),
]


@pytest.mark.parametrize(("engine", "changes", "code", "told"), ENGINES)
def test_an_engine_that_scatters_the_object_does_not_end_with_0(
    tmp_path, engine, changes, code, told
):
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps({"engine": engine} | RUN | changes))
    result = CliRunner().invoke(app, ["reconstruct", str(path), "--output", str(tmp_path / "r")])
    assert result.exit_code == code, result.output
    assert told is None or told in result.output


@pytest.mark.parametrize(
    "name",
    ["regularization", "transfer_floor", "rim", "largest_change", "pupil_phase_gain"],
)
def test_numbers_of_the_start_that_have_no_meaning_are_refused(simulated, name):
    options = neural_options()
    with pytest.raises(ValueError, match=name):
        options.load_from_dict({"reconstructor_options": {"start": {name: 1e30}}})
