"""Trained generators as files: one safetensors file, with JSON metadata inside, no pickle."""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

import torch
from ptychi.api.enums import LossFunctions
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from ptychi_neural import __version__
from ptychi_neural.generators.contract import Generator
from ptychi_neural.generators.register import build_generator
from ptychi_neural.generators.tensor_files import read_tensors, write_tensors
from ptychi_neural.options import (
    ConsistencyOptions,
    GeneratorOptions,
    NeuralReconstructorOptions,
    StartOptions,
)
from ptychi_neural.options.choices import Architectures, Lifters, UnrolledNetworks

FORMAT_VERSION = 4
OLDEST_READ = 2
"""Files of earlier formats lack options of today, whose defaults are what they did."""
METADATA_KEY = "ptychi_neural"

CHOICES = {
    "architecture": Architectures,
    "lifter": Lifters,
    "unrolled.network": UnrolledNetworks,
}
"""What others may have registered."""

MOST_SLICES = 1000
SMALL = 10**6
"""Weights of a network that is built whatever the file holds."""
Side = Annotated[int, Field(ge=2, le=2**14)]
"""Pixels along a side of a pattern."""


class NotRegisteredError(LookupError):
    """A file names an architecture, lifter or network that nothing here is registered as."""


class Description(BaseModel):
    """What a file must tell of a generator, within bounds, before anything is built of it."""

    generator: dict[str, Any]
    loss_function: LossFunctions
    start: dict[str, Any]
    consistency: dict[str, Any]
    n_slices: int = Field(ge=1, le=MOST_SLICES)
    patch_shape: tuple[Side, Side]

    @model_validator(mode="after")
    def _check(self) -> "Description":
        self.options()
        StartOptions().load_from_dict(self.start)
        ConsistencyOptions(stitch_weighting=self.consistency["stitch_weighting"])
        return self

    def options(self) -> GeneratorOptions:
        """Options of the network; a file of elsewhere names no further file to be read.

        Raises
        ------
        NotRegisteredError
            If its parts have to be registered first.
        """
        for names, choices in CHOICES.items():
            *group, last = names.split(".")
            value = reduce(lambda d, name: d.get(name, {}), group, self.generator).get(last)
            if isinstance(value, str) and value not in list(choices):
                raise NotRegisteredError(
                    f"generator.{names} = {value!r} is not registered here; import the module that "
                    "registers it first (docs/extending.md)"
                )
        options = GeneratorOptions()
        untrained: dict[str, Any] = {
            "checkpoint": None,
            "optimizer_params": {},
        }  # A script sets how to train it.
        options.load_from_dict({**self.generator, **untrained})
        return options


def save_generator(
    path: str | Path,
    network: Generator,
    options: NeuralReconstructorOptions,
    *,
    overwrite: bool = False,
    **notes: Any,
) -> None:
    """Save a generator's weights, normalisation and options.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file.
    network : Generator
        The generator.
    options : NeuralReconstructorOptions
        Options that it was trained with: its own, loss function, start and consistency are saved.
    overwrite : bool
        Whether an existing file is replaced.
    **notes
        What else should stand in the metadata; JSON types.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        If a weight or the normalisation of the input is not finite.
    """
    metadata = {
        "format_version": FORMAT_VERSION,
        "ptychi_neural_version": __version__,
        "generator": options.generator.get_dict(),
        "loss_function": options.loss_function.value,
        "start": options.start.get_dict()
        | {"total_variation": options.start.total_variation or 0.0},
        "consistency": options.consistency.get_dict(),
        "n_slices": network.n_slices,
        "patch_shape": list(network.patch_shape),
        **notes,
    }
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.tensors().items()
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(
            "The generator holds NaN or Inf and is not saved: it has diverged, or has seen no data "
            "yet, to which task.run(0) fits its normalisation."
        )
    write_tensors(path, METADATA_KEY, metadata, tensors, overwrite)


def load_generator(
    path: str | Path, options: GeneratorOptions | None = None
) -> tuple[Generator, GeneratorOptions, dict[str, Any]]:
    """Load what ``save_generator`` saved.

    Parameters
    ----------
    path : str or Path
        The file.
    options : GeneratorOptions, optional
        Options to build it with, which have the saved structure but may train it otherwise (see
        ``GeneratorOptions.with_structure_of``). None: those that it was saved with.

    Returns
    -------
    network : Generator
        The generator on the CPU, in evaluation mode.
    options : GeneratorOptions
        The options with which it was built.
    metadata : dict
        Everything else that the file tells.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no generator, truncated, of another format or does not fit its own options.
    """
    if not Path(path).is_file():
        held = sorted(file.name for file in Path(path).glob("generator*.safetensors"))
        remedy = f"name {' or '.join(held)} in it" if held else "save one with save_generator"
        raise FileNotFoundError(f"{path}: no such generator; {remedy}.")
    metadata, tensors = read_tensors(path, METADATA_KEY, "generator")
    if not OLDEST_READ <= (version := metadata["format_version"]) <= FORMAT_VERSION:
        remedy = "upgrade ptychi_neural" if version > FORMAT_VERSION else "train it anew"
        raise ValueError(
            f"{path}: format {version} was written by ptychi_neural "
            f"{metadata['ptychi_neural_version']}; this version reads {OLDEST_READ} to "
            f"{FORMAT_VERSION}: {remedy}."
        )
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"{path}: NaN or Inf in {', '.join(bad[:3])}; train the generator anew.")
    try:
        saved = Description.model_validate(metadata)
        if options is None:
            options = saved.options()
        n_held = sum(tensor.numel() for tensor in tensors.values())
        with torch.device("meta"):  # shapes alone
            declared = build_generator(options, saved.n_slices, saved.patch_shape).tensors()
        n_declared = sum(tensor.numel() for tensor in declared.values())
        if n_declared > 2 * n_held + SMALL:
            raise ValueError(
                f"it declares a network of {n_declared:.3g} weights, and holds {n_held:.3g}"
            )
        with torch.device("cpu"):
            network = build_generator(options, saved.n_slices, saved.patch_shape)
            _check_kinds(tensors, network.tensors())
            network.load_tensors(tensors)
    except NotRegisteredError as error:
        raise ValueError(f"{path}: {error}.") from error
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise ValueError(f"{path}: is damaged, or no generator ({error}).") from error
    return network.eval(), options, metadata


def _check_kinds(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights that would be cut to whole numbers, or to their real part."""
    for name, tensor in tensors.items():
        expected = own.get(name, tensor)
        if (tensor.is_floating_point(), tensor.is_complex()) != (
            expected.is_floating_point(),
            expected.is_complex(),
        ):
            raise ValueError(f"{name} holds {tensor.dtype}, not {expected.dtype}")
