"""A task's generator: built anew, or a trained one with what comes with it."""

import copy
from typing import cast

import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset

from ptychi_neural.generators import Generator, build_generator
from ptychi_neural.generators.files import load_generator
from ptychi_neural.options import NeuralReconstructorOptions, StartOptions


def completed_options(
    options: NeuralReconstructorOptions, refines_probe: bool
) -> NeuralReconstructorOptions:
    """A copy of the options, with what comes with the generator of ``generator.checkpoint``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is no generator, or was saved with other options than those that are set.
    """
    options = copy.copy(options)
    path = options.generator.checkpoint
    if path is None:
        return options
    _, saved, metadata = load_generator(path)
    try:
        options.generator = options.generator.with_structure_of(saved)
    except ValueError as error:
        raise ValueError(f"generator.checkpoint {path!r}: {error}") from error
    start = StartOptions(from_empty=options.start.from_empty)
    if options.start != start:
        return options
    start.load_from_dict(metadata["start"] | {"from_empty": start.from_empty})
    if refines_probe and start.n_iterations != 0:
        start.n_iterations = None  # A probe yet to be found takes longer than that of training.
    options.start = start
    return options


def batch_size_for(
    options: NeuralReconstructorOptions, network: Generator, dataset: PtychographyDataset
) -> int:
    """Frames in a batch: those of the options, or as many as suit generator and scan."""
    if options.batch_size is not None:
        return options.batch_size
    return network.open_batch_size(len(dataset), dataset.patterns[0].numel())


def generator_for(
    group: PlanarPtychographyParameterGroup, options: NeuralReconstructorOptions
) -> Generator:
    """The generator of a task, with random or with trained weights.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file of a trained one is none, or object or patterns do not fit it.
    """
    n_slices = group.object.n_slices
    patch_shape = cast(tuple[int, int], tuple(group.probe.get_spatial_shape()))
    if options.generator.checkpoint is None:
        network = build_generator(options.generator, n_slices, patch_shape)
    else:
        network, _, metadata = load_generator(options.generator.checkpoint, options.generator)
        if metadata["n_slices"] != n_slices:
            raise ValueError(
                f"generator.checkpoint {options.generator.checkpoint!r}: made for "
                f"{metadata['n_slices']} slices, the object has {n_slices}."
            )
        network.check_patch_shape(patch_shape)
    return network.to(group.object.data.device, torch.get_default_dtype())
