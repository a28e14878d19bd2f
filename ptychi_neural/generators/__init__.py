"""Generators: networks from diffraction patterns to local object patches.

``build_generator`` builds what ``GeneratorOptions`` describe; ``NETWORKS`` is the registry that a
new architecture joins.
"""

from collections.abc import Callable

from torch import nn

from ptychi_neural.generators.architectures.cascaded import Cascaded
from ptychi_neural.generators.architectures.cnn import CNN
from ptychi_neural.generators.architectures.hybrid_uno import HybridUNONetwork
from ptychi_neural.generators.architectures.unrolled import PhysicsOperators, Unrolled
from ptychi_neural.generators.one_shot import Generator, check_even
from ptychi_neural.options.choices import Architectures
from ptychi_neural.options.options import GeneratorOptions

__all__ = ["NETWORKS", "Generator", "PhysicsOperators", "Unrolled", "build_generator"]

NetworkBuilder = Callable[[GeneratorOptions, int, tuple[int, int]], nn.Module]

NETWORKS: dict[Architectures, NetworkBuilder] = {
    Architectures.CASCADED: Cascaded,
    Architectures.HYBRID_UNO: HybridUNONetwork,
    Architectures.CNN: CNN,
}
"""Networks of the one-shot architectures: called with the options, the number of complex patches
that they predict from one input (grid_size**2 * n_slices), and the patch shape."""


def build_generator(
    options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
) -> Generator | Unrolled:
    """Build the generator that the options describe, with random weights.

    Parameters
    ----------
    options : GeneratorOptions
        Architecture and its choices.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of patterns and patches in pixels, both even.

    Returns
    -------
    Generator or Unrolled
        One-shot: a module from (B, grid_size**2, H, W) patterns to complex (B, grid_size**2,
        n_slices, H, W) patches. Unrolled: a module from ``PhysicsOperators`` to patches.

    Raises
    ------
    ValueError
        If the options contradict each other or do not fit the patch shape.
    """
    check_even(patch_shape)
    if options.architecture == Architectures.UNROLLED:
        if n_slices > 1:
            raise ValueError(
                "generator.architecture = 'unrolled' needs a single-slice object, here are "
                f"{n_slices} slices: choose another architecture."
            )
        return Unrolled(options, patch_shape)
    network = NETWORKS[options.architecture](options, options.grid_size**2 * n_slices, patch_shape)
    return Generator(options, network, n_slices, patch_shape)
