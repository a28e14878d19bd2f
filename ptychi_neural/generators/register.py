"""The register of architectures, and the building of generators from their options."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from ptychi.api.options.base import Options
from torch import nn

from ptychi_neural.generators.contract import Generator
from ptychi_neural.generators.one_shot import OneShot, OneShotNetwork
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.generator import ArchitectureFacts, add_architecture
from ptychi_neural.scans.hdf5 import available_memory

_CLASSES: dict[str, type[Generator] | type[OneShotNetwork]] = {}

Class = TypeVar("Class", bound=type[nn.Module])


def register_architecture(
    name: str, options: type[Options] | None = None, unused: Iterable[str] = ()
) -> Callable[[Class], Class]:
    """Decorate a class so that ``generator.architecture = name`` builds it.

    It then appears in options, run files, saved generators and benchmarks.

    Parameters
    ----------
    name : str
        Name of the architecture, of its member of ``Architectures`` (in capitals), and of its group
        of options in ``GeneratorOptions``.
    options : type, optional
        Class of its own options, a pydantic dataclass like pty-chi's. Its method ``problems``, if
        it has one, tells contradictions. None: it has no options of its own.
    unused : iterable of str
        Names of the options of ``GeneratorOptions`` that have no effect with it.

    Returns
    -------
    callable
        Decorates a ``Generator``, or the ``OneShotNetwork`` of a one-shot one.

    Raises
    ------
    ValueError
        If there is an architecture of that name.
    TypeError
        If the class is neither of the two.
    """

    def registered(cls: Class) -> Class:
        if not issubclass(cls, Generator | OneShotNetwork):
            raise TypeError(f"{cls.__name__}: derive it from Generator or OneShotNetwork.")
        one_shot = issubclass(cls, OneShotNetwork)
        add_architecture(name, ArchitectureFacts(options, frozenset(unused), one_shot))
        _CLASSES[name] = cls
        return cls

    return registered


def build_generator(
    options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
) -> Generator:
    """Build the generator that the options describe, with random weights.

    Parameters
    ----------
    options : GeneratorOptions
        Architecture and its choices.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of patterns and patches in pixels, both even.

    Raises
    ------
    ValueError
        If the options contradict each other or do not fit the patch shape, or the network is larger
        than memory.
    """
    with torch.device("meta"):  # shapes alone
        n_numbers = sum(
            t.numel() for t in _built(options, n_slices, patch_shape).tensors().values()
        )
    size, memory = 4 * n_numbers, available_memory()
    if size > memory:
        raise ValueError(
            f"generator: a network of {n_numbers:.3g} weights takes {size / 2**30:.3g} GiB, more "
            f"than the {memory / 2**30:.3g} GiB of memory that are free; lower width, n_modes or "
            "the number of layers."
        )
    return _built(options, n_slices, patch_shape)


def _built(options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]) -> Generator:
    cls = _CLASSES[options.architecture]
    if issubclass(cls, OneShotNetwork):
        return OneShot(options, n_slices, patch_shape, cls)
    return cls(options, n_slices, patch_shape)
