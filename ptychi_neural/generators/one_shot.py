"""The generator: patterns -> lifter -> network -> head -> complex object patches."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ptychi_neural.generators.architectures.cascaded import Cascaded
from ptychi_neural.generators.lifters import build_lifter
from ptychi_neural.generators.saved_tensors import SavedTensors
from ptychi_neural.options.choices import Lifters
from ptychi_neural.options.options import GeneratorOptions


class Generator(SavedTensors):
    """A one-shot generator: a lifter, and a network that ends in its head.

    Parameters
    ----------
    options : GeneratorOptions
        Options of the lifter.
    network : nn.Module
        Maps (B, width, H, W) features to complex (B, grid_size**2 * n_slices, H, W) patches.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of patterns and patches in pixels.
    """

    def __init__(
        self,
        options: GeneratorOptions,
        network: nn.Module,
        n_slices: int,
        patch_shape: tuple[int, int],
    ) -> None:
        super().__init__()
        self.lifter_type = options.lifter
        """What ``forward`` takes: complex features for BACKPROJECTION, else patterns."""
        self.n_patterns = options.grid_size**2
        self.n_slices = n_slices
        self.patch_shape = patch_shape
        self.lifter = build_lifter(options, n_slices, patch_shape)
        self.network = network

    def forward(self, patterns: Tensor) -> Tensor:
        """Predict the patches under some scan positions.

        Parameters
        ----------
        patterns : Tensor
            A (B, grid_size**2, H, W) real tensor of counts with DC at the image centre; for the
            backprojection lifter a complex (B, grid_size**2, n_slices, H, W) tensor of features.

        Returns
        -------
        Tensor
            A complex (B, grid_size**2, n_slices, H, W) tensor of patches around 1 + 0i.

        Raises
        ------
        ValueError
            If the input has the wrong number of dimensions, patterns or slices, or an odd side.
        RuntimeError
            If the lifter needs statistics of the scan and has none (see ``fit_normalization``).
        """
        return self._as_groups(self.network(self._lift(patterns)))

    def forward_with_rough(self, patterns: Tensor) -> tuple[Tensor, Tensor]:
        """Refined and rough patches of a cascade, both as ``forward`` returns them.

        Raises
        ------
        ValueError
            If the generator is no cascade, or one without a rough object.
        """
        if not isinstance(self.network, Cascaded):
            raise ValueError(
                'Only the cascade has a rough object: set generator.architecture to "cascaded".'
            )
        refined, rough = self.network.forward_with_rough(self._lift(patterns))
        return self._as_groups(refined), self._as_groups(rough)

    def fit_normalization(self, patterns: Iterable[Tensor]) -> None:
        """Take the statistics with which the lifter normalises; no-op where it needs none.

        Parameters
        ----------
        patterns : iterable of Tensor
            Batches of (n, H, W) real patterns with DC at the image centre, read once; for the
            backprojection lifter batches of complex features of any shape.

        Raises
        ------
        ValueError
            If there are no counts at all, non-finite ones, or patterns of another size.
        """
        with torch.no_grad():
            self.lifter.fit(patterns)

    def _lift(self, patterns: Tensor) -> Tensor:
        shape = tuple(patterns.shape)
        lead: tuple[int, ...] = (self.n_patterns,)
        if self.lifter_type is Lifters.BACKPROJECTION:
            lead = (self.n_patterns, self.n_slices)
        if len(shape) != len(lead) + 3 or shape[1:-2] != lead:
            expected = ", ".join(["B", *map(str, lead), "H", "W"])
            raise ValueError(f"The generator expects an input of ({expected}), got {shape}.")
        check_even(shape[-2:])
        return self.lifter(patterns)

    def _as_groups(self, patches: Tensor) -> Tensor:
        return patches.unflatten(1, (self.n_patterns, self.n_slices))


def check_even(patch_shape: tuple[int, ...]) -> None:
    """Raise a ``ValueError`` if a side of the patterns is odd: spectral layers need even ones."""
    if any(side % 2 for side in patch_shape):
        raise ValueError(
            f"Generators take patterns with even sides, got {patch_shape[0]} x {patch_shape[1]} "
            "pixels: crop or pad the diffraction data."
        )
