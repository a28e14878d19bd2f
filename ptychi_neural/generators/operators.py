"""neuraloperator's U-NO and graph operator, on features of generators.

Importing neuraloperator takes seconds: only a network that has such layers imports this file.
"""

import contextlib
import io
from collections.abc import Sequence
from functools import partial

import torch
from neuralop.layers.fno_block import FNOBlocks
from neuralop.layers.gno_block import GNOBlock
from neuralop.models import UNO as NeuralopUNO
from torch import Tensor, nn

from ptychi_neural.generators.blocks import modes_per_level
from ptychi_neural.generators.convolution import apply_padded, channels_per_level, level_shapes
from ptychi_neural.generators.spectral import PreciseSpectralConv


class UNO(nn.Module):
    """neuraloperator's U-NO from (B, width, H, W) to (B, width, H, W) features.

    One layer at the input resolution, ``depth`` that halve it, some at the lowest, as many that
    double it, and one at the input resolution again. Skips pass between layers of one resolution.

    Parameters
    ----------
    width : int
        Channels at the input resolution.
    patch_shape : tuple[int, int]
        Height and width of the features.
    n_modes : int, list of int or None
        Retained modes of the ``depth + 1`` levels (see ``modes_per_level``).
    depth : int
        Number of levels below the input resolution.
    n_bottleneck_blocks : int
        Number of layers at the lowest resolution.
    channel_cap : int
        Largest number of channels: levels double the width up to this.
    """

    def __init__(
        self,
        width: int,
        patch_shape: tuple[int, int],
        n_modes: int | Sequence[int] | None,
        depth: int,
        n_bottleneck_blocks: int,
        channel_cap: int,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (depth + 1)
        modes = modes_per_level(n_modes, level_shapes(patch_shape, depth))
        channels = channels_per_level(width, depth, channel_cap)
        down, up = list(range(depth + 1)), list(reversed(range(depth)))
        levels_out = [*down, *[depth] * n_bottleneck_blocks, *up, 0]
        levels_in = [0, *levels_out[:-1]]
        n_layers = len(levels_out)
        with contextlib.redirect_stdout(io.StringIO()):  # It prints two of its arguments.
            self.network = NeuralopUNO(
                in_channels=width,
                out_channels=width,
                hidden_channels=width,
                lifting_channels=2 * width,
                projection_channels=2 * width,
                positional_embedding=None,
                n_layers=n_layers,
                uno_out_channels=[channels[level] for level in levels_out],
                uno_n_modes=[modes[max(pair)] for pair in zip(levels_in, levels_out)],
                uno_scalings=[[2.0 ** (a - b)] * 2 for a, b in zip(levels_in, levels_out)],
                horizontal_skips_map={n_layers - 1 - level: level for level in range(depth + 1)},
                channel_mlp_skip="linear",  # The default keeps the number of channels.
                operator_block=partial(FNOBlocks, conv_module=PreciseSpectralConv),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) features to features of the same shape."""
        return apply_padded(self.network, x, self.multiple)


class NeighbourKernel(GNOBlock):
    """neuraloperator's graph operator, with a kernel of the distance between two places.

    ``out(x) = mean over |y - x| < radius of k(y - x) f(y)``, k a small network with as many outputs
    as f has channels. The base class gives its kernel both places, so that a network could learn
    where in the scan something is.

    Parameters
    ----------
    channels : int
        Channels of f.
    radius : float
        Largest distance of what is mixed.
    """

    HIDDEN = 32

    def __init__(self, channels: int, radius: float) -> None:
        super().__init__(
            channels,
            channels,
            coord_dim=2,
            radius=radius,
            reduction="mean",
            pos_embedding_type=None,
            channel_mlp_layers=[self.HIDDEN, self.HIDDEN],
            use_torch_scatter_reduce=False,
            use_open3d_neighbor_search=False,
        )

    def forward(self, y: Tensor, x: Tensor, f_y: Tensor) -> Tensor:
        """Mix what lies around each place.

        Parameters
        ----------
        y : Tensor
            (n, 2) places.
        x : Tensor
            (m, 2) places that are asked for.
        f_y : Tensor
            (B, n, channels) functions of the places y.

        Returns
        -------
        Tensor
            (B, m, channels) functions of the places x.
        """
        found = self.neighbor_search(data=y, queries=x, radius=self.radius)
        index, splits = found["neighbors_index"], found["neighbors_row_splits"]
        asking = torch.repeat_interleave(x, splits.diff(), dim=0)
        edges = {
            "neighbors_index": torch.arange(len(index), device=index.device),
            "neighbors_row_splits": splits,
        }
        mixed: Tensor = self.integral_transform(
            y=y[index] - asking, x=torch.zeros_like(x), neighbors=edges, f_y=f_y[:, index]
        )
        return mixed
