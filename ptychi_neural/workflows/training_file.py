"""Earlier place of ``ptychi_neural.runs.training_file``, which scripts may go on using."""

from ptychi_neural.runs.training_file import TrainingFile, read_training_file

__all__ = ["TrainingFile", "read_training_file"]
