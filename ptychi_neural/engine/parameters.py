"""The engine's own members of pty-chi's parameter group: generator and intensity scale."""

import dataclasses
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from ptychi.data_structures.base import ReconstructParameter
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset

from ptychi_neural.generators import Generator
from ptychi_neural.options import GeneratorOptions, NeuralReconstructorOptions
from ptychi_neural.physics.intensity_scale import IntensityScale
from ptychi_neural.physics.ranks import sum_gradients


class GeneratorParameter(ReconstructParameter):
    """A network as a pty-chi parameter, with its own optimiser, plan and scheduler.

    Parameters
    ----------
    network : Generator
        The generator.
    options : GeneratorOptions
        Its options.
    """

    options: GeneratorOptions
    network: Generator

    def __init__(self, network: Generator, options: GeneratorOptions) -> None:
        super().__init__(
            shape=(1,),
            name="generator",
            options=options,
            data_as_parameter=False,
            build_optimizer=False,
        )
        self.network = network
        self.build_optimizer()

    def build_optimizer(self) -> None:
        if self.optimizable:
            self.optimizer = self.optimizer_class(  # type: ignore[operator]
                self.network.parameters(), **self.optimizer_params
            )
            self.build_step_size_scheduler()

    def set_network_requires_grad(self, requires_grad: bool) -> None:
        self.network.requires_grad_(requires_grad)

    def step_optimizer(self, *args: Any, **kwargs: Any) -> None:
        limit = self.options.gradient_clipping or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The generator's gradient became {norm}; object and probe keep their last finite "
                "state. Lower generator.step_size."
            )
        super().step_optimizer(*args, **kwargs)


@dataclasses.dataclass
class NeuralParameterGroup(PlanarPtychographyParameterGroup):
    """pty-chi's parameters and the engine's own."""

    generator: GeneratorParameter
    intensity_scale: IntensityScale

    def fitted(self) -> dict[str, ReconstructParameter]:
        """What a run changes beside the network, by name."""
        return self.of_task() | {"intensity_scale": self.intensity_scale}

    def of_task(self) -> dict[str, ReconstructParameter]:
        """What a script or another task may replace between two runs, by name."""
        parameters = {
            "object": self.object,
            "probe": self.probe,
            "positions": self.probe_positions,
            "opr_mode_weights": self.opr_mode_weights,
        }
        if self.object.is_multislice:
            parameters["slice_spacings"] = self.object.slice_spacings
        return parameters

    def require_gradients(self, epoch: int, settled: Collection[str]) -> None:
        """Ask for gradients of what an epoch refines and is not settled, of all else for none.

        pty-chi sets an attribute of their tensors, to which complex ones do not listen.
        """
        for name, parameter in self.fitted().items():
            is_due = name not in settled and parameter.optimization_enabled(epoch)
            parameter.tensor.requires_grad_(is_due)
        self.object.tensor.requires_grad_(False)
        self.generator.set_network_requires_grad(self.generator.optimization_enabled(epoch))

    def sum_gradients(self) -> None:
        """Sum the gradients of all ranks, each of which has differentiated its part of a loss."""
        parameters = self.get_all_parameters()
        sum_gradients(tensor for each in parameters for tensor in each.parameters())

    def keep_known_weights(self, epoch: int) -> None:
        """Take no gradient along the OPR weights that an epoch does not refine."""
        weights = self.opr_mode_weights
        gradient = weights.get_grad()
        if gradient is None:
            return
        if not weights.intensity_variation_optimization_enabled(epoch):
            gradient[:, 0] = 0
        if not weights.eigenmode_weight_optimization_enabled(epoch):
            gradient[:, 1:] = 0

    @contextmanager
    def known_parts_kept(self, settled: Collection[str]) -> Iterator[None]:
        """Keep pty-chi's constraints after an epoch from modes and weights that are known or
        settled, and from the common factor of object and probe, which is removed when a run ends.
        """
        unwanted: list[Any] = [
            self.object.options.remove_object_probe_ambiguity,
            self.probe.options.center_constraint,  # The engine has moved the object along by then.
        ]
        refines_probe = self.probe.optimizable and "probe" not in settled
        refines_weights = self.opr_mode_weights.optimizable and "opr_mode_weights" not in settled
        if not refines_probe:
            unwanted.append(self.probe.options.orthogonalize_opr_modes)
            unwanted.append(self.probe.options.orthogonalize_incoherent_modes)
        asked = [option.enabled for option in unwanted]
        weights = self.opr_mode_weights.data.detach()
        for option in unwanted:
            option.enabled = False
        try:
            yield
        finally:
            for option, enabled in zip(unwanted, asked):
                option.enabled = enabled
        if not (refines_weights or refines_probe):
            with torch.no_grad():  # pty-chi cuts off what it takes for outliers.
                self.opr_mode_weights.set_data(weights)


def with_generator(
    group: PlanarPtychographyParameterGroup,
    network: Generator,
    options: NeuralReconstructorOptions,
    dataset: PtychographyDataset,
) -> NeuralParameterGroup:
    """Add the engine's own parameters to pty-chi's.

    Parameters
    ----------
    group : PlanarPtychographyParameterGroup
        Object, probe, positions and OPR weights.
    network : Generator
        The generator.
    options : NeuralReconstructorOptions
        Options of generator and scale.
    dataset : PtychographyDataset
        The measured patterns, as ``ptychi_neural.engine.ranks.build_data`` has made them.
    """
    count_unit: float = cast(Any, dataset).count_unit
    return NeuralParameterGroup(
        **vars(group),
        generator=GeneratorParameter(network, options.generator),
        intensity_scale=IntensityScale(options.intensity_scale, count_unit),
    )
