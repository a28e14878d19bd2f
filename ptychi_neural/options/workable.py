"""What pty-chi takes and then fails at: optimisers, schedulers, engines with what they refine."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from ptychi.api.enums import Reconstructors
from ptychi.api.options.base import Options, ParameterOptions
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.data_structures.base import ReconstructParameter
from ptychi.maps import get_optimizer_by_enum

from ptychi_neural.counted import uncountable

LARGEST_PX = {"diffraction_pattern_blur_sigma": 100, "pad_for_shift": 1024}
"""Pixels of the forward model that are set by hand, and the most that can be meant."""


def unworkable(options: PtychographyTaskOptions) -> Iterator[str]:
    """Tell what would fail when a task of these options is built or run, a line for each.

    Parameters
    ----------
    options : PtychographyTaskOptions
        Options of any engine.

    Yields
    ------
    str
        The dotted name of an option, what is wrong, and the remedy.
    """
    for name, problem in uncountable(options.get_dict()):
        yield f"{name}: {problem}"
    for name, group in _groups(options):
        if isinstance(group, ParameterOptions) and group.optimizable:
            yield from _unworkable_optimiser(name, group)
    reconstructor = options.reconstructor_options
    for name, most in LARGEST_PX.items():
        value = getattr(reconstructor.forward_model_options, name)
        if value is not None and not 0 <= value <= most:
            name = f"reconstructor_options.forward_model_options.{name}"
            yield f"{name}: {value}: give 0 to {most} pixels"
    if (
        reconstructor.get_reconstructor_type() == Reconstructors.PIE
        and options.probe_options.optimizable
        and reconstructor.batch_size > 1
    ):
        yield (
            f"reconstructor_options.batch_size: 1, not {reconstructor.batch_size}, because pie "
            "refines the probe by one pattern at a time; or choose epie or rpie, or do not refine "
            "the probe"
        )


def _groups(options: Options, prefix: str = "") -> Iterator[tuple[str, Options]]:
    for name, value in options.get_non_data_fields().items():
        if isinstance(value, Options):
            yield prefix + name, value
            yield from _groups(value, f"{prefix}{name}.")


def _unworkable_optimiser(name: str, options: ParameterOptions) -> Iterator[str]:
    """Build what the options ask for, for a parameter of one number, and take a step of each."""
    plan = options.optimization_plan
    steps: tuple[tuple[str, str, str, Any], ...] = (
        ("step_size", "step_size", str(options.step_size), options.step_size),
        ("optimizer", "optimizer", options.optimizer.value, options.optimizer),
        ("optimizer_params", "optimizer_params", "", options.optimizer_params),
        (
            "optimization_plan.step_size_scheduler_class",
            "optimization_plan",
            f"{plan.step_size_scheduler_class} with {plan.step_size_scheduler_options}",
            plan,
        ),
    )
    plain = ParameterOptions(optimizable=True)
    for _, attribute, _, value in steps:
        setattr(plain, attribute, copy.deepcopy(value))
    if _problem(plain) is None:
        return
    plain = ParameterOptions(optimizable=True)  # One thing after the other, to tell which it is.
    for key, attribute, given, value in steps:
        setattr(plain, attribute, copy.deepcopy(value))
        problem = _problem(plain)
        if problem is not None:
            choices = f"; {_choices(options)}" if attribute == "optimizer_params" else ""
            yield f"{name}.{key}: {given or value}: {problem}{choices}"
            return


def _choices(options: ParameterOptions) -> str:
    """What the optimiser takes, with torch's defaults."""
    optimizer = cast(Callable[..., Any], get_optimizer_by_enum(options.optimizer))
    parameters = inspect.signature(optimizer).parameters.values()
    taken = (f"{each.name} = {each.default}" for each in parameters if each.name != "params")
    return f"{options.optimizer.value} takes {', '.join(taken)}"


def _problem(options: ParameterOptions) -> str | None:
    """What torch says when a parameter of these options takes a step; None if it can."""
    try:
        parameter = ReconstructParameter(shape=(1,), name="", options=copy.deepcopy(options))
        assert parameter.optimizer is not None
        parameter.tensor.grad = torch.zeros(1)
        parameter.optimizer.step(lambda: torch.zeros(1))
        parameter.step_step_size_scheduler()
    except Exception as error:  # Whatever torch makes of it.
        return str(error)
    return None
