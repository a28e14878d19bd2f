"""What a scan tells of an object: the argument of every generator.

object = generator(scan)
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from ptychi.api.enums import LossFunctions
from ptychi.forward_models import NoiseModel
from torch import Tensor

from ptychi_neural.options import NeuralReconstructorOptions
from ptychi_neural.physics.exit_waves import (
    Correction,
    correct_by_gradient,
    correct_exit_waves,
    object_update,
    patch_update,
)
from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.pixel_splits import PixelSplits
from ptychi_neural.physics.start_updates import StartUpdates
from ptychi_neural.physics.stitching import Canvas, LatestPatches, coverage, in_double

CACHED_NUMBERS = 2**19
"""Complex numbers of the exit waves that a CPU works on at a time: about what its caches hold."""


@dataclass(frozen=True, eq=False)
class ScanPhysics:
    """One scan, or some of its frames, or all but one split of its pixels.

    A view never changes; ``of``, ``without``, ``starting_from`` and ``stitched_along``
    return new ones. Probe, positions
    and scale are those of the forward model at the moment.
    """

    model: ScanForwardModel
    """pty-chi's forward model of the scan."""

    options: NeuralReconstructorOptions
    """Loss, damping, batch size and the pixels that are left out."""

    frames: Tensor
    """(n,) indices of the frames in view."""

    starts: Mapping[int | None, Tensor]
    """(n_slices, H, W) objects to start from: of everything (None), and without each split."""

    pixels: PixelSplits | None = None
    """Splits of the detector pixels; None where nothing is hidden."""

    start_updates: StartUpdates | None = None
    """Where the updates of the starts by all frames are kept, and taken for those by the frames in
    view; None: nowhere."""

    split: int | None = None
    """The split of the pixels that is not seen, and that is to be predicted."""

    latest: LatestPatches | None = None
    """What other positions predicted last, where their patches are stitched along."""

    # --- views ------------------------------------------------------------------------------

    def of(self, frames: Tensor) -> "ScanPhysics":
        """The same scan with these frames only."""
        return dataclasses.replace(self, frames=frames)

    def without(self, split: int | None) -> "ScanPhysics":
        """The same scan with all pixels seen but those of a split; None: with all of them."""
        return dataclasses.replace(self, split=split)

    def starting_from(self, object_: Tensor) -> "ScanPhysics":
        """The same scan with a (n_slices, H, W) object to start from."""
        return dataclasses.replace(self, starts={None: object_}, start_updates=None)

    def stitched_along(self, latest: LatestPatches) -> "ScanPhysics":
        """The same scan, with the latest patches of all other positions in every stitch."""
        return dataclasses.replace(self, latest=latest)

    @property
    def batches(self) -> tuple[Tensor, ...]:
        """The frames in view whose patterns this rank has, so many at a time as a GPU's memory or a
        CPU's caches hold."""
        own, probe = self.model.own(self.frames), self.model.probe
        size = cast(int, self.options.batch_size)
        if probe.data.device.type == "cpu":
            size = min(size, max(1, CACHED_NUMBERS // probe.data[0].numel()))
        return own.split(size) if len(own) > 0 else ()

    # --- the object -------------------------------------------------------------------------

    @property
    def start(self) -> Tensor:
        """(n_slices, H, W) object that the generator starts from."""
        return self.starts.get(self.split, self.starts[None])

    @cached_property
    def coverage(self) -> Tensor:
        """(H, W) from 0 where no light of the whole scan fell to 1."""
        weight = self.model.stitching.total_weight(self.model.positions(self.model.everything))
        return coverage(weight, self.options.start.regularization)

    def extract(self, object_: Tensor, frames: Tensor) -> Tensor:
        """(n, n_slices, h, w) patches of an object at the positions of frames."""
        return self.model.stitching.extract(object_, self.model.positions(frames))

    def start_patches(self, frames: Tensor) -> Tensor:
        """(n, n_slices, h, w) patches of the object that the generator starts from."""
        return self.extract(self.start, frames)

    def accumulate(self, members: Tensor, patches: Tensor) -> Canvas:
        """Sums of (m, n_slices, h, w) patches at the positions of (m,) members."""
        canvas = self.model.stitching.accumulate(patches, self.model.positions(members))
        if self.latest is None:
            return canvas
        everything = self.model.positions(self.model.everything)
        return self.latest.complete(canvas, members, patches, everything)

    def stitched(self, canvas: Canvas) -> Tensor:
        """The (n_slices, H, W) object of ``accumulate``, here and on all ranks, and the start where
        nothing was stitched."""
        return canvas.of_all_ranks().object(self.start)

    # --- pixels -----------------------------------------------------------------------------

    @property
    def valid(self) -> Tensor:
        """(h, w) detector pixels that work."""
        valid: Tensor = self.model.dataset.valid_pixel_mask
        return valid

    def counted(self, frames: Tensor, measured: Tensor | None = None) -> Tensor:
        """(n, h, w) or (h, w) detector pixels that tell of the object.

        They are the valid ones, without those that ``exclude_measured_pixels_below`` leaves out.
        """
        least = self.options.exclude_measured_pixels_below
        if least is None:
            return self.valid
        return NoiseModel.get_constrained_pixel_mask(
            valid_pixel_mask=self.valid,
            exclude_measured_pixels_below=least / self.model.intensity_scale.count_unit,
            y_true=self.model.measured(frames) if measured is None else measured,
        )

    def seen(self, frames: Tensor, measured: Tensor | None = None) -> Tensor:
        """(n, h, w) or (h, w) detector pixels that input and updates may use."""
        counted = self.counted(frames, measured)
        if self.pixels is None or not self.pixels.hide_any(self.split):
            return counted
        return counted & self.pixels.seen(frames, self.split).to(counted.device)

    def to_predict(self, frames: Tensor, measured: Tensor) -> Tensor:
        """(n, h, w) detector pixels that the loss compares with (n, h, w) measured counts."""
        counted = self.counted(frames, measured)
        if self.pixels is not None and self.pixels.hide_any(self.split):
            predicted = self.pixels.predicted(frames, self.split)
            counted = counted & predicted.to(counted.device)
        return counted.expand(measured.shape)

    def held_out(self, frames: Tensor, measured: Tensor | None = None) -> Tensor:
        """(n, h, w) detector pixels that are kept for validation."""
        counted = self.counted(frames, measured)
        if self.pixels is None:
            return torch.zeros((len(frames), *self.valid.shape), dtype=torch.bool)
        return counted & self.pixels.held_out(frames).to(counted.device)

    def patterns(self, frames: Tensor) -> Tensor:
        """(n, h, w) counts at the pixels that may be seen, 0 elsewhere, DC at the image centre.

        They have the size of the probe: around a smaller detector nothing is seen.
        """
        measured = self.model.measured(frames)
        patterns = torch.where(self.seen(frames, measured), measured, 0.0)
        if self.model.is_far_field:
            patterns = torch.fft.fftshift(patterns, dim=(-2, -1))
        height, width = self.model.probe.get_spatial_shape()
        rows, columns = height - patterns.shape[-2], width - patterns.shape[-1]
        if rows == columns == 0:
            return patterns
        top, left = height // 2 - patterns.shape[-2] // 2, width // 2 - patterns.shape[-1] // 2
        return torch.nn.functional.pad(patterns, (left, columns - left, top, rows - top))

    # --- prediction and update --------------------------------------------------------------

    def predict(self, object_: Tensor, frames: Tensor | None = None) -> Tensor:
        """(n, h, w) counts that an object predicts; None: of all frames in view."""
        frames = self.frames if frames is None else frames
        if len(frames) == 0:  # A gradient through it is that of the object nonetheless.
            return object_.real.flatten()[:0].view(0, *self.valid.shape)
        return self.model.intensities(frames, self.extract(object_, frames))

    def correction(
        self,
        frames: Tensor,
        patches: Tensor,
        measured: Tensor | None = None,
        of_modulus: bool = False,
    ) -> Correction:
        """What brings the counts predicted by (n, n_slices, h, w) patches closer to the measured.

        The change is that of the modulus where ``of_modulus`` is set, otherwise what the loss of
        the options asks for.
        """
        if measured is None:
            measured = self.model.measured(frames)
        poisson = self.options.loss_function == LossFunctions.POISSON and not of_modulus
        largest_change = self.options.start.largest_change if poisson else None
        seen = self.seen(frames, measured)
        if self.model.writes_down_corrections:
            return correct_exit_waves(self.model, frames, patches, measured, seen, largest_change)
        return correct_by_gradient(self.model, frames, patches, measured, seen, largest_change)

    def patch_update(self, frames: Tensor, patches: Tensor) -> Tensor:
        """(n, n_slices, h, w) step of each patch by itself to the measured counts."""
        return patch_update(self.correction(frames, patches), self.options.start.regularization)

    def back_project(self, correction: Correction, frames: Tensor) -> Tensor:
        """(n_slices, H, W) sum_j P_j^* d_j of some frames, in double precision.

        Sums over frames are rounded when all are in, here and on other ranks: to the same numbers,
        in whatever portions frames came, so that rounding decides of no step.
        """
        positions = self.model.positions(frames)
        return self.model.stitching.place(in_double(correction.back_projected()), positions)

    @torch.no_grad()
    def illumination(self, correction: Correction, frames: Tensor) -> Tensor:
        """(n_slices, H, W) sum_j |P_j|^2 of some frames; (H, W) of a single slice. In double
        precision, too."""
        positions = self.model.positions(frames)
        placed = self.model.stitching.place(in_double(correction.intensity()), positions)
        return placed[0] if len(placed) == 1 else placed

    def accumulated_update(self, object_: Tensor, frames: Tensor | None = None) -> Canvas:
        """Back-projected corrections of some frames, and the light that fell, summed up."""
        frames = self.frames if frames is None else frames
        if len(frames) == 0:
            return Canvas.of_nothing(in_double(object_), n_weights=len(object_))
        correction = self.correction(frames, self.extract(object_, frames))
        return Canvas(self.back_project(correction, frames), self.illumination(correction, frames))

    def object_update(self, canvas: Canvas) -> Tensor:
        """(n_slices, H, W) step of the object from ``accumulated_update`` on all ranks."""
        update = object_update(canvas.of_all_ranks(), self.options.start.regularization)
        return update.to(self.start.dtype)

    @property
    def _sources(self) -> list[Tensor]:
        """What an object's update is made from, beside it and the counts."""
        sources = [*self.model.sources_of_probes, self.model.intensity_scale.tensor]
        if self.model.object.is_multislice:
            sources.append(cast(Tensor, self.model.object.slice_spacings.tensor))
        return sources

    def update(self, object_: Tensor) -> Tensor:
        """(n_slices, H, W) step of the object to the counts, back-projected through the probe."""
        if self.start_updates is not None and object_ is self.start:
            whole = dataclasses.replace(self, frames=self.model.everything, start_updates=None)
            known = self.start_updates.get(self.split, whole.start, self._sources, whole.update)
            if known is not None:
                return known
        if object_.requires_grad:
            return self.object_update(self.accumulated_update(object_))
        with torch.no_grad():  # A given object's update is an input of the generator.
            first, *others = self.batches or (self.frames[:0],)
            total = self.accumulated_update(object_, first)
            for batch in others:
                total = total + self.accumulated_update(object_, batch)
            return self.object_update(total)
