"""Spectral blocks: neuraloperator's spectral convolution beside a local path.

FNO:      y = act(Spectral(x) + Conv1x1(x))
PTYCHO:   y = x + act(Spectral(x) + Conv3x3(x))
COMPLEX:  as PTYCHO, with complex features and weights
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptychi_neural.generators.convolution import convolution
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import Blocks

DEFAULT_MAXIMUM_MODES = 32
"""Largest number of retained modes along an axis where the options leave it open."""


class SpectralBlock(nn.Module):
    """Base of the blocks: a spectral and a local path side by side.

    Parameters
    ----------
    channels : int
        Number of input and output channels.
    n_modes : tuple[int, int], optional
        Retained modes along rows and columns, both signs counted. None: no spectral path.
    kernel_size : int
        Size of the kernel of the local path.
    """

    def __init__(self, channels: int, n_modes: tuple[int, int] | None, kernel_size: int) -> None:
        super().__init__()
        self.spectral: nn.Module | None = None
        if n_modes is not None:
            # neuraloperator takes seconds to import.
            from ptychi_neural.generators.spectral import PreciseSpectralConv

            self.spectral = PreciseSpectralConv(channels, channels, n_modes, bias=False)
        self.local: nn.Module = convolution(channels, channels, kernel_size, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) features to features of the same shape."""
        return self.forward_with_local(x)[0]

    def forward_with_local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As ``forward``, and the output of the local path, which serves as a skip."""
        local = self.local(x)
        paths = local if self.spectral is None else self.spectral(x) + local
        return self._join(x, paths), local

    def _join(self, x: Tensor, paths: Tensor) -> Tensor:
        raise NotImplementedError


class FNOBlock(SpectralBlock):
    """``y = act(Spectral(x) + Conv1x1(x))``: Li et al., ICLR 2021, Eq. 2."""

    def __init__(self, channels: int, n_modes: tuple[int, int] | None) -> None:
        super().__init__(channels, n_modes, kernel_size=1)

    def _join(self, x: Tensor, paths: Tensor) -> Tensor:
        return F.gelu(paths)


class PtychoBlock(SpectralBlock):
    """``y = x + act(Spectral(x) + Conv3x3(x))``: a residual block with a 3x3 local path."""

    def __init__(self, channels: int, n_modes: tuple[int, int] | None) -> None:
        super().__init__(channels, n_modes, kernel_size=3)

    def _join(self, x: Tensor, paths: Tensor) -> Tensor:
        return x + F.gelu(paths)


class ComplexLinear(nn.Module):
    """``y = (A + i B) z / sqrt(2)`` for a complex feature map z and real linear layers A and B.

    Channels are the real parts, then the imaginary parts. For spectral convolutions this is the
    product of the whole spectrum of z, of both signs, with complex matrices: such a product is the
    sum of one that leaves images real and i times another.

    Parameters
    ----------
    real, imaginary : Module
        A and B, from and to as many channels as there are complex ones.
    """

    def __init__(self, real: nn.Module, imaginary: nn.Module) -> None:
        super().__init__()
        self.real, self.imaginary = real, imaginary

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, C, H, W) features to features of the same shape."""
        parts = torch.cat(z.chunk(2, dim=1))
        (a_re, a_im), (b_re, b_im) = (of(parts).chunk(2) for of in (self.real, self.imaginary))
        return torch.cat([a_re - b_im, a_im + b_re], dim=1) / math.sqrt(2)


class ComplexBlock(PtychoBlock):
    """The block ``PtychoBlock`` with complex features and weights.

    The activation acts on real and imaginary parts (Trabelsi et al., ICLR 2018, Sec. 3.4). A block
    has half of the weights of a real one with as many real channels.
    """

    def __init__(self, channels: int, n_modes: tuple[int, int] | None) -> None:
        if channels % 2:
            raise ValueError(
                f'generator.block = "complex" pairs channels, of which there are {channels}: '
                "choose an even generator.width."
            )
        super().__init__(channels // 2, n_modes)
        imaginary = PtychoBlock(channels // 2, n_modes)
        if self.spectral is not None and imaginary.spectral is not None:
            self.spectral = ComplexLinear(self.spectral, imaginary.spectral)
        self.local = ComplexLinear(self.local, imaginary.local)


BLOCKS: dict[Blocks, type[FNOBlock] | type[PtychoBlock]] = {
    Blocks.FNO: FNOBlock,
    Blocks.PTYCHO: PtychoBlock,
    Blocks.COMPLEX: ComplexBlock,
}


def spectral_stack(
    options: GeneratorOptions,
    n_blocks: int,
    shape: tuple[int, int],
    channels: int | None = None,
) -> nn.Sequential:
    """Blocks of the kind and with the modes that the options name, for features of a shape.

    Parameters
    ----------
    options : GeneratorOptions
        ``width``, ``block`` and ``n_modes`` (one level).
    n_blocks : int
        Number of blocks.
    shape : tuple[int, int]
        Height and width of the features.
    channels : int, optional
        Number of channels; None: ``width``.
    """
    modes = modes_per_level(options.n_modes, [shape])[0]
    block = BLOCKS[options.block]
    return nn.Sequential(*(block(channels or options.width, modes) for _ in range(n_blocks)))


def modes_per_level(
    n_modes: int | Sequence[int] | None, level_shapes: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Give the retained modes (rows, columns) of each level from the finest down.

    Parameters
    ----------
    n_modes : int, sequence of int or None
        One number for all levels and axes, one for each level, or None: half of the level's size,
        at most 32.
    level_shapes : sequence of tuple[int, int]
        Grid of each spectral level.

    Raises
    ------
    ValueError
        If a list has another length than there are levels, or a number does not lie between 1 and
        the size of its level.

    Examples
    --------
    >>> modes_per_level(None, [(96, 48), (48, 24)])
    [(32, 24), (24, 12)]
    """
    if n_modes is None:
        return [
            (min(DEFAULT_MAXIMUM_MODES, rows // 2), min(DEFAULT_MAXIMUM_MODES, columns // 2))
            for rows, columns in level_shapes
        ]
    modes = [n_modes] * len(level_shapes) if isinstance(n_modes, int) else list(n_modes)
    if len(modes) != len(level_shapes):
        raise ValueError(
            f"generator.n_modes lists {len(modes)} levels, but this generator has "
            f"{len(level_shapes)} spectral levels: give one number for each, or a single one."
        )
    for level, (mode, shape) in enumerate(zip(modes, level_shapes)):
        if not 1 <= mode <= min(shape):
            raise ValueError(
                f"generator.n_modes = {mode} at level {level}, whose grid is {shape[0]} x "
                f"{shape[1]}: give a list with at most {min(shape)} (and at least 1) there, or "
                "None."
            )
    return [(mode, mode) for mode in modes]
