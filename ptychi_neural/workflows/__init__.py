"""Runs from beginning to end: from a run file to a results folder."""

from ptychi_neural.workflows.benchmark import BenchmarkResult, benchmark
from ptychi_neural.workflows.compare import Comparison, compare
from ptychi_neural.workflows.engines import ENGINES, EngineRun, Snapshot
from ptychi_neural.workflows.infer import InferenceResult, infer
from ptychi_neural.workflows.reconstruct import ReconstructionResult, build_task, reconstruct
from ptychi_neural.workflows.train import (
    MultiscanTrainingWorkflow,
    TrainingResult,
    TrainingScan,
    train,
)
from ptychi_neural.workflows.training_file import read_training_file
from ptychi_neural.workflows.warm_start import NeuralWarmStartWorkflow

__all__ = [
    "ENGINES",
    "BenchmarkResult",
    "Comparison",
    "EngineRun",
    "InferenceResult",
    "MultiscanTrainingWorkflow",
    "NeuralWarmStartWorkflow",
    "ReconstructionResult",
    "Snapshot",
    "TrainingResult",
    "TrainingScan",
    "benchmark",
    "build_task",
    "compare",
    "infer",
    "read_training_file",
    "reconstruct",
    "train",
]
