"""pty-chi's forward model for a detector that stays where it is between pixels, too.

pty-chi cuts patches at whole pixels and shifts the probe by the fraction of a pixel that is left.
The exit wave is shifted along with it. In the far field that is a phase ramp, which no detector
sees; in the near field the predicted pattern moves, as if the detector followed the sample.
"""

from typing import Any, cast

import torch
from ptychi.forward_models import PlanarPtychographyForwardModel
from ptychi.image_proc import shift_images
from ptychi.propagate import FourierPropagator
from torch import Tensor


class FixedDetectorForwardModel(PlanarPtychographyForwardModel):
    """Predicts intensities from exit waves that are shifted back by the fraction of a pixel."""

    @property
    def is_far_field(self) -> bool:
        """Whether the detector is in the far field, where a shift of a wave is a phase ramp."""
        return isinstance(self.free_space_propagator, FourierPropagator)

    def forward_real_space(self, indices: Tensor, obj_patches: Tensor) -> Tensor:
        """(n, n_modes, h, w) exit waves as the detector's pixels see them."""
        exit_waves = super().forward_real_space(indices, obj_patches)
        return self.to_detector(indices, exit_waves)

    def to_detector(self, frames: Tensor, exit_waves: Tensor) -> Tensor:
        """(n, n_modes, h, w) exit waves, shifted from the pixels of patches to those of the
        detector; as they are in the far field."""
        return exit_waves if self.is_far_field else self._shift(frames, exit_waves, back=True)

    def from_detector(self, frames: Tensor, exit_waves: Tensor) -> Tensor:
        """(n, n_modes, h, w) exit waves, shifted by the adjoint of ``to_detector``."""
        return exit_waves if self.is_far_field else self._shift(frames, exit_waves)

    def _shift(self, frames: Tensor, waves: Tensor, back: bool = False) -> Tensor:
        """(n, n_modes, h, w) waves, the first mode, which alone pty-chi shifts, at its sub-pixel
        shifts."""
        first = shift_images(
            waves[:, 0],
            self._sub_pixel_shifts(frames),
            method=self._shift_method,
            adjoint=back,
            pad=self.pad_for_shift,
        )
        return torch.cat([first[:, None], waves[:, 1:]], 1)

    @property
    def _shift_method(self) -> Any:
        return self.object.options.patch_interpolation_method

    def _sub_pixel_shifts(self, frames: Tensor) -> Tensor:
        return cast(Tensor, self.get_probe_grid_position_data()[2][frames])
