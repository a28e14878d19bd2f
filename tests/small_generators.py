"""One-shot generators and simulated patterns for them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ptychi_neural.generators import OneShot, build_generator
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.options.choices import Architectures, Lifters

ARCHITECTURES = [Architectures.CASCADED, Architectures.HYBRID_UNO, Architectures.CNN]
FAMILY = [
    *(Architectures.FNO, Architectures.FFNO, Architectures.UNO),
    *(Architectures.U_FNO, Architectures.HYBRID_U_FNO, Architectures.GNO),
]
"""The one-shot members of the family of neural operators beside those."""
ALL = [*ARCHITECTURES, *FAMILY]
PATTERN_LIFTERS = [lifter for lifter in Lifters if lifter is not Lifters.BACKPROJECTION]
SMALL = (16, 16)


def simulated_patterns(shape: tuple[int, int], n: int = 4, group: int = 1) -> Tensor:
    """Peaked Poisson counts, brightest in the middle, as far-field patterns are."""
    rows, columns = (torch.arange(size) - size // 2 for size in shape)
    radius = torch.hypot(rows[:, None] / shape[0], columns[None] / shape[1])
    mean = 2000 * torch.exp(-200 * radius**2) + 20 * torch.exp(-8 * radius)
    return torch.poisson(mean * (0.5 + torch.rand(n, group, *shape)))


def options_for(architecture: Architectures = Architectures.HYBRID_UNO, **changes: object):
    return GeneratorOptions(**{"architecture": architecture, "width": 8, **changes})


def fitted(options: GeneratorOptions, patterns: Tensor, n_slices: int = 1) -> OneShot:
    generator = build_generator(options, n_slices, tuple(patterns.shape[-2:]))
    generator.fit_lifter([patterns.flatten(0, 1)])
    return generator


def perturb_outputs(generator: nn.Module) -> None:
    """Leave the special starting point, at which some derivatives vanish."""
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if "output" in name or "log_excess" in name or "decoder" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


def gradchecked(
    network: nn.Module, *inputs: Tensor, then: Callable[[Tensor], Tensor] = lambda output: output
) -> bool:
    """Whether the derivative along a random direction of inputs and all parameters is right."""
    names, parameters = zip(*network.named_parameters())
    values = [*inputs, *(parameter.detach() for parameter in parameters)]
    directions = [torch.randn_like(value) for value in values]

    def along(t: Tensor) -> Tensor:
        moved = [value + t * direction for value, direction in zip(values, directions)]
        arguments, weights = moved[: len(inputs)], moved[len(inputs) :]
        return then(
            torch.func.functional_call(network, dict(zip(names, weights)), tuple(arguments))
        )

    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    return torch.autograd.gradcheck(along, (t,), fast_mode=True)
