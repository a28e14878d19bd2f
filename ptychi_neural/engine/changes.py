"""Options that somebody changed after a task was built: taken up, or refused by name.

pty-chi reads some options whenever it needs them and others once, when a task is built; a change of
the latter has no effect there. Here a run begins by looking for changes. Those that it can honour
reach what was built, all others end it before it has begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ptychi.maps
from ptychi.api.options.base import Options, ParameterOptions
from ptychi.data_structures.base import ReconstructParameter

from ptychi_neural.engine.parameters import GeneratorParameter, NeuralParameterGroup
from ptychi_neural.engine.trained import batch_size_for
from ptychi_neural.options import NeuralPtychographyOptions, NeuralReconstructorOptions
from ptychi_neural.options.refusals import unsupported_options

if TYPE_CHECKING:
    from ptychi_neural.engine.reconstructor import NeuralReconstructor

PARAMETERS = (
    "object_options.slice_spacing_options",
    "probe_options",
    "probe_position_options",
    "opr_mode_weight_options",
    "reconstructor_options.generator",
    "reconstructor_options.intensity_scale",
)
"""Options of what a run fits."""

OF_OPTIMIZERS = ("optimizable", "optimizer", "step_size", "optimizer_params")

PLAN = "optimization_plan"

BATCHES = (
    "reconstructor_options.batch_size",
    "reconstructor_options.batching_mode",
    "reconstructor_options.compact_mode_update_clustering",
    "reconstructor_options.compact_mode_update_clustering_stride",
)

START = "reconstructor_options.start"
"""Options that are taken up until the start has been made."""

TAKEN_UP = (
    *(f"{group}.{name}" for group in PARAMETERS for name in (*OF_OPTIMIZERS, PLAN)),
    *BATCHES,
    START,
    "reconstructor_options.num_epochs",
    "reconstructor_options.generator.gradient_clipping",
    "reconstructor_options.intensity_scale.start_from_data",
    "reconstructor_options.consistency.canvas_update_stride",
    "reconstructor_options.validation.patience",
    "object_options.l1_norm_constraint",
    "object_options.l2_norm_constraint",
    "object_options.total_variation",
    "object_options.remove_object_probe_ambiguity",
    "object_options.build_preconditioner_with_all_modes",
    "probe_options.orthogonalize_incoherent_modes.enabled",
    "probe_options.orthogonalize_incoherent_modes.optimization_plan",
    "probe_options.orthogonalize_incoherent_modes.sort_by_occupancy",
    "probe_options.orthogonalize_opr_modes",
    "probe_options.support_constraint",
    "probe_options.center_constraint",
    "probe_position_options.constrain_position_mean",
    "probe_position_options.correction_options.clip_update_magnitude_by_mad",
    "probe_position_options.correction_options.update_magnitude_limit",
    "probe_position_options.affine_transform_constraint",
    "opr_mode_weight_options.smoothing",
    "opr_mode_weight_options.primary_mode_weight_floor",
)
"""Options, or whole groups of them, whose changes the next run takes up."""


class AskedOptions:
    """The options of a task as its user holds them, and as they were when a run last began.

    Parameters
    ----------
    group : NeuralParameterGroup
        Object, probe, positions and OPR weights, with the options that they were built with.
    reconstructor : NeuralReconstructorOptions
        The options that the reconstructor was built with.
    """

    def __init__(
        self, group: NeuralParameterGroup, reconstructor: NeuralReconstructorOptions
    ) -> None:
        self.groups: dict[str, Any] = {
            "object_options": group.object.options,
            "probe_options": group.probe.options,
            "probe_position_options": group.probe_positions.options,
            "opr_mode_weight_options": group.opr_mode_weights.options,
            "reconstructor_options": reconstructor,
        }
        self._known = dict(self._values())

    def _values(self) -> Iterator[tuple[str, Any]]:
        for name, group in self.groups.items():
            yield from values_of(group, name)

    def changes(self, start_is_made: bool) -> set[str]:
        """Names of the options that have changed since the last call.

        Parameters
        ----------
        start_is_made : bool
            Whether the options of the start are too late.

        Raises
        ------
        ValueError
            Naming what cannot be taken up, and what to do.
        """
        values = dict(self._values())
        changed = {name for name, value in values.items() if not _is_same(value, self._known[name])}
        problems = [
            f"{name}: was changed from {self._known[name]!r} to {values[name]!r} after the task "
            f"was built{', and its start is made' if is_in(name, START) else ''}; change it back, "
            "or build a new task and hand it the result (copy_data_from_task)"
            for name in sorted(changed)
            if not any(is_in(name, entry) for entry in TAKEN_UP)
            or (start_is_made and is_in(name, START))
        ]
        if changed and not problems:
            problems = list(unsupported_options(NeuralPtychographyOptions(**self.groups)))
        if problems:
            raise ValueError(
                "The task cannot go on with these options:\n- " + "\n- ".join(problems)
            )
        self._known = values
        return changed


def take_up(reconstructor: NeuralReconstructor, changed: set[str]) -> None:
    """Let changed options reach what was built with the old ones.

    Parameters
    ----------
    reconstructor : NeuralReconstructor
        The reconstructor.
    changed : set of str
        Dotted names of options.
    """
    group, asked = reconstructor.parameter_group, reconstructor.asked.groups
    of_reconstructor, options = asked["reconstructor_options"], reconstructor.options
    parameters = dict(zip(PARAMETERS, _parameters(group)))
    for prefix, parameter in parameters.items():
        own = asked[prefix.partition(".")[0]]
        own = getattr(own, prefix.partition(".")[2]) if "." in prefix else own
        names = {name.removeprefix(f"{prefix}.") for name in changed if is_in(name, prefix)}
        _take_up_of_parameter(parameter, own, names)
    for name in ("start", "validation", "consistency", "intensity_scale"):
        if any(is_in(full, f"reconstructor_options.{name}") for full in changed):
            setattr(options, name, getattr(of_reconstructor, name))
    if f"{START}.total_variation" in changed:
        reconstructor.start.total_variation = options.start.total_variation
    reconstructor.judge.options = options.validation
    reconstructor.n_epochs = options.num_epochs = of_reconstructor.num_epochs
    if changed.intersection(BATCHES):
        for full in BATCHES[1:]:
            name = full.rpartition(".")[2]
            setattr(options, name, getattr(of_reconstructor, name))
        network = group.generator.network
        options.batch_size = batch_size_for(of_reconstructor, network, reconstructor.dataset)
        reconstructor.batch_size = options.batch_size
        reconstructor.build_dataloader()


def _parameters(group: NeuralParameterGroup) -> tuple[ReconstructParameter, ...]:
    """What has the options that ``PARAMETERS`` names."""
    return (
        group.object.slice_spacings,
        group.probe,
        group.probe_positions,
        group.opr_mode_weights,
        group.generator,
        group.intensity_scale,
    )


def _take_up_of_parameter(
    parameter: ReconstructParameter, asked: ParameterOptions, changed: set[str]
) -> None:
    """Give a parameter its changed options, and a new optimiser if it is to have another."""
    if not changed:
        return
    own = parameter.options
    own.optimization_plan = parameter.optimization_plan = asked.optimization_plan
    if isinstance(parameter, GeneratorParameter):
        parameter.options.gradient_clipping = asked.gradient_clipping  # type: ignore[attr-defined]
    if not any(name in OF_OPTIMIZERS or "scheduler" in name for name in changed):
        return
    for name in OF_OPTIMIZERS:
        setattr(own, name, getattr(asked, name))
    parameter.optimizer_class = ptychi.maps.get_optimizer_by_enum(asked.optimizer)
    parameter.optimizer_params = {"lr": asked.step_size, **asked.optimizer_params}
    parameter.step_size = parameter.optimizer_params["lr"]
    parameter.set_optimizable(asked.optimizable)
    parameter.optimizer = parameter.step_size_scheduler = None
    parameter.build_optimizer()


def values_of(options: Options, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all options in a group; lists and dictionaries are copied."""
    for name, value in vars(options).items():
        if isinstance(value, Options):
            yield from values_of(value, f"{prefix}.{name}")
        elif not name.startswith("_"):
            small = isinstance(value, list | dict) and len(value) < 100
            yield f"{prefix}.{name}", type(value)(value) if small else value


def is_in(name: str, entry: str) -> bool:
    """Whether an option is the one that an entry names, or in the group that it names."""
    return name == entry or name.startswith(f"{entry}.")


def _is_same(value: Any, known: Any) -> bool:
    return value is known or (not hasattr(value, "shape") and bool(value == known))
