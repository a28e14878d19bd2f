"""Progressive resolution with the generator carried along."""

from types import SimpleNamespace

import numpy as np
import pytest

from resampled_scan import RESIZABLE, relative_error, resampled, resampled_task
from small_tasks import object_of
from trained_generators import options_of

workflow = pytest.importorskip("ptychi.api.options.workflow")  # from pty-chi 2.2 on
pytest.importorskip("ptychi.workflows.progressive_resolution")

N = 32


def error(task, truth):
    """Relative error in the middle of the object, where frames overlap."""
    y, x = np.indices(truth.shape) - np.reshape(truth.shape, (2, 1, 1)) / 2
    weight = (np.maximum(abs(y), abs(x)) < 20).astype(float)
    return relative_error(SimpleNamespace(object=object_of(task), weight=weight), truth)


def coarse_to_fine(options, n_epochs):
    from ptychi_neural.training.coarse_to_fine import CoarseToFineWorkflow

    patterns, positions, probe, truth = resampled(N)
    levels = workflow.ProgressiveResolutionWorkflowOptions(len(n_epochs), n_epochs)
    run = CoarseToFineWorkflow(
        options,
        workflow_options=levels,
        diffraction_data=patterns,
        object_data=np.ones((1, *truth.shape), complex),
        probe_data=probe,
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )
    run.run()
    return error(run.get_full_resolution_task(), truth)


def fine_alone(options, n_epochs):
    task = resampled_task(options, N)
    task.run(n_epochs)
    return error(task, resampled(N)[3])


def test_a_generator_goes_on_with_what_it_has_learned_at_the_coarse_level():
    options = options_of(**RESIZABLE[0])
    assert coarse_to_fine(options, [15, 2]) < 0.8 * fine_alone(options, 2)


@pytest.mark.slow
def test_what_coarse_epochs_save(capsys):
    """Coarse epochs are worth less than fine ones, in the time that they take, too."""
    options = options_of(**RESIZABLE[0])
    errors = {
        "60 coarse, 60 fine": coarse_to_fine(options, [60, 60]),
        "60 fine": fine_alone(options, 60),
        "100 fine": fine_alone(options, 100),
    }
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} epochs: {value:.3f}" for name, value in errors.items()))
    assert max(errors.values()) < 0.08


def test_other_engines_are_refused():
    import ptychi.api as api

    with pytest.raises(TypeError, match="ProgressiveResolutionWorkflow"):
        coarse_to_fine(api.LSQMLOptions(), [1, 1])


def test_generators_that_are_bound_to_their_frame_size_say_so():
    with pytest.raises(ValueError, match="16 x 16 pixels and cannot work with 32 x 32"):
        coarse_to_fine(options_of(), [1, 1])
