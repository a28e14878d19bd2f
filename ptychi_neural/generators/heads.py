"""Heads: two real channels a patch become one complex patch, a factor around 1 + 0i."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychi_neural.generators.convolution import is_low_precision
from ptychi_neural.options.choices import Heads

INITIAL_MAXIMUM_AMPLITUDE = 2.0

INITIAL_OUTPUT_DEVIATION = 5e-5
"""Of the last convolution's weights: an untrained generator predicts an empty object."""


def output_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """The 1x1 convolution in front of a head, small at first but not zero: gradients flow."""
    layer = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(layer.weight, std=INITIAL_OUTPUT_DEVIATION)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class Head(nn.Module):
    """Base of the heads. Channels are (amplitude, phase) or (real, imaginary) of all patches."""

    def image(self, z: Tensor) -> Tensor:
        """Real images of the patches.

        Parameters
        ----------
        z : Tensor
            A (B, 2 * n_patches, H, W) output of a network: first what becomes the amplitude (real
            part) of every patch, then what becomes the phase (imaginary part).

        Returns
        -------
        Tensor
            A (B, 2 * n_patches, H, W) tensor of amplitudes and phases (radians), or of real and
            imaginary parts, at least in single precision.
        """
        z = z.float() if is_low_precision(z) else z
        with torch.autocast(z.device.type, enabled=False):
            return torch.cat(self._image(*z.chunk(2, dim=1)), dim=1)

    def forward(self, z: Tensor) -> Tensor:
        """Complex (B, n_patches, H, W) patches from the network's output (see ``image``)."""
        first, second = self.image(z).chunk(2, dim=1)
        return self._patches(first, second)

    def _image(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _patches(self, first: Tensor, second: Tensor) -> Tensor:
        raise NotImplementedError


class AmplitudePhaseHead(Head):
    """``a_max * sigmoid(z_a + logit(1 / a_max)) * exp(i * pi * tanh(z_p))``.

    Hoidn et al., Scientific Reports 13, 22789 (2023), with the sigmoid shifted so that ``z = 0``
    gives amplitude 1.

    Parameters
    ----------
    maximum_amplitude : float or None
        a_max > 1. None: learned, starting at 2; its parameter is ``log(a_max - 1)``.
    """

    log_excess: Tensor

    def __init__(self, maximum_amplitude: float | None = None) -> None:
        super().__init__()
        start = INITIAL_MAXIMUM_AMPLITUDE if maximum_amplitude is None else maximum_amplitude
        log_excess = torch.tensor(math.log(start - 1.0))
        if maximum_amplitude is None:
            self.log_excess = nn.Parameter(log_excess)
        else:
            self.register_buffer("log_excess", log_excess)

    @property
    def maximum_amplitude(self) -> Tensor:
        return 1.0 + self.log_excess.exp()

    def _image(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        amplitude = self.maximum_amplitude * torch.sigmoid(first - self.log_excess)
        return amplitude, math.pi * torch.tanh(second)

    def _patches(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.polar(first, second)


class RealImaginaryHead(Head):
    """``1 + z_r + i * z_i``, unbounded."""

    def _image(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 + first, second

    def _patches(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.complex(first, second)


def build_head(kind: Heads, maximum_amplitude: float | None) -> Head:
    """The head that the options name.

    Raises
    ------
    ValueError
        If a maximum amplitude is given for the unbounded real/imaginary head.
    """
    if kind is Heads.AMPLITUDE_PHASE:
        return AmplitudePhaseHead(maximum_amplitude)
    if maximum_amplitude is not None:
        raise ValueError(
            "generator.maximum_amplitude belongs to the amplitude_phase head: set it to None, or "
            'generator.head to "amplitude_phase".'
        )
    return RealImaginaryHead()


def with_coarse_periphery(
    patches: Tensor, coarse_shape: tuple[int, int], fine_window: float
) -> Tensor:
    """Join centres of full resolution and peripheries of a coarse one: ``w c + (1 - w) U B q``.

    B takes means over the pixels of the coarse grid and U interpolates between them. The window w
    is 1 in the centre and falls by a cosine over one coarse pixel. Hoidn et al., Scientific Reports
    13, 22789 (2023), predict the centre alone; their code adds a coarser border for large probes.

    Parameters
    ----------
    patches : Tensor
        A complex (B, 2 n, H, W) tensor: n patches c, and as many q for their peripheries.
    coarse_shape : tuple[int, int]
        Numbers of coarse pixels along the sides of a patch.
    fine_window : float
        Side of the centre over that of the patch.

    Returns
    -------
    Tensor
        Complex (B, n, H, W) patches.
    """
    centres, peripheries = patches.chunk(2, dim=1)
    parts = torch.cat([peripheries.real, peripheries.imag], dim=1)
    binned = F.adaptive_avg_pool2d(parts, coarse_shape)
    smooth = F.interpolate(binned, patches.shape[-2:], mode="bilinear")
    periphery = torch.complex(*smooth.chunk(2, dim=1))
    rows, columns = (
        _window(size, fine_window, 2 / n_coarse).to(parts)
        for size, n_coarse in zip(patches.shape[-2:], coarse_shape)
    )
    return periphery + rows[:, None] * columns * (centres - periphery)


def _window(size: int, side: float, fall: float) -> Tensor:
    """(size,) window along an axis whose pixels lie from -1 to 1: 1 up to ``side``, then a cosine
    that comes to 0 after ``fall``."""
    distance = ((torch.arange(size) + 0.5) * (2 / size) - 1).abs()
    return (1 + torch.cos(math.pi * ((distance - side) / fall).clamp(0, 1))) / 2
