"""A task under ``torchrun``: its process group, and the share of the patterns that each rank keeps.

pty-chi starts a group of GPUs only (docs/several_processes.md). The group of this engine's tasks
sums by gloo on CPUs, and by NCCL on GPUs.
"""

import dataclasses
import os
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ptychi.api.enums import BatchingModes
from ptychi.api.task import PtychographyTask
from ptychi.io_handles import PtychographyDataset
from ptychi.parallel import MultiprocessMixin
from ptychi.utils import to_tensor

from ptychi_neural.counted import counted
from ptychi_neural.engine.arrays import count_unit_of
from ptychi_neural.options import NeuralPtychographyOptions, NeuralReconstructorOptions
from ptychi_neural.options.choices import StitchScopes
from ptychi_neural.physics.ranks import (
    RankLostError,
    Share,
    SharedDataset,
    has_left,
    leave,
    n_ranks,
    rank,
    shares,
    summed,
    summed_numbers,
)


def build_device(task: PtychographyTask, build: Callable[[PtychographyTask], None]) -> None:
    """Build the default device of a task, and on CPUs under a launcher join its process group.

    Parameters
    ----------
    task : PtychographyTask
        A task of this engine.
    build : callable
        pty-chi's own ``build_default_device``.
    """
    join()
    if task.detect_launcher() is not None and task._get_default_device() == "cpu":
        torch.set_default_device("cpu")
    else:
        build(task)


def join() -> None:
    """Join the process group of ``torchrun``, where it has started this process, but not again."""
    is_launched = MultiprocessMixin().detect_launcher() is not None
    if is_launched and not has_left() and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend=backend, init_method="env://")


def go_on_alone() -> None:
    """Go on as a process that nothing has started beside others: engines of pty-chi ask both the
    process group and what ``torchrun`` has set."""
    leave()
    for name in [*os.environ]:
        if name.endswith("WORLD_SIZE") or name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK"):
            del os.environ[name]


def build_data(task: PtychographyTask, build: Callable[[PtychographyTask], None]) -> None:
    """Build the dataset of a task, in counts, on each of several ranks that of its own frames.

    The dataset keeps the value of a count in the unit that it was handed in: ``count_unit``.

    Parameters
    ----------
    task : PtychographyTask
        A task of this engine, with the arrays of the whole scan.
    build : callable
        pty-chi's own ``build_data``.

    Raises
    ------
    ValueError
        If there are more ranks than frames, or the ranks were given different positions, or options
        that need one process.
    """
    n, count_unit = n_ranks(), count_unit_of(task)
    if n == 1:
        build(task)
        _convert(task.dataset, count_unit)
        return
    assert isinstance(task.options, NeuralPtychographyOptions)
    reconstructor = task.options.reconstructor_options
    check_epochs(reconstructor, reconstructor.num_epochs)
    data = task._task_data
    # pty-chi's annotation knows less than it takes.
    y, x = map(to_tensor, (data.probe_position_y_px, data.probe_position_x_px))  # type: ignore[arg-type]
    positions = torch.stack([y, x], 1)
    n_frames = len(positions)
    if n_frames < n:
        raise ValueError(
            f"diffraction_data: {counted(n_frames, 'frames')} for {n} processes; start at most one "
            "for each frame (torchrun --nproc-per-node)."
        )
    _check_same(positions)
    own = shares(n_frames, n)[rank()]
    patterns = data.diffraction_data
    whole = patterns if isinstance(patterns, torch.Tensor) else np.asarray(patterns)
    weights = data.opr_mode_weights_data
    if weights is None:  # pty-chi would make them for as many frames as it sees patterns.
        weights = torch.ones(n_frames, 1)
    task._task_data = dataclasses.replace(
        data, diffraction_data=whole[own.numpy()], opr_mode_weights_data=weights
    )
    build(task)
    _convert(task.dataset, count_unit)
    assert task.dataset is not None
    task.dataset = SharedDataset(task.dataset, Share(own, n_frames))  # type: ignore[assignment]


def _convert(dataset: Any, count_unit: float) -> None:
    """Divide patterns by the value of a count, and keep it."""
    dataset.count_unit = count_unit
    if count_unit != 1:
        dataset.patterns = dataset.patterns / count_unit


def _check_same(positions: torch.Tensor) -> None:
    """Check that all ranks were given the same (n, 2) positions."""
    n, positions = n_ranks(), positions.double()
    (n_positions,) = summed_numbers(len(positions))
    is_same = n_positions == n * len(positions)
    if is_same:
        is_same = torch.allclose(summed(positions) / n, positions)
    (n_same,) = summed_numbers(is_same)
    if n_same < n:
        raise ValueError(
            "probe_position_x_px, probe_position_y_px: differ between the processes; give all of "
            "them the same scan, and the same random_seed where it is drawn."
        )


def check_run(
    options: NeuralReconstructorOptions, n_epochs: int, dataset: PtychographyDataset
) -> None:
    """Refuse a run of no number of epochs, or that the processes that are left cannot have.

    Raises
    ------
    ValueError
        Naming the option and the remedy.
    RankLostError
        If other processes had patterns of this task, and have ended.
    """
    if not isinstance(n_epochs, Integral) or n_epochs < 0:
        raise ValueError(f"n_epochs is {n_epochs!r}; give a whole number of epochs, 0 or more.")
    if isinstance(dataset, SharedDataset) and n_ranks() == 1:
        raise RankLostError(
            "Other processes had patterns of this task and have ended: build a new task."
        )
    check_epochs(options, n_epochs)


def check_epochs(options: NeuralReconstructorOptions, n_epochs: int) -> None:
    """Refuse epochs that cannot be had in several processes.

    Raises
    ------
    ValueError
        Naming the option and the remedy.
    """
    if n_ranks() == 1 or n_epochs == 0:
        return
    one_process = {
        "consistency.scope = 'scan'": options.consistency.scope == StitchScopes.SCAN,
        # The first rank alone would draw random numbers.
        "batching_mode = 'uniform'": options.batching_mode == BatchingModes.UNIFORM,
    }
    for name, is_asked_for in one_process.items():
        if is_asked_for:
            raise ValueError(
                f"reconstructor_options.{name}: needs one process, not {n_ranks()}; choose "
                "another, or start without torchrun."
            )
    if options.random_seed is None:
        raise ValueError(
            "reconstructor_options.random_seed: is not set, so that each process would train "
            "another network; give all of them the same seed."
        )
    (total,) = summed_numbers(options.random_seed)
    if total != n_ranks() * options.random_seed:
        raise ValueError(
            "reconstructor_options.random_seed: differs between the processes; give all of them "
            "the same."
        )
