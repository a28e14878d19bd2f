"""Architecture A, the cascade: spectral blocks at constant resolution, then a U-Net refiner.

features -> L blocks -> rough object (or features) -> U-Net -> correction; rough + correction
"""

from collections.abc import Iterator
from typing import cast

import torch.nn.functional as F
from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass
from torch import Tensor

from ptychi_neural.generators.blocks import spectral_stack
from ptychi_neural.generators.convolution import check_depth
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.one_shot import OneShotNetwork
from ptychi_neural.generators.register import register_architecture
from ptychi_neural.generators.unet import UNet
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import Blocks, CascadeLinks
from ptychi_neural.options.generator import own_options


@dataclass
class CascadedOptions(Options):
    """Architecture A: blocks at constant resolution, then a convolutional U-Net refiner."""

    n_blocks: int = PydanticField(default=4, ge=1, le=100)
    """Number of blocks of stage 1."""

    link: CascadeLinks = CascadeLinks.IMAGE
    """What passes from stage 1 to the refiner."""

    refiner_depth: int = PydanticField(default=2, ge=1, le=12)
    """Number of levels of the refiner below its input resolution."""

    channel_cap: int = PydanticField(default=128, ge=1, le=4096)
    """Largest number of channels of the refiner, whose levels double the width."""

    stage_one_epochs: int = PydanticField(default=0, ge=0)
    """Epochs in which stage 1 alone is trained, on its rough object, before both are trained end
    to end. Needs ``link = "image"``."""

    rough_loss_weight: float = PydanticField(default=0.0, ge=0)
    """Weight of an auxiliary data loss on the rough object. Needs ``link = "image"``."""

    def problems(self) -> Iterator[str]:
        """Tell contradictions."""
        if self.link == CascadeLinks.FEATURES and (
            self.stage_one_epochs > 0 or self.rough_loss_weight > 0
        ):
            yield (
                "stage_one_epochs, rough_loss_weight: need a rough object; set "
                "reconstructor_options.generator.cascaded.link = 'image'"
            )


@register_architecture("cascaded", CascadedOptions)
class Cascaded(OneShotNetwork):
    """Stage 1 solves, stage 2 refines.

    Over an image link the refiner sees the two channels of the rough object and predicts what the
    head's input lacks: untrained, it leaves the rough object as it is, so that a stage 1 trained
    first is not lost. Over a feature link it takes the feature map and predicts the whole.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block``, ``n_modes`` (one level), ``head`` and ``cascaded``.
    n_patches : int
        Complex patches to predict (grid_size**2 * n_slices).
    patch_shape : tuple[int, int]
        Height and width of a patch in pixels.
    """

    def __init__(
        self, options: GeneratorOptions, n_patches: int, patch_shape: tuple[int, int]
    ) -> None:
        super().__init__()
        cascade = cast(CascadedOptions, own_options(options))
        width = options.width
        check_depth(cascade.refiner_depth, patch_shape, "generator.cascaded.refiner_depth")
        self.cascade = cascade
        self.has_rough_object = cascade.link is CascadeLinks.IMAGE
        self.stage_one_only = False
        """Whether ``forward`` ends with the rough object, as while stage 1 is trained alone."""

        self.patch_shape = patch_shape
        self.blocks = spectral_stack(options, cascade.n_blocks, patch_shape)
        if self.has_rough_object:
            self.rough_output = output_convolution(width, 2 * n_patches)
        n_linked = 2 * n_patches if self.has_rough_object else width
        self.refiner = UNet(n_linked, width, cascade.refiner_depth, cascade.channel_cap)
        self.output = output_convolution(width, 2 * n_patches)
        self.head = build_head(options.head, options.maximum_amplitude)

    def forward(self, features: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from (B, width, H, W) features."""
        if not self.has_rough_object and not self.stage_one_only:
            return self.head(self._on_trained_grid(self.blocks(features)))
        rough = self._rough(features)
        return self.head(rough if self.stage_one_only else self._refined(rough))

    @property
    def rough_loss_weight(self) -> float:  # type: ignore[override]
        """Weight of the loss of the rough object; 0 while it is all that is trained."""
        return 0.0 if self.stage_one_only else self.cascade.rough_loss_weight

    def begin_epoch(self, epoch: int) -> None:
        if self.cascade.stage_one_epochs > 0:
            self.stage_one_only = epoch < self.cascade.stage_one_epochs

    def why_not_resized(self, options: GeneratorOptions, coarser: bool) -> str | None:
        # The refiner keeps the grid of its training.
        if options.block == Blocks.FNO and not options.shallow_cnn:
            return None
        return (
            "the 3x3 convolutions of generator.block = 'ptycho' or generator.shallow_cnn know only "
            "the pixel size of their training"
        )

    def forward_with_rough(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Refined and rough patches, both (B, n_patches, H, W)."""
        rough = self._rough(features)
        return self.head(self._refined(rough)), self.head(rough)

    def _rough(self, features: Tensor) -> Tensor:
        if not self.has_rough_object:
            raise ValueError(
                "A cascade linked by features has no rough object: set generator.cascaded.link to "
                '"image".'
            )
        return self.rough_output(self.blocks(features))

    def _refined(self, rough: Tensor) -> Tensor:
        return rough + self._on_trained_grid(self.head.image(rough))

    def _on_trained_grid(self, features: Tensor) -> Tensor:
        """Refine features of any sampling: convolutions know only the pixels of their training."""
        shape = features.shape[-2:]
        if shape == self.patch_shape:
            return self.output(self.refiner(features))
        coarse = F.interpolate(features, self.patch_shape, mode="bilinear", antialias=True)
        return F.interpolate(self.output(self.refiner(coarse)), shape, mode="bicubic")
