"""Resumable training state: safetensors with a JSON description inside, no pickle.

It holds what a fit goes on from: generator, probe, positions and scale with their optimisers and
schedulers, the objects that the projections made, epoch, best state, tables and random state. The
data are not in it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ptychi.data_structures.base import ReconstructParameter
from ptychi.utils import move_nested_tensors_to_device
from torch import Tensor
from torch.utils.data import DataLoader

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.generators.tensor_files import read_tensors, write_tensors

FORMAT_VERSION = 2
METADATA_KEY = "ptychi_neural_training_state"
State = dict[str, Any]
"""Nested dictionaries, lists and tuples of tensors, numbers, strings and None."""

ATTRIBUTES = (
    "current_epoch",
    "_unprojected",
    "_splits_started",
    "_n_projected",
    "_total_variation",
    "_best",
    "_best_loss",
    "_patience_from",
    "_last",
    "_normalization_pending",
    "_assembled",
    "_peak_amplitude",
    "_finished",
)
"""Attributes of a reconstructor that change while it runs."""

BATCHES = ("clusters_of_indices", "batches_of_indices")
"""Where pty-chi's compact and uniform samplers keep their batches."""


# --- one scan ----------------------------------------------------------------------------------


def save_training_state(path: str | Path, reconstructor: NeuralReconstructor) -> None:
    """Save the state of a reconstruction between two runs, in the place of an earlier one.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file. It is replaced in one step: whenever the process dies, the file
        is the old or the new one.
    reconstructor : NeuralReconstructor
        ``task.reconstructor``.
    """
    state = {"scan": reconstructor_state(reconstructor), "random": random_state()}
    write_state(path, "reconstruction", state)


