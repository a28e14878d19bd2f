"""Makes the engine known to pty-chi: its reconstructor maps, its table and its name of options."""

import functools
from collections.abc import Callable
from typing import Any

import ptychi.api
import ptychi.maps
from ptychi.api.registry import RECONSTRUCTOR_OPTIONS_MAP
from ptychi.api.task import PtychographyTask

import ptychi_neural.generators  # noqa: F401  The architectures add their groups to the options.
from ptychi_neural import options
from ptychi_neural.options.choices import NeuralReconstructors


def register() -> None:
    """Register the engine with pty-chi. Calling it again changes nothing."""
    RECONSTRUCTOR_OPTIONS_MAP[NeuralReconstructors.NEURAL] = {  # type: ignore[index]
        "object_options": options.NeuralObjectOptions,
        "probe_options": options.NeuralProbeOptions,
        "probe_position_options": options.NeuralProbePositionOptions,
        "opr_mode_weight_options": options.NeuralOPRModeWeightsOptions,
        "reconstructor_options": options.NeuralReconstructorOptions,
    }
    # ptychodus finds the options of an engine by the name of their class in ptychi.api.
    ptychi.api.NeuralPtychographyOptions = options.NeuralPtychographyOptions  # type: ignore[attr-defined]
    for name in ("get_reconstructor_by_enum", "get_multiprocess_reconstructor_by_enum"):
        lookup = getattr(ptychi.maps, name)
        if not hasattr(lookup, "knows_neural_engine"):
            setattr(ptychi.maps, name, _knowing_neural_engine(lookup))
    if not hasattr(PtychographyTask.check_task_data, "checks_arrays"):
        PtychographyTask.check_task_data = _with_checked_arrays(  # type: ignore[method-assign]
            PtychographyTask.check_task_data
        )
    for name in ("build_default_device", "build_data"):
        build = getattr(PtychographyTask, name)
        if not hasattr(build, "knows_ranks"):
            setattr(PtychographyTask, name, _with_ranks(build, name.replace("default_", "")))


def _with_checked_arrays(
    check: Callable[[PtychographyTask], None],
) -> Callable[[PtychographyTask], None]:
    """pty-chi's check of a task's arrays, and the engine's own of the engine's tasks."""

    @functools.wraps(check)
    def wrapper(task: PtychographyTask) -> None:
        if not isinstance(task.options, options.NeuralPtychographyOptions):
            return check(task)
        from ptychi_neural.engine.arrays import check_arrays, repair_arrays

        check_arrays(task)
        check(task)
        repair_arrays(task)

    wrapper.checks_arrays = True  # type: ignore[attr-defined]
    return wrapper


def _with_ranks(
    build: Callable[[PtychographyTask], None], name: str
) -> Callable[[PtychographyTask], None]:
    """A step of pty-chi's that builds a task, and the engine's own of its tasks under torchrun."""

    @functools.wraps(build)
    def wrapper(task: PtychographyTask) -> None:
        if not isinstance(task.options, options.NeuralPtychographyOptions):
            return build(task)
        from ptychi_neural.engine import ranks

        getattr(ranks, name)(task, build)

    wrapper.knows_ranks = True  # type: ignore[attr-defined]
    return wrapper


def _knowing_neural_engine(lookup: Callable[[Any], type]) -> Callable[[Any], type]:
    @functools.wraps(lookup)
    def wrapper(key: Any) -> type:
        if key is NeuralReconstructors.NEURAL:
            from ptychi_neural.engine.reconstructor import NeuralReconstructor

            return NeuralReconstructor
        return lookup(key)

    wrapper.knows_neural_engine = True  # type: ignore[attr-defined]
    return wrapper
