"""Tensors with a JSON description in one safetensors file: no pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ptychi_neural.scans.hdf5 import available_memory, replacing

VERSION = "format_version"
"""Key that every description has."""

CHECKSUM = "sha256"
"""Key of the hash by which damage is told."""


def write_tensors(
    path: str | Path,
    key: str,
    description: Mapping[str, Any],
    tensors: dict[str, Tensor],
    overwrite: bool,
) -> None:
    """Write a file in one step: whenever the process dies, there is the earlier one or the new.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file.
    key : str
        Of the description in the file's metadata.
    description : mapping
        What JSON can hold.
    tensors : dict of str to Tensor
        Contiguous real tensors on the CPU.
    overwrite : bool
        Whether an existing file is replaced.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    whole = {**description, CHECKSUM: _checksum(description, tensors)}
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(save(tensors, metadata={key: json.dumps(whole)}))


def read_tensors(path: str | Path, key: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of what ``write_tensors`` wrote.

    Parameters
    ----------
    path : str or Path
        The file.
    key : str
        Of the description.
    what : str
        What the file should be, for the error.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, larger than memory, or has no such description.
    """
    size, memory = Path(path).stat().st_size, available_memory()
    if size > memory:
        raise ValueError(
            f"{path}: has {size / 2**30:.3g} GiB, more than the {memory / 2**30:.3g} GiB of memory "
            "that are free."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            description = json.loads((file.metadata() or {})[key])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}).") from error
    except KeyError as error:
        raise ValueError(f"{path}: has no {key!r} metadata: no {what}.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its {key!r} metadata is no JSON ({error}).") from error
    if not isinstance(description, dict) or not isinstance(description.get(VERSION), int):
        raise ValueError(f"{path}: its {key!r} metadata has no {VERSION!r}: no {what}.")
    written = description.pop(CHECKSUM, None)  # Files of earlier versions have none.
    if written is not None and written != _checksum(description, tensors):
        raise ValueError(f"{path}: is damaged: it does not hold what was written.")
    return description, tensors


def _checksum(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A hash of a description and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(description).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
