"""Faster networks of a trained generator, where they are faster: bfloat16, compilation, layout."""

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Collection
from enum import StrEnum, auto

import torch
from torch import Tensor, nn

N_TIMED = 10
"""Calls that are timed, the fastest of which counts."""


class Accelerations(StrEnum):
    """What may make networks faster."""

    BFLOAT16 = auto()
    """Convolutions in bfloat16, of which eight bits are significant. Fourier transforms, heads and
    sums stay in float32 and float64."""
    COMPILE = auto()
    """``torch.compile``, which takes up to a minute and needs a C++ compiler on a CPU."""


def lay_out(networks: nn.Module) -> None:
    """Lay weights of convolutions out with channels last, which CPUs go through faster.

    It changes results in their last bits alone.
    """
    for layer in networks.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)


def accelerate(
    networks: list[nn.Module], run: Callable[[], object], wanted: Collection[Accelerations]
) -> list[Accelerations]:
    """Change how networks compute, as far as that works and is faster.

    What does not is left out with one warning.

    Parameters
    ----------
    networks : list of Module
        They are called with one tensor.
    run : callable
        It makes use of them as they will be used.
    wanted : collection of Accelerations
        What to try, one after the other.

    Returns
    -------
    list of Accelerations
        What has made them faster.
    """
    chosen: list[Accelerations] = []
    left_out = []
    _choose(networks, chosen)
    plain_s = fastest_s = _seconds(run)
    for acceleration in (choice for choice in Accelerations if choice in wanted):
        try:
            _choose(networks, [*chosen, acceleration])
            seconds = _seconds(run)
        except Exception as error:  # Compilers raise errors of many kinds.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            left_out.append(f"{acceleration.value}, which fails ({reason})")
        else:
            if seconds < fastest_s:
                chosen, fastest_s = [*chosen, acceleration], seconds
                continue
            left_out.append(f"{acceleration.value}, which is no faster")
        _choose(networks, chosen)
    if left_out:
        warnings.warn(
            f"left out {' and '.join(left_out)}: a batch takes {1e3 * fastest_s:.0f} ms, "
            f"{1e3 * plain_s:.0f} ms without any acceleration.",
            stacklevel=3,
        )
    return chosen


def _seconds(run: Callable[[], object]) -> float:
    """Time of the fastest of some calls; the first two, which compile, do not count."""
    times = []
    for _ in range(2 + N_TIMED):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[2:])


def _choose(networks: list[nn.Module], chosen: list[Accelerations]) -> None:
    """Let networks compute in this way, whatever was chosen before."""
    for network in networks:
        vars(network).pop("forward", None)
        forward: Callable[[Tensor], Tensor] = network.forward
        if Accelerations.COMPILE in chosen:
            forward = torch.compile(forward)
        if chosen:
            low = Accelerations.BFLOAT16 in chosen
            vars(network)["forward"] = functools.partial(_called, forward, low)


def _called(forward: Callable[[Tensor], Tensor], low_precision: bool, features: Tensor) -> Tensor:
    """What a network makes of features, in no lower precision than these."""
    autocast = torch.autocast(features.device.type, torch.bfloat16)
    with autocast if low_precision else contextlib.nullcontext():
        made = forward(features)
    return made.to(features.dtype) if made.dtype == torch.bfloat16 else made
