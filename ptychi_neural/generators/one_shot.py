"""One-shot generators: patterns -> lifter -> network -> complex patches -> stitched object."""

import functools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ptychi_neural.generators.contract import Generator, check_even
from ptychi_neural.generators.heads import with_coarse_periphery
from ptychi_neural.generators.lifters import build_lifter
from ptychi_neural.generators.overlap import OverlapSums, overlap_sums
from ptychi_neural.options import GeneratorOptions, StartOptions
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.stitching import Canvas


class OneShotNetwork(nn.Module):
    """Base of the networks of one-shot generators, each of which ends in a head.

    A network is built from ``(options, n_patches, patch_shape)``: the generator's options, the
    number of complex patches to predict (grid_size**2 * n_slices, twice as many where their
    peripheries are predicted too), and (h, w) of a patch in pixels.
    """

    rough_loss_weight: float = 0.0
    """Weight of an auxiliary loss on the patches of a first stage; 0: there is none."""

    reach: float = 0.0
    """Distance of the scan positions, in sides of a patch, whose patterns it sees along with one;
    0: it sees each pattern by itself, or the groups of ``grid_size``."""

    def forward(self, features: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from (B, width, H, W) features."""
        raise NotImplementedError

    def forward_among(self, features: Tensor, places: Tensor, n_asked: int) -> Tensor:
        """Patches of the first ones of some patterns, which see all of them within ``reach``.

        Parameters
        ----------
        features : Tensor
            (B, width, H, W) features of the patterns.
        places : Tensor
            (B, 2) positions in sides of a patch.
        n_asked : int
            Number of patterns whose patches are asked for.

        Returns
        -------
        Tensor
            Complex (n_asked, n_patches, H, W) patches.
        """
        raise NotImplementedError

    def forward_with_rough(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Refined patches, and those of the first stage, both (B, n_patches, H, W).

        Raises
        ------
        ValueError
            If there is no first stage that makes patches.
        """
        raise ValueError(
            'Only the cascade has a rough object: set generator.architecture to "cascaded".'
        )

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch of training, which are counted from 0."""

    def why_not_resized(self, options: GeneratorOptions, coarser: bool) -> str | None:
        """Tell why it cannot work with frames of another size than it was trained with.

        None where it can: frames of another size are the same field of view, sampled more finely,
        or more coarsely.
        """
        return "its convolutions know only the pixel size of their training"


class OneShot(Generator):
    """A generator that makes a patch of every pattern, and stitches them.

    Patches are factors of the object that the scan starts from.

    Parameters
    ----------
    options : GeneratorOptions
        Options of lifter and network.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of patterns and patches in pixels.
    network_class : type
        The network of the architecture.
    """

    def __init__(
        self,
        options: GeneratorOptions,
        n_slices: int,
        patch_shape: tuple[int, int],
        network_class: type[OneShotNetwork],
    ) -> None:
        super().__init__(options, n_slices, patch_shape)
        self.n_patterns = options.grid_size**2
        n_patches = self.n_patterns * n_slices
        if options.periphery_binning > 1:
            n_patches *= 2  # The second half are the peripheries of the first.
        network = network_class(options, n_patches, patch_shape)
        self.lifter = build_lifter(options, n_slices, patch_shape)
        self.network = network

    def forward(self, scan: ScanPhysics) -> Tensor:
        """The (n_slices, H, W) object stitched of the patches of the frames in view."""
        # A gradient needs all frames of a minibatch at once.
        batches = () if torch.is_grad_enabled() else scan.batches
        batches = batches or (scan.model.own(scan.frames),)
        canvases = (self._canvas(scan, batch) for batch in batches)
        return scan.stitched(functools.reduce(Canvas.__add__, canvases))

    def objects_to_fit(self, scan: ScanPhysics) -> Iterator[tuple[float, Tensor]]:
        """The rough object of a cascade, where its loss is asked for, and the object."""
        weight = self.network.rough_loss_weight
        if weight == 0:
            yield from super().objects_to_fit(scan)
            return
        if len(scan.frames) == 0:
            for of_loss in (weight, 1.0):
                yield of_loss, scan.stitched(Canvas.of_nothing(scan.start))
            return
        members, start, inputs = self._input_at(scan, scan.frames)
        refined, rough = self.network.forward_with_rough(self._lift(inputs))
        # The rough patches come first: the refined ones are to be the latest of the scan.
        for of_loss, factors in ((weight, rough), (1.0, refined)):
            patches = start * self._as_groups(factors).flatten(0, 1)
            yield of_loss, scan.stitched(scan.accumulate(members, patches))

    def patches_at(self, scan: ScanPhysics, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Patches of some frames and, with a grid, of their neighbours.

        Returns
        -------
        members : Tensor
            (m,) indices of the positions that the patches belong to, m = n grid_size**2.
        patches : Tensor
            (m, n_slices, h, w) local patches.
        """
        if self.network.reach > 0:
            return frames, scan.start_patches(frames) * self._among_neighbours(scan, frames)
        members, start, inputs = self._input_at(scan, frames)
        return members, start * self.factors(inputs).flatten(0, 1)

    def factors(self, inputs: Tensor) -> Tensor:
        """Predict what multiplies the starting object under some positions.

        Parameters
        ----------
        inputs : Tensor
            A (B, grid_size**2, H, W) real tensor of counts with DC at the image centre; for the
            backprojection lifter a complex (B, grid_size**2, n_slices, H, W) tensor of updates.

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
        return self._as_groups(self.network(self._lift(inputs)))

    def patches(self, patterns: Tensor) -> Tensor:
        if self.lifter.sees_updates:
            needs = f"generator.lifter = {self.options.lifter.value!r} needs"
        elif self.network.reach > 0:
            needs = f"generator.architecture = {self.options.architecture.value!r} needs the"
            needs += " neighbours, so"
        elif self.n_patterns > 1:
            needs = f"generator.grid_size = {self.options.grid_size} needs the neighbours, so"
        else:
            return self.factors(patterns[:, None])[:, 0]
        raise ValueError(f"predict: {needs} probe and positions too; use reconstruct.")

    def fit_normalization(self, scans: Iterable[ScanPhysics]) -> None:
        self.fit_lifter(
            self._features(scan, batch).detach() for scan in scans for batch in scan.batches
        )

    @torch.no_grad()
    def fit_lifter(self, features: Iterable[Tensor]) -> None:
        """Take the statistics with which the lifter normalises; no-op where it needs none.

        Parameters
        ----------
        features : iterable of Tensor
            Batches of (n, H, W) real patterns with DC at the image centre, read once; for the
            backprojection lifter batches of complex updates of any shape.

        Raises
        ------
        ValueError
            If there are no counts at all, non-finite ones, or patterns of another size.
        """
        self.lifter.fit(features)

    def begin_epoch(self, epoch: int) -> None:
        self.network.begin_epoch(epoch)

    def check_scan(self, scan: ScanPhysics) -> None:
        if scan.model.share is not None and (self.n_patterns > 1 or self.network.reach > 0):
            name = "grid_size" if self.n_patterns > 1 else "architecture"
            raise ValueError(
                f"generator.{name} = {getattr(self.options, name)!s}: sees patterns of neighbours, "
                "which other processes have; set generator.grid_size to 1 and choose a network of "
                "single patterns, or start without torchrun."
            )
        scan.model.neighbours(self.options.grid_size)

    def check_patch_shape(self, patch_shape: tuple[int, ...]) -> None:
        """Refuse patterns of a size for which the generator was not made.

        A one-shot generator passes from one size to another, frames being the same field of view
        sampled more or less finely, where what it sees lies in real space as what it predicts does
        (a pattern's pixels are reciprocal to those of its patch: no resampling serves both), and
        nothing but spectral layers and 1x1 convolutions works on the new grid.

        Raises
        ------
        ValueError
            If it cannot, telling why and what can.
        """
        if tuple(self.patch_shape) == tuple(patch_shape):
            return
        coarser = any(new < old for new, old in zip(patch_shape, self.patch_shape))
        reasons = [self.network.why_not_resized(self.options, coarser)]
        if not self.lifter.sees_updates:
            reasons.append(
                f"with generator.lifter = {self.options.lifter.value!r} it sees detector pixels, "
                "which are reciprocal to those that it predicts"
            )
        why = ", and ".join(reason for reason in reasons if reason is not None)
        if not why:
            return
        raise ValueError(
            f"The generator (architecture {self.options.architecture.value!r}) was trained with "
            f"frames of {self.patch_shape[0]} x {self.patch_shape[1]} pixels and cannot work with "
            f"{patch_shape[0]} x {patch_shape[1]}: {why}. Crop or bin the frames alike, train a "
            "generator for this size, or one that takes any: generator.architecture = 'unrolled' "
            "(at the same pixel size), or 'cascaded' with lifter = 'backprojection', block = 'fno' "
            "and shallow_cnn = False."
        )

    def why_not_frame_by_frame(self, start: StartOptions) -> str | None:
        if self.n_patterns > 1:
            return f"generator.grid_size = {self.options.grid_size} takes neighbours together"
        if self.network.reach > 0:
            return f"{self.options.architecture.value!r} takes neighbours together"
        if start.n_iterations != 0:
            return "this generator was trained to start from projections of all frames"
        return None

    def sums(self, scan: ScanPhysics, n_counted: int | None = None) -> OverlapSums:
        members, patches = self.patches_at(scan, scan.frames)
        return overlap_sums(scan, members[:n_counted], patches[:n_counted])

    def object_of_sums(self, scan: ScanPhysics, sums: OverlapSums) -> Tensor:
        return sums.canvas.object(scan.start).to(scan.start.dtype)

    def deviation_of_sums(self, scan: ScanPhysics, sums: OverlapSums) -> Tensor:
        return sums.standard_deviation()

    def deviation(self, scan: ScanPhysics) -> Tensor:
        of_batches = (self.sums(scan.of(batch)) for batch in scan.batches)
        total = functools.reduce(OverlapSums.__add__, of_batches)
        return total.of_all_ranks().standard_deviation()

    def _canvas(self, scan: ScanPhysics, frames: Tensor) -> Canvas:
        """Sums of the patches of some frames; a rank may have none of a batch."""
        if len(frames) == 0:
            return Canvas.of_nothing(scan.start)
        return scan.accumulate(*self.patches_at(scan, frames))

    def _among_neighbours(self, scan: ScanPhysics, frames: Tensor) -> Tensor:
        """(n, n_slices, h, w) factors of some frames, which see all positions around them."""
        with torch.no_grad():
            side = torch.tensor(self.patch_shape)
            places = scan.model.positions(scan.model.everything).detach() / side
            near = torch.cdist(places[frames], places).amin(0) <= self.network.reach
            near[frames] = False
            seen = torch.cat([frames, near.nonzero()[:, 0]])
        features = self._lift(self._features(scan, seen)[:, None])
        factors = self.network.forward_among(features, places[seen], len(frames))
        return self._as_groups(factors)[:, 0]

    def _input_at(self, scan: ScanPhysics, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Members of the groups of some frames, the patches they start from, and the input."""
        members = scan.model.neighbours(self.options.grid_size)[frames.cpu()].to(frames.device)
        flat = members.flatten()
        inputs = self._features(scan, flat).unflatten(0, members.shape)
        return flat, scan.start_patches(flat), inputs

    def _features(self, scan: ScanPhysics, frames: Tensor) -> Tensor:
        """(n, h, w) counts, or (n, n_slices, h, w) updates of the patches of the start."""
        if not self.lifter.sees_updates:
            return scan.patterns(frames)
        with torch.no_grad():
            return scan.patch_update(frames, scan.start_patches(frames))

    def _lift(self, inputs: Tensor) -> Tensor:
        shape = tuple(inputs.shape)
        lead: tuple[int, ...] = (self.n_patterns,)
        if self.lifter.sees_updates:
            lead = (self.n_patterns, self.n_slices)
        if len(shape) != len(lead) + 3 or shape[1:-2] != lead:
            expected = ", ".join(["B", *map(str, lead), "H", "W"])
            raise ValueError(f"The generator expects an input of ({expected}), got {shape}.")
        check_even(shape[-2:])
        return self.lifter(inputs)

    def _as_groups(self, patches: Tensor) -> Tensor:
        binning = self.options.periphery_binning
        if binning > 1:
            height, width = self.patch_shape
            coarse_shape = math.ceil(height / binning), math.ceil(width / binning)
            patches = with_coarse_periphery(patches, coarse_shape, self.options.fine_window)
        return patches.unflatten(1, (self.n_patterns, self.n_slices))
