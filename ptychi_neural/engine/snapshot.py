"""Copies of all that is fitted, and how a run finds out what happened since the last one."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptychi_neural.engine.parameters import NeuralParameterGroup

LARGEST_SHIFT_PX = 0.05
"""Mean shift of the positions up to which a start that was made with others is kept."""

LARGEST_CHANGE = 0.02
"""Relative change of probe, OPR weights or slice spacings up to which a start is kept."""


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
        fitted = group.fitted()
        for name, data in self.parameters.items():
            fitted[name].set_data(data)
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
    """What a run left behind, from which the next one goes on unless something was replaced."""

    last: Snapshot
    """The last state, which need not be the best that the run left in the task."""

    left: dict[str, Tensor]
    """What the run left in the task: all that ``NeuralParameterGroup.of_task`` names."""

    @classmethod
    def of(cls, last: Snapshot, group: NeuralParameterGroup) -> "Continuation":
        """Take note of what a run leaves in a parameter group."""
        return cls(last, {name: p.data.detach().clone() for name, p in group.of_task().items()})

    def replaced(self, group: NeuralParameterGroup) -> set[str]:
        """Names of what is another than the run left."""
        now = group.of_task()
        return {name for name, data in self.left.items() if not torch.equal(now[name].data, data)}

    def matters(self, group: NeuralParameterGroup, replaced: set[str]) -> bool:
        """Whether what was replaced has moved by more than a start can be kept for."""
        now = group.of_task()
        for name in replaced:
            before, after = self.left[name], now[name].data.detach()
            if name == "positions":
                moved, most = (after - before).square().mean().sqrt(), LARGEST_SHIFT_PX
            else:
                moved, most = (after - before).norm() / before.norm(), LARGEST_CHANGE
            if not moved <= most:
                return True
        return False

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
