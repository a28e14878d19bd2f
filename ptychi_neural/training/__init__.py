"""Training: one generator, many scans."""

from ptychi_neural.training.workflow import Fresh, MultiscanTrainingWorkflow, TrainingScan

__all__ = ["Fresh", "MultiscanTrainingWorkflow", "TrainingScan"]
