"""neuraloperator's spectral convolution, in the precision of its input.

Importing neuraloperator takes seconds: only a network that has spectral layers imports this file.
"""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptychi_neural.generators.convolution import is_low_precision

with warnings.catch_warnings():  # On import it changes the filters of the whole process.
    from neuralop.layers.spectral_convolution import SpectralConv


class PreciseSpectralConv(SpectralConv):
    """neuraloperator's ``SpectralConv`` on real features, in the precision of its input.

    It multiplies the lowest ``n_modes`` Fourier coefficients, of both signs on all axes, by
    complex channel matrices (Li et al., ICLR 2021, Eq. 5). Beyond the base class:

    - float64 input is computed in complex128, half precision in complex64;
    - changes of the module's dtype keep the imaginary part of the weights;
    - an odd number of rows is refused, since the base class rolls it back wrongly;
    - a change of resolution follows the filter, since the base class, which changes the length of
      the spectrum, then loses or misplaces the negative frequencies of the rows.
    """

    @torch.compiler.disable  # The compiler fails at the contexts, and has no kernels for spectra.
    def forward(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        """Filter (B, C, H, W) features, or (B, C, W) ones of a single axis.

        The result has their dtype, and their shape unless the resolution is to change.

        Raises
        ------
        ValueError
            If H is odd.
        """
        shape = tuple(x.shape[2:])
        if len(shape) > 1 and shape[0] % 2:
            raise ValueError(f"A spectral layer needs an even number of rows, got {shape[0]}.")
        full = x.float() if is_low_precision(x) else x
        precision = _Complex128() if full.dtype == torch.float64 else contextlib.nullcontext()
        with torch.autocast(x.device.type, enabled=False), precision:
            filtered = super().forward(full, shape)
        if self.resolution_scaling_factor is not None:
            filtered = self.transform(filtered, output_shape)
        return filtered.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # ``Module.to(torch.float64)`` would cast complex weights to real ones.
        def on_real_view(tensor: Tensor) -> Tensor:
            if not tensor.is_complex():
                return fn(tensor)
            return torch.view_as_complex(fn(torch.view_as_real(tensor)))

        return super()._apply(on_real_view, recurse)


class FactorizedSpectralConv2d(nn.Module):
    """The sum of spectral convolutions along rows and along columns.

    Tran et al., ICLR 2023, Eq. 7: its weights grow with the number of modes, not with its square.

    Parameters
    ----------
    channels : int
        Number of input and output channels.
    n_modes : tuple[int, int]
        Retained modes along rows and columns, both signs counted.
    """

    def __init__(self, channels: int, n_modes: tuple[int, int]) -> None:
        super().__init__()
        self.of_axes = nn.ModuleList(
            [PreciseSpectralConv(channels, channels, (n,), bias=False) for n in n_modes]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Filter (B, C, H, W) features; the result has the same shape and dtype."""
        along_rows, along_columns = self.of_axes
        columns = x.transpose(-1, -2)
        return _by_lines(along_columns, x) + _by_lines(along_rows, columns).transpose(-1, -2)


def _by_lines(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer of one axis to each line of (B, C, H, W) features."""
    lines = x.transpose(1, 2).flatten(0, 1)
    filtered: Tensor = layer(lines)
    return filtered.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)


class _Complex128(TorchFunctionMode):
    """Lets ``SpectralConv``, which always asks for a complex64 spectrum, have a complex128 one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.zeros and kwargs.get("dtype") is torch.cfloat:
            kwargs["dtype"] = torch.cdouble
        return func(*args, **kwargs)
