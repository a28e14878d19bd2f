"""Copies of all that is fitted, and how a run finds out what happened since the last one."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptychi_neural.engine.parameters import NeuralParameterGroup


@dataclass
class Snapshot:
    """Copies of all that is fitted, in the working units of a run."""

    parameters: dict[str, Tensor]
    """What ``NeuralParameterGroup.fitted`` names."""

    generator: dict[str, Any]
    """State of the network."""

    @classmethod
    def of(cls, group: NeuralParameterGroup) -> "Snapshot":
        """Copy the state of a parameter group."""
        return cls(
            {name: p.data.detach().clone() for name, p in group.fitted().items()},
            copy.deepcopy(group.generator.network.state_dict()),
        )

    @property
    def is_finite(self) -> bool:
        """Whether no number in it is NaN or infinite, the generator's unfitted statistics apart."""
        return all(bool(data.isfinite().all()) for data in self.parameters.values())

    @torch.no_grad()
    def restore(self, group: NeuralParameterGroup) -> None:
        """Give a parameter group this state."""
        for name, parameter in group.fitted().items():
            parameter.set_data(self.parameters[name])
        group.generator.network.load_state_dict(self.generator)

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return self.parameters | {"generator": self.generator}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any] | None) -> "Snapshot | None":
        """What ``state_dict`` gave; None for None."""
        if state is None:
            return None
        parameters = dict(state)
        generator = parameters.pop("generator")
        return cls(parameters, generator)


@dataclass
class Continuation:
    """What a run left behind, from which the next one goes on unless another task changed it."""

    last: Snapshot
    """The last state, which need not be the best that the run left in the task."""

    left: dict[str, Tensor]
    """Object and probe as the run left them in the task."""

    @classmethod
    def of(cls, last: Snapshot, group: NeuralParameterGroup) -> "Continuation":
        """Take note of what a run leaves in a parameter group."""
        return cls(last, {name: data.clone() for name, data in _shared(group).items()})

    def is_untouched(self, group: NeuralParameterGroup) -> bool:
        """Whether object and probe are as the run left them."""
        return all(torch.equal(data, self.left[name]) for name, data in _shared(group).items())

    def object_was_replaced(self, group: NeuralParameterGroup) -> bool:
        """Whether the object is another than the run left."""
        return not torch.equal(_shared(group)["object"], self.left["object"])

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {"last": self.last.state_dict(), "left": self.left}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any] | None) -> "Continuation | None":
        """What ``state_dict`` gave; None for None."""
        if state is None:
            return None
        last = Snapshot.from_state_dict(state["last"])
        assert last is not None
        return cls(last, state["left"])


def _shared(group: NeuralParameterGroup) -> dict[str, Tensor]:
    """What another task may change between two runs."""
    return {"object": group.object.data.detach(), "probe": group.probe.data.detach()}