def load_training_state(path: str | Path, reconstructor: NeuralReconstructor) -> None:
    """Take up the state of a reconstruction, so that it goes on as if it had never ended.

    Parameters
    ----------
    path : str or Path
        The file.
    reconstructor : NeuralReconstructor
        ``task.reconstructor`` of a task with the same data and options.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no state of a reconstruction, or that of another scan or other options.
    """
    state = read_state(path, "reconstruction")
    try:
        restore_reconstructor(reconstructor, state["scan"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    restore_random_state(state["random"])


def reconstructor_state(reconstructor: NeuralReconstructor, generator: bool = True) -> State:
    """What a reconstructor goes on from; tensors are its own, not copies.

    Parameters
    ----------
    reconstructor : NeuralReconstructor
        The reconstructor.
    generator : bool
        Whether the generator and its optimiser belong to the state.
    """
    group, model = reconstructor.parameter_group, reconstructor.model
    parameters = reconstructor.fitted()
    loader = _loader(reconstructor)
    sampler = loader.batch_sampler
    state: State = {
        "counts": _counts(reconstructor),
        "attributes": {name: getattr(reconstructor, name) for name in ATTRIBUTES},
        "parameters": {name: dict(p.state_dict()) for name, p in parameters.items()},
        "optimizers": {name: optimizer_state(p) for name, p in parameters.items()},
        "start_objects": model.start_objects,
        "scan_patches": None if model.scan_patches is None else model.scan_patches.patches,
        "batches": {name: getattr(sampler, name) for name in BATCHES if hasattr(sampler, name)},
        "shuffle": loader.generator.get_state(),
        "losses": reconstructor.loss_tracker.table.to_dict("list"),
        "validation": reconstructor.validation.to_dict("list"),
    }
    if generator:
        state["generator"] = group.generator.network.tensors()
        state["optimizers"]["generator"] = optimizer_state(group.generator)
    return state


def restore_reconstructor(reconstructor: NeuralReconstructor, state: State) -> None:
    """Give a newly built reconstructor the state that ``reconstructor_state`` returned.

    Raises
    ------
    ValueError
        If the state is that of another scan or of other options.
    """
    if state["counts"] != _counts(reconstructor):
        raise ValueError(
            f"the state is that of a scan with {state['counts']} counts, this one has "
            f"{_counts(reconstructor)}: load the same frames."
        )
    group, model = reconstructor.parameter_group, reconstructor.model
    parameters = reconstructor.fitted()
    device = group.object.data.device
    try:
        for name, parameter in parameters.items():
            parameter.load_state_dict(state["parameters"][name])
    except RuntimeError as error:
        raise ValueError(f"the state is that of other options: {error}") from error
    if "generator" in state:
        group.generator.network.load_tensors(state["generator"])
        restore_optimizer(group.generator, state["optimizers"]["generator"])
    for name, parameter in parameters.items():
        restore_optimizer(parameter, state["optimizers"][name])
    for name, value in state["attributes"].items():
        setattr(reconstructor, name, move_nested_tensors_to_device(value, device))
    model.start_objects = move_nested_tensors_to_device(state["start_objects"], device)
    if model.scan_patches is not None:
        model.scan_patches.patches = state["scan_patches"].to(device)
        model.scan_patches.refresh()
    for name, batches in state["batches"].items():
        setattr(_loader(reconstructor).batch_sampler, name, batches)
    _loader(reconstructor).generator.set_state(state["shuffle"])
    if state["losses"]["epoch"]:
        reconstructor.loss_tracker.table = pd.DataFrame(state["losses"])
    if state["validation"]["step"]:
        reconstructor.validation_course = [*zip(*state["validation"].values())]


def _loader(reconstructor: NeuralReconstructor) -> DataLoader[Any]:
    loader = reconstructor.dataloader
    assert loader is not None
    return loader


def _counts(reconstructor: NeuralReconstructor) -> float:
    """Sum of all counts, by which a scan is known again."""
    return float(reconstructor.dataset.patterns.sum(dtype=torch.float64))


def optimizer_state(parameter: ReconstructParameter) -> State:
    """State of a parameter's optimiser and scheduler, where it has them."""
    parts = {"optimizer": parameter.optimizer, "scheduler": parameter.step_size_scheduler}
    return {name: part.state_dict() for name, part in parts.items() if part is not None}


def restore_optimizer(parameter: ReconstructParameter, state: State) -> None:
    """Give a parameter's optimiser and scheduler the state of ``optimizer_state``.

    Raises
    ------
    ValueError
        If the parameter has others than the state.
    """
    if set(state) != set(optimizer_state(parameter)):
        raise ValueError(
            f"the state is that of other options: {parameter.name} had {sorted(state)}, now it "
            f"has {sorted(optimizer_state(parameter))}."
        )
    if parameter.optimizer is not None:
        parameter.optimizer.load_state_dict(state["optimizer"])
    if parameter.step_size_scheduler is not None:
        parameter.step_size_scheduler.load_state_dict(state["scheduler"])
    parameter.sync_step_size_from_optimizer()


# --- random numbers ----------------------------------------------------------------------------


def random_state() -> State:
    """State of the random numbers of torch, NumPy and Python."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def restore_random_state(state: State) -> None:
    """Set what ``random_state`` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Let a block draw random numbers, or seed them, without an effect on what follows."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


# --- files -------------------------------------------------------------------------------------


def write_state(path: str | Path, kind: str, state: State) -> None:
    """Write a state in the place of an earlier one, in one step.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file.
    kind : str
        What it is the state of.
    state : State
        The state.

    Raises
    ------
    TypeError
        If it holds other than tensors, numbers, strings and None.
    """
    tensors: dict[str, Tensor] = {}
    content = {"format_version": FORMAT_VERSION, "kind": kind, "state": _described(state, tensors)}
    write_tensors(path, METADATA_KEY, content, tensors, overwrite=True)


def read_state(path: str | Path, kind: str) -> State:
    """Read what ``write_state`` wrote; tensors are on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no state, of another kind, or of a later format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such training state.")
    content, tensors = read_tensors(path, METADATA_KEY, "training state")
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: has format {content['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}: upgrade ptychi_neural."
        )
    if content["kind"] != kind:
        raise ValueError(f"{path}: is the state of a {content['kind']}, not of a {kind}.")
    return _restored(content["state"], tensors)


def _described(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors put aside."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06}"
        real = torch.view_as_real(value) if value.is_complex() else value
        tensors[name] = real.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name, "complex": value.is_complex()}
    if isinstance(value, dict):
        items = [[key, _described(item, tensors)] for key, item in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        sequence = "list" if isinstance(value, list) else "tuple"
        return {sequence: [_described(item, tensors) for item in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A training state cannot hold a {type(value).__name__}.")


def _restored(described: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(described, dict):
        return described
    if "tensor" in described:
        tensor = tensors[described["tensor"]]
        return torch.view_as_complex(tensor) if described["complex"] else tensor
    if "dict" in described:
        return {key: _restored(item, tensors) for key, item in described["dict"]}
    if "list" in described:
        return [_restored(item, tensors) for item in described["list"]]
    return tuple(_restored(item, tensors) for item in described["tuple"])
