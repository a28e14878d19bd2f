"""The contract of all generators: ``object = generator(scan)``."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ptychi_neural.options import GeneratorOptions, StartOptions
from ptychi_neural.physics.scan_physics import ScanPhysics

LARGEST_BATCH = 50
"""Largest number of frames in a batch where the options leave it open: larger batches of one-shot
patches need more epochs to the same error."""


class Generator(nn.Module, ABC):
    """A network that makes an object of what a scan tells: ``object = generator(scan)``.

    Nothing outside of the generators asks which architecture one is: its attributes and methods
    tell what others have to know of it.

    Parameters
    ----------
    options : GeneratorOptions
        The architecture and its choices.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of patterns and patches in pixels, both even.

    Raises
    ------
    ValueError
        If the options contradict each other or do not fit the patch shape.
    """

    n_splits: int = 1
    """Number of splits of the measured pixels that it is fitted with; 1: none is hidden."""

    jackknifed: bool = False
    """Whether objects that it makes without a part of the data tell how far to trust it."""

    def __init__(
        self, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        check_even(patch_shape)
        self.options = options
        self.n_slices = n_slices
        self.patch_shape = patch_shape

    # --- what it makes ----------------------------------------------------------------------

    @abstractmethod
    def forward(self, scan: ScanPhysics) -> Tensor:
        """Make the (n_slices, H, W) complex object of the frames in view."""

    def objects_to_fit(self, scan: ScanPhysics) -> Iterator[tuple[float, Tensor]]:
        """Give the objects whose loss a fit lowers, with the weights of the losses.

        The last one is the object of ``forward``, and has the weight 1.
        """
        yield 1.0, self(scan)

    @abstractmethod
    def fit_normalization(self, scans: Iterable[ScanPhysics]) -> None:
        """Take the units in which the network sees its input from the scans it is trained on.

        Parameters
        ----------
        scans : iterable of ScanPhysics
            The scans, read once and no further than needed.

        Raises
        ------
        ValueError
            If there are no counts at all, non-finite ones, or patterns of another size.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch of training, which are counted from 0."""

    # --- what it needs ----------------------------------------------------------------------

    def open_batch_size(self, n_frames: int, n_pixels: int) -> int:
        """Number of frames in a batch where the options leave it open.

        Parameters
        ----------
        n_frames : int
            Number of frames of the scan.
        n_pixels : int
            Number of detector pixels of a frame.
        """
        return equal_batches(n_frames, LARGEST_BATCH)

    def check_scan(self, scan: ScanPhysics) -> None:
        """Raise a ``ValueError`` if it cannot work with a scan."""

    def check_patch_shape(self, patch_shape: tuple[int, ...]) -> None:
        """Raise a ``ValueError`` if it cannot work with (h, w) patterns, telling what can."""

    # --- a trained generator at work ----------------------------------------------------------

    def patches(self, patterns: Tensor) -> Tensor:
        """(n, n_slices, h, w) patches of (n, h, w) counts alone, DC at the image centre.

        Raises
        ------
        ValueError
            If it needs more than counts.
        """
        raise ValueError(
            f"predict: this {self.options.architecture.value} generator works on the object, for "
            "which it needs probe and positions too; use reconstruct."
        )

    @property
    def networks_at_work(self) -> list[nn.Module]:
        """What takes most of the time of a prediction: networks that are called with one tensor."""
        return [*self.children()]

    @abstractmethod
    def deviation(self, scan: ScanPhysics) -> Tensor:
        """(H, W) disagreement of what makes up the object; nan where nothing tells it."""

    @abstractmethod
    def why_not_frame_by_frame(self, start: StartOptions) -> str | None:
        """Tell why what it makes cannot be added up frame by frame; None if it can."""

    @abstractmethod
    def sums(self, scan: ScanPhysics, n_counted: int | None = None) -> Any:
        """Sums over a batch of frames, which add up to those of more frames.

        The terms are those of ``exactly_added``: the order of frames has no influence. They have an
        attribute ``weight``, the (H, W) sum of the stitching weights.

        Parameters
        ----------
        scan : ScanPhysics
            The scan, with the frames of the batch in view.
        n_counted : int, optional
            Number of frames that are summed, the first of the batch. The others only fill it up,
            because what a network makes of a frame may depend, in the last bits, on how many go
            through it at once. None: all.
        """

    @abstractmethod
    def object_of_sums(self, scan: ScanPhysics, sums: Any) -> Tensor:
        """The (n_slices, H, W) object of all frames that were summed up."""

    @abstractmethod
    def deviation_of_sums(self, scan: ScanPhysics, sums: Any) -> Tensor:
        """(H, W) disagreement of what makes up the object of all frames that were summed up."""

    # --- files --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers as real tensors, ready for files without pickle.

        Complex weights are given as real views with a last axis of 2.
        """
        return {
            name: torch.view_as_real(tensor) if tensor.is_complex() else tensor
            for name, tensor in self._tensors().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``tensors`` returned.

        Raises
        ------
        ValueError
            If names or shapes do not fit: the tensors belong to other options.
        """
        own = self._tensors()
        try:
            complex_tensors = {
                name: torch.view_as_complex(tensor.contiguous())
                if name in own and own[name].is_complex()
                else tensor
                for name, tensor in tensors.items()
            }
            self.load_state_dict(complex_tensors)
        except RuntimeError as error:
            raise ValueError(
                f"The saved weights do not fit a generator of these options: {error}"
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        # neuralop and tltorch may put more than tensors into a state dict.
        return {k: v for k, v in self.state_dict().items() if isinstance(v, Tensor)}


def check_even(patch_shape: tuple[int, ...]) -> None:
    """Raise a ``ValueError`` if a side of the patterns is odd: spectral layers need even ones."""
    if any(side % 2 for side in patch_shape):
        raise ValueError(
            f"Generators take patterns with even sides, got {patch_shape[0]} x {patch_shape[1]} "
            "pixels: crop or pad the diffraction data."
        )


def equal_batches(n_frames: int, largest: int) -> int:
    """Size of equal batches of at most so many frames.

    >>> equal_batches(102, 50)
    34
    """
    return math.ceil(n_frames / math.ceil(n_frames / largest))
