"""Unrolled generator: data-consistency updates of the object, each corrected by a small network.

From the starting object O, K times, with u(O) the back-projected update of the measured counts,
a_k and m_k the learned step (from 1) and momentum (from 0):

    O_k+1 = O_k + a_k u(O_k) + m_k (O_k - O_k-1) + net_k(O_k, u(O_k)).

The network works on the stitched object, not on its patches: it sees across their borders, what
it makes is consistent as it is, and every pixel passes it once instead of once for each frame that
covers it. Architectures of this kind: Gregor & LeCun, ICML 2010; Aggarwal et al., IEEE TMI 38, 394
(2019).
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ptychi_neural.generators.contract import Generator, equal_batches
from ptychi_neural.generators.correcting_networks import CorrectingNetwork
from ptychi_neural.generators.correcting_networks.network import unrolled_options
from ptychi_neural.generators.exact_sums import exactly_added
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.generators.unrolled_options import UnrolledOptions
from ptychi_neural.options import GeneratorOptions, StartOptions
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.stitching import Canvas, coverage

ORIENTATIONS = (0, 7, 3, 4, 1, 2, 5, 6)
"""The eight orientations of a square: bits for flips along x and y and the transposition that
follows them. The first few are as different as they can be."""


class ObjectPhysics(Protocol):
    """What the generator asks of a scan: physics of (n_slices, H, W) complex objects."""

    @property
    def start(self) -> Tensor:
        """The object to start from."""

    @property
    def coverage(self) -> Tensor:
        """(H, W) from 0, where the scan tells nothing, to 1."""

    def update(self, object_: Tensor) -> Tensor:
        """Step of the object to the measured counts, back-projected through the probe."""


@register_architecture(
    "unrolled",
    UnrolledOptions,
    unused=("lifter", "shallow_cnn", "head", "maximum_amplitude", "grid_size"),
)
class Unrolled(Generator):
    """The unrolled generator.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` and ``unrolled``.
    n_slices : int
        Number of slices of the object.
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels, from which spectral networks take their modes.
    """

    object_scale: Tensor
    update_scale: Tensor
    jackknifed = True

    def __init__(
        self, options: GeneratorOptions, n_slices: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__(options, n_slices, patch_shape)
        self.unrolled = unrolled = unrolled_options(options)
        self.n_splits = unrolled.n_splits
        n_networks = 1 if unrolled.shared_weights else unrolled.n_iterations
        self.networks = nn.ModuleList(
            [CorrectingNetwork(options, n_slices, patch_shape) for _ in range(n_networks)]
        )
        self.steps = nn.Parameter(torch.ones(unrolled.n_iterations))
        self.momenta = nn.Parameter(torch.zeros(unrolled.n_iterations))
        self.register_buffer("object_scale", torch.tensor(torch.nan))
        self.register_buffer("update_scale", torch.tensor(torch.nan))

    @property
    def networks_at_work(self) -> list[nn.Module]:
        return [*self.networks]

    @torch.no_grad()
    def fit_normalization(self, scans: Iterable[ScanPhysics]) -> None:
        """Take the deviation of the first scan's start and of its update, which become the units in
        which the network sees them."""
        scan = next(iter(scans))
        covered = scan.coverage > 0.5
        for scale, image in (
            (self.object_scale, scan.start),
            (self.update_scale, scan.update(scan.start)),
        ):
            scale.copy_(image[:, covered].std().clamp_min(1e-3))

    def forward(self, scan: ObjectPhysics, orientation: int | None = None) -> Tensor:
        """The object after all iterations.

        Parameters
        ----------
        scan : ScanPhysics
            The scan or some of its frames.
        orientation : int, optional
            The one of ``ORIENTATIONS`` in which the network sees the object. None: as the options
            have it.

        Returns
        -------
        Tensor
            (n_slices, H, W) complex object.
        """
        last = object_ = scan.start
        n_iterations = self.unrolled.n_iterations
        n_free = n_iterations - (self.unrolled.gradient_iterations or n_iterations)
        for k in range(n_iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k >= n_free):
                if self.unrolled.activation_checkpointing and torch.is_grad_enabled():
                    new = checkpoint(
                        self._iterate,
                        *(k, object_, last, scan, orientation),
                        use_reentrant=False,
                    )
                else:
                    new = self._iterate(k, object_, last, scan, orientation)
            last, object_ = object_, new
        return object_

    def _iterate(
        self,
        k: int,
        object_: Tensor,
        last: Tensor,
        scan: ObjectPhysics,
        orientation: int | None,
    ) -> Tensor:
        update = scan.update(object_)
        coverage = scan.coverage
        mean = (coverage * object_).sum((-2, -1), keepdim=True) / coverage.sum()
        seen = coverage * (object_ - mean) / self.object_scale
        scaled = update / self.update_scale
        features = torch.cat([seen.real, seen.imag, scaled.real, scaled.imag])
        network = cast(CorrectingNetwork, self.networks[min(k, len(self.networks) - 1)])
        if orientation is not None or not self.unrolled.symmetric:
            orientations = [orientation or 0]
        elif torch.is_grad_enabled():
            orientations = [int(torch.randint(len(ORIENTATIONS), (1,), device="cpu"))]
        else:
            orientations = list(ORIENTATIONS[: self.unrolled.averaged_orientations])
        correction = torch.stack(
            [_turned_back(network.of_object(_turned(features, o)), o) for o in orientations]
        ).mean(0)
        correction = torch.complex(*correction.to(object_.real.dtype).chunk(2))
        correction = self.unrolled.correction_scale * self.object_scale * coverage * correction
        momentum = self.momenta[k] * (object_ - last)
        return object_ + self.steps[k] * update + momentum + correction

    def open_batch_size(self, n_frames: int, n_pixels: int) -> int:
        return equal_batches(n_frames, max(1, self.unrolled.batch_pixels // n_pixels))

    def deviation(self, scan: ObjectPhysics) -> Tensor:
        """(H, W) deviation of the product of all slices in the eight orientations, which differ by
        less than the prediction errs; nan if the network is to see but one."""
        if not self.unrolled.symmetric:
            return torch.full_like(scan.coverage, torch.nan)
        objects = torch.stack([self(scan, orientation).prod(0) for orientation in ORIENTATIONS])
        return objects.var(0, correction=0).sqrt()

    def why_not_frame_by_frame(self, start: StartOptions) -> str | None:
        if self.unrolled.n_iterations > 1:
            return f"this unrolled generator makes {self.unrolled.n_iterations} iterations"
        if start.n_iterations != 0:
            return "this generator was trained to start from projections of all frames"
        return None

    def sums(self, scan: ScanPhysics, n_counted: int | None = None) -> "UpdateSums":
        stitching, frames = scan.model.stitching, scan.frames
        positions = scan.model.positions(frames)[:n_counted]
        correction = scan.correction(frames, scan.start_patches(frames))
        largest = float(scan.model.probe.get_all_mode_intensity().detach().max())
        update, light = (
            stitching.place(exactly_added(terms[:n_counted], largest), positions)
            for terms in (correction.back_projected(), correction.intensity())
        )
        weights = exactly_added(stitching.weights()).expand(len(positions), 1, -1, -1)
        weight = stitching.place(weights, positions)[0]
        return UpdateSums(Canvas(update, light[0] if len(light) == 1 else light), weight)

    def object_of_sums(self, scan: ScanPhysics, sums: "UpdateSums") -> Tensor:
        return self(_SummedScan(scan, sums))

    def deviation_of_sums(self, scan: ScanPhysics, sums: "UpdateSums") -> Tensor:
        return self.deviation(_SummedScan(scan, sums))


class UpdateSums(NamedTuple):
    """Sums over frames, exact in any order, from which the input of one iteration is made."""

    update: Canvas
    """Back-projected corrections of the starting object."""

    weight: Tensor
    """(H, W) sum of the stitching weights."""

    def __add__(self, other: tuple) -> "UpdateSums":  # type: ignore[override]
        return UpdateSums(*(a + b for a, b in zip(self, other)))


class _SummedScan:
    """The frames that were summed up (``ObjectPhysics``): they tell one update of the start, which
    is all that a generator of one iteration asks for."""

    def __init__(self, scan: ScanPhysics, sums: UpdateSums) -> None:
        self.start = scan.start
        damping = scan.options.start.regularization
        self.coverage = coverage(sums.weight, damping).to(scan.start.real.dtype)
        self._update = scan.object_update(sums.update)

    def update(self, object_: Tensor) -> Tensor:
        return self._update


def _turned(x: Tensor, orientation: int) -> Tensor:
    x = x.flip(-1) if orientation & 1 else x
    x = x.flip(-2) if orientation & 2 else x
    return x.transpose(-1, -2) if orientation & 4 else x


def _turned_back(x: Tensor, orientation: int) -> Tensor:
    x = x.transpose(-1, -2) if orientation & 4 else x
    x = x.flip(-2) if orientation & 2 else x
    return x.flip(-1) if orientation & 1 else x
