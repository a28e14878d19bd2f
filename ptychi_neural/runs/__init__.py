"""Runs from beginning to end: from a run file to a results folder."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptychi_neural.engine.tasks import build_task
    from ptychi_neural.runs.infer import infer
    from ptychi_neural.runs.inference import InferenceResult
    from ptychi_neural.runs.reconstruct import reconstruct
    from ptychi_neural.runs.result import ReconstructionResult
    from ptychi_neural.runs.train import TrainingResult, train
    from ptychi_neural.runs.training_file import read_training_file
    from ptychi_neural.runs.warm_start import NeuralWarmStartWorkflow
    from ptychi_neural.training import MultiscanTrainingWorkflow, TrainingScan

__all__ = [
    "InferenceResult",
    "MultiscanTrainingWorkflow",
    "NeuralWarmStartWorkflow",
    "ReconstructionResult",
    "TrainingResult",
    "TrainingScan",
    "build_task",
    "infer",
    "read_training_file",
    "reconstruct",
    "train",
]

_LAZY = {
    "InferenceResult": "ptychi_neural.runs.inference",
    "MultiscanTrainingWorkflow": "ptychi_neural.training",
    "NeuralWarmStartWorkflow": "ptychi_neural.runs.warm_start",
    "ReconstructionResult": "ptychi_neural.runs.result",
    "TrainingResult": "ptychi_neural.runs.train",
    "TrainingScan": "ptychi_neural.training",
    "build_task": "ptychi_neural.engine.tasks",
    "infer": "ptychi_neural.runs.infer",
    "read_training_file": "ptychi_neural.runs.training_file",
    "reconstruct": "ptychi_neural.runs.reconstruct",
    "train": "ptychi_neural.runs.train",
}
"""Names whose modules are imported when they are asked for: a look at a scan needs none of them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Runs(ModuleType):
    """This package, in which ``reconstruct`` is the function and not the module it comes from."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _LAZY:  # An import sets modules as attributes.
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Runs
