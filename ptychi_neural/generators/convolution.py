"""Convolutional bricks: scaled convolutions, changes of resolution, padding to a divisible grid."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychi_neural.options.choices import Downsamplings, Upsamplings


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    nonlinearity: Literal["relu", "linear"] = "relu",
    kind: Callable[..., nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """A convolution that keeps the size (over the stride) and the power of its input.

    Weights follow He et al., ICCV 2015, Eq. 10, so that deep stacks neither fade nor blow up:
    doubled power for a rectifying activation, as it halves it, or not ("linear").
    """
    layer = kind(in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity=nonlinearity)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class DilatedConvolution(nn.Conv2d):
    """A 3x3 convolution of pixels that are ``dilation`` apart, with fast gradients on a CPU.

    Such pixels are neighbours in one of dilation^2 images of every so many rows and columns, which
    a dense convolution maps. PyTorch's gradient of a dilated one takes four times as long.
    """

    def __init__(self, *args: Any, dilation: int, **kwargs: Any) -> None:
        kwargs |= {"dilation": dilation, "padding": dilation}
        super().__init__(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C_out, H, W)."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        (step, _), (height, width) = self.dilation, x.shape[-2:]
        padded = F.pad(x, (0, -width % step, 0, -height % step))
        apart = padded.unflatten(-1, (-1, step)).unflatten(-3, (-1, step))
        images = apart.permute(0, 3, 5, 1, 2, 4)
        mapped = F.conv2d(images.flatten(0, 2), self.weight, self.bias, padding=1)
        together = mapped.unflatten(0, images.shape[:3]).permute(0, 3, 4, 1, 5, 2)
        return together.flatten(-2).flatten(-3, -2)[..., :height, :width]


def convolution_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, GELU, 3x3 convolution, GELU: a level of a U-Net."""
    return nn.Sequential(
        convolution(in_channels, out_channels, 3),
        nn.GELU(),
        convolution(out_channels, out_channels, 3),
        nn.GELU(),
    )


def downsampling(in_channels: int, out_channels: int, kind: Downsamplings) -> nn.Module:
    """Half the resolution: a 3x3 convolution of stride 2, or pooling.

    Pooling is followed by a 1x1 convolution where the number of channels changes.
    """
    if kind is Downsamplings.STRIDED:
        return convolution(in_channels, out_channels, 3, stride=2)
    pooling = nn.AvgPool2d(2) if kind is Downsamplings.MEAN else nn.MaxPool2d(2)
    if in_channels == out_channels:
        return pooling
    return nn.Sequential(pooling, convolution(in_channels, out_channels, 1))


def upsampling(in_channels: int, out_channels: int, kind: Upsamplings) -> nn.Module:
    """Twice the resolution: a 2x2 transposed convolution, or bilinear interpolation.

    Interpolation follows a 1x1 convolution, with which it commutes; this order is the cheaper.
    """
    if kind is Upsamplings.TRANSPOSED:
        return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    return nn.Sequential(
        convolution(in_channels, out_channels, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


def apply_padded(layers: Callable[[Tensor], Tensor], x: Tensor, multiple: int) -> Tensor:
    """Apply layers that need sides divisible by ``multiple``: pad, apply, crop.

    The edge is replicated equally on both sides, so that the centre stays the centre.

    Parameters
    ----------
    layers : callable
        Maps (B, C, H', W') to (B, C_out, H', W').
    x : Tensor
        A (B, C, H, W) feature map.
    multiple : int
        What H' and W' must be divisible by.
    """
    height, width = x.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    if rows == columns == 0:
        return layers(x)
    top, left = rows // 2, columns // 2
    padded = F.pad(x, (left, columns - left, top, rows - top), mode="replicate")
    return layers(padded)[..., top : top + height, left : left + width]


def channels_per_level(width: int, depth: int, channel_cap: int) -> list[int]:
    """Channels of the ``depth + 1`` levels from the finest down: doubling, up to the cap.

    Examples
    --------
    >>> channels_per_level(width=16, depth=3, channel_cap=64)
    [16, 32, 64, 64]
    """
    return [min(width * 2**level, max(channel_cap, width)) for level in range(depth + 1)]


def level_shapes(patch_shape: tuple[int, int], depth: int) -> list[tuple[int, int]]:
    """Grids of the ``depth + 1`` levels from the finest down, padded so that all sides are even.

    Examples
    --------
    >>> level_shapes((32, 20), depth=2)
    [(32, 24), (16, 12), (8, 6)]
    """
    multiple = 2 ** (depth + 1)
    rows, columns = (-(-side // multiple) * multiple for side in patch_shape)
    return [(rows // 2**level, columns // 2**level) for level in range(depth + 1)]


def check_depth(depth: int, patch_shape: tuple[int, int], field: str) -> None:
    """Raise a ``ValueError`` if ``depth`` halvings leave less than two pixels of a patch."""
    if min(patch_shape) < 2 ** (depth + 1):
        raise ValueError(
            f"{field} = {depth} halves patches of {patch_shape[0]} x {patch_shape[1]} pixels below "
            f"2 pixels: choose a depth of at most {min(patch_shape).bit_length() - 2}."
        )


def is_low_precision(x: Tensor) -> bool:
    """Whether a real tensor is in half precision, as inside ``torch.autocast``."""
    return x.dtype in (torch.float16, torch.bfloat16)
