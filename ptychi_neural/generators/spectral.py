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


class SpectralConv2d(SpectralConv):
    """neuraloperator's ``SpectralConv`` on real images, in the precision of its input.

    It multiplies the lowest ``n_modes`` Fourier coefficients, of both signs on both axes, by
    complex channel matrices (Li et al., ICLR 2021, Eq. 5). Beyond the base class:

    - float64 input is computed in complex128, half precision in complex64;
    - changes of the module's dtype keep the imaginary part of the weights;
    - an odd number of rows is refused, since the base class rolls it back wrongly.

    Parameters
    ----------
    channels : int
        Number of input and output channels.
    n_modes : tuple[int, int]
        Retained modes along rows and columns, both signs counted.
    """

    def __init__(self, channels: int, n_modes: tuple[int, int]) -> None:
        super().__init__(channels, channels, n_modes, bias=False)

    def forward(self, x: Tensor, output_shape: tuple[int, int] | None = None) -> Tensor:
        """Filter a (B, C, H, W) feature map; the result has the same shape and dtype.

        Raises
        ------
        ValueError
            If H is odd.
        """
        if x.shape[-2] % 2:
            raise ValueError(f"A spectral layer needs an even number of rows, got {x.shape[-2]}.")
        full = x.float() if is_low_precision(x) else x
        precision = _Complex128() if full.dtype == torch.float64 else contextlib.nullcontext()
        with torch.autocast(x.device.type, enabled=False), precision:
            return super().forward(full, output_shape).to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        # ``Module.to(torch.float64)`` would cast complex weights to real ones.
        def on_real_view(tensor: Tensor) -> Tensor:
            if not tensor.is_complex():
                return fn(tensor)
            return torch.view_as_complex(fn(torch.view_as_real(tensor)))

        return super()._apply(on_real_view, recurse)


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
