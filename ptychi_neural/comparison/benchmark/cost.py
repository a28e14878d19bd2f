"""What a generator costs: the numbers in it, and the operations of making an object once."""

import copy
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from ptychi.api.options.task import PtychographyTaskOptions
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.reconstruct import build_task
from ptychi_neural.scans import Scan

aten = torch.ops.aten


class Cost(NamedTuple):
    """What a generator costs."""

    n_parameters: int
    """Number of real numbers that are learned; a complex one counts twice."""

    flops: int
    """Floating-point operations of one object, of all frames, with the physics in the generator."""


def generator_cost(
    options: PtychographyTaskOptions, scan: Scan, keep: Collection[str] = ()
) -> Cost | None:
    """The cost of the generator that options build for a scan; None where none is used.

    Convolutions and matrix products count two operations for each multiplication and addition,
    eight where numbers are complex, and a Fourier transform of N points counts 5 N log2(N), half of
    it for real ones. What is done point by point is not counted.

    Parameters
    ----------
    options : PtychographyTaskOptions
        Options of any engine.
    scan : Scan
        The scan.
    keep : collection of str
        Geometry options that stay as they are, see ``build_task``.
    """
    if not isinstance(options, NeuralPtychographyOptions):
        return None
    settings = options.reconstructor_options
    if settings.num_epochs == 0 and settings.generator.checkpoint is None:
        return None
    reconstructor: Any = build_task(copy.deepcopy(options), scan, keep).reconstructor
    reconstructor.fit_normalization()
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with torch.no_grad(), counter:
        reconstructor.generator(reconstructor.scan)
    parameters = reconstructor.generator.parameters()
    n_parameters = sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters)
    return Cost(n_parameters, counter.get_total_flops())


def _product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Operations of (b, n, k) x (b, k, m) or (n, k) x (k, m)."""
    return (8 if a.is_complex() else 2) * a.numel() * b.shape[-1]


def _transform(x: Tensor, axes: Collection[int], *_: Any, out_val: Tensor, **__: Any) -> int:
    """Operations of Fourier transforms along axes, which are real on one side or on none."""
    real_side = out_val if x.is_complex() and not out_val.is_complex() else x
    n_points = math.prod(real_side.shape[axis] for axis in axes)
    per_point = 5.0 if x.is_complex() and out_val.is_complex() else 2.5
    return round(per_point * real_side.numel() * math.log2(max(n_points, 2)))


FORMULAS: dict[Any, Any] = {
    **dict.fromkeys((aten.mm, aten.bmm), _product),
    **dict.fromkeys((aten._fft_r2c, aten._fft_c2r, aten._fft_c2c), _transform),
}
"""Operations by the operator, of its tensors themselves."""

for _formula in (_product, _transform):
    _formula._get_raw = True  # type: ignore[union-attr]
