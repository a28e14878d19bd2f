"""States as files: safetensors with a JSON description inside, no pickle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptychi_neural.generators.tensor_files import read_tensors, write_tensors

FORMAT_VERSION = 6
METADATA_KEY = "ptychi_neural_training_state"
State = dict[str, Any]
"""Nested dictionaries, lists and tuples of tensors, numbers, strings and None."""


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
        If it is no state, damaged, of another kind, or of a later format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such training state.")
    content, tensors = read_tensors(path, METADATA_KEY, "training state")
    if content["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{path}: has format {content['format_version']}, this version reads up to "
            f"{FORMAT_VERSION}: upgrade ptychi_neural."
        )
    if content.get("kind") != kind:
        raise ValueError(f"{path}: is the state of a {content.get('kind')}, not of a {kind}.")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{path}: holds NaN or Inf; begin anew, or from an earlier state.")
    with damage_told(path):
        state = _restored(content["state"], tensors)
        return dict(state)


def with_tensors(values: State) -> State:
    """Values whose arrays, in dictionaries too, are tensors, as a state has them."""
    return _converted(values, np.ndarray, torch.from_numpy)


def with_arrays(state: State) -> State:
    """Values of a state whose tensors are arrays."""
    return _converted(state, Tensor, Tensor.numpy)


def _converted(values: State, kind: type, convert: Callable[[Any], Any]) -> State:
    converted = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            converted[key] = _converted(value, kind, convert)
        elif isinstance(value, kind):
            converted[key] = convert(value)
    return converted


@contextmanager
def damage_told(path: str | Path) -> Iterator[None]:
    """Turn what a file of the right kind and the wrong content leads to into an error of its own.

    Raises
    ------
    ValueError
        Naming the file, in the place of any error of a name, type or shape within this block.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path}: is damaged, or the state of something else ({type(error).__name__}: {error})."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
