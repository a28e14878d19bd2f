"""Runs from beginning to end: from a run file to a results folder."""

from ptychi_neural.engine.tasks import build_task
from ptychi_neural.runs.infer import InferenceResult, infer
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
