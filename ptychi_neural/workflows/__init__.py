"""Runs from beginning to end: from a run file to a results folder."""

from ptychi_neural.workflows.reconstruct import ReconstructionResult, build_task, reconstruct

__all__ = ["ReconstructionResult", "build_task", "reconstruct"]
