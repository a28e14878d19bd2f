"""Options of the generator, and what is known here of the architectures that add theirs to them."""

import copy
import dataclasses
from dataclasses import fields
from functools import reduce
from typing import Any

import ptychi.api.enums as pty_enums
from ptychi.api.options.base import Options, ParameterOptions
from pydantic import Field as PydanticField

from ptychi_neural.options import choices
from ptychi_neural.options.open_choices import add_choice, add_group, make_anew, open_dataclass


@open_dataclass
class GeneratorOptions(ParameterOptions):
    """The generator: which network, and how it is trained.

    ``optimizer``, ``step_size``, ``optimizer_params`` and ``optimization_plan`` (with its
    scheduler) have pty-chi's meaning. Each registered architecture adds a group of its own options,
    under its own name.
    """

    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = PydanticField(default=5e-3, gt=0)

    gradient_clipping: float | None = PydanticField(default=1.0, gt=0)
    """Largest norm of the generator's gradient; None: no limit."""

    architecture: choices.Architectures = choices.Architectures.UNROLLED
    """The network that makes an object of a scan, with the options of the group of its name."""

    lifter: choices.Lifters = choices.Lifters.STANDARDIZED
    """What the network sees of a pattern. Standardised log counts are the default: on simulated
    scans the plain CNN lifter gave about twice their error."""

    shallow_cnn: bool = True
    """Lift with 3x3 convolution, GELU, 3x3 convolution; False: with one 1x1 convolution."""

    width: int = PydanticField(default=16, ge=1, le=4096)
    """Channels at the input resolution."""

    block: choices.Blocks = choices.Blocks.PTYCHO
    """Block of the spectral architectures."""

    n_modes: int | list[int] | None = None
    """Retained Fourier modes along each axis (both signs counted): one number for all levels, or
    one for each level from the finest down. None: half of the patch size of each level, at most
    32."""

    head: choices.Heads = choices.Heads.AMPLITUDE_PHASE
    """How the last channels of a one-shot network become complex patches."""

    maximum_amplitude: float | None = PydanticField(default=None, gt=1)
    """Upper limit of the amplitude that the amplitude/phase head can give, relative to the
    object it starts from. None: learned, starting at 2."""

    grid_size: int = PydanticField(default=1, ge=1, le=16)
    """g: patterns of g x g neighbouring positions enter as g^2 channels, and g^2 patches leave
    (PtychoPINN's grouping)."""

    periphery_binning: int = PydanticField(default=1, ge=1, le=16)
    """b: one-shot networks predict a second time what surrounds the centre of a patch, in pixels b
    times as large, for probes that fill the frame. 1: full resolution everywhere."""

    fine_window: float = PydanticField(default=0.5, gt=0, lt=1)
    """Side of the centre that keeps the full resolution, over that of the frame. It passes into the
    periphery over a pixel of the latter. Needs ``periphery_binning`` above 1."""

    checkpoint: str | None = None
    """A generator saved with ``save_generator``, to start from instead of random weights. What
    makes up the network (architecture, width, number of layers) is taken from there; set to
    something else than saved it is an error. The projections are those of its training, unless
    ``start`` is set; their number is left open where the probe is refined."""

    def get_dict(self) -> dict[str, Any]:
        """All options, as JSON has them, without groups of architectures that a script registered
        and that are not in use: files would be readable only where they are registered, too."""
        of_others = [
            name
            for name, facts in ARCHITECTURES.items()
            if facts.group is not None
            and not facts.group.__module__.startswith("ptychi_neural.")
            and name != self.architecture
            and getattr(self, name) == facts.group()
        ]
        written = super().get_dict()
        return {name: value for name, value in written.items() if name not in of_others}

    def different_structure(self, other: "GeneratorOptions") -> list[str]:
        """Names of the options that make another network, or another use of it, and differ."""
        ours, others = _structure(self), _structure(other)
        return [name for name in ours if ours[name] != others[name]]

    def with_structure_of(self, saved: "GeneratorOptions") -> "GeneratorOptions":
        """A copy that builds the saved network: what is left at its default is taken from there.

        Raises
        ------
        ValueError
            If something is set to neither its default nor what was saved.
        """
        completed, ours, of_saved = copy.deepcopy(self), _structure(self), _structure(saved)
        set_otherwise = []
        for name in self.different_structure(saved):
            if ours[name] != _structure(GeneratorOptions())[name]:
                set_otherwise.append(f"{name} = {ours[name]!r} (saved: {of_saved[name]!r})")
            *group, last = name.split(".")
            setattr(reduce(getattr, group, completed), last, of_saved[name])
        if set_otherwise:
            raise ValueError(
                f"was saved with other options than {', '.join(set_otherwise)}. Leave them out, or "
                "train anew."
            )
        return completed


_OF_TRAINING = {f.name for f in fields(ParameterOptions)} | {
    *("gradient_clipping", "checkpoint"),
    *("n_splits", "gradient_iterations", "activation_checkpointing", "batch_pixels"),
}
"""Options that a saved generator may be used with in another setting than it was trained with."""


def _structure(options: Options) -> dict[str, Any]:
    """Dotted names and values of the options that make up the network or its use."""
    structure: dict[str, Any] = {}
    for name in (f.name for f in fields(options) if f.name not in _OF_TRAINING):
        value = getattr(options, name)
        if isinstance(value, Options):
            structure |= {f"{name}.{inner}": v for inner, v in _structure(value).items()}
        else:
            structure[name] = value
    return structure


@dataclasses.dataclass(frozen=True)
class ArchitectureFacts:
    """What options have to know of an architecture."""

    group: type[Options] | None
    """Class of its own options; None if it has none."""

    unused: frozenset[str]
    """Names of the options of ``GeneratorOptions`` that have no effect with it."""

    one_shot: bool
    """Whether it makes a patch of every pattern, instead of working on the object."""


ARCHITECTURES: dict[str, ArchitectureFacts] = {}
"""Registered architectures by name."""


def add_architecture(name: str, facts: ArchitectureFacts) -> None:
    """Make an architecture a choice of ``generator.architecture``, with its group of options.

    Raises
    ------
    ValueError
        If there is an architecture, or another option, of that name, or it is no name.
    """
    if name in ARCHITECTURES:
        raise ValueError(f"There is an architecture {name!r} already: choose another name.")
    if hasattr(GeneratorOptions(), name):
        raise ValueError(f"GeneratorOptions has {name!r} already: choose another name.")
    add_choice(choices.Architectures, name)
    if facts.group is None:
        make_anew(GeneratorOptions)
    else:
        add_group(GeneratorOptions, name, facts.group)
    ARCHITECTURES[name] = facts


def add_lifter(name: str) -> None:
    """Make a lifter a choice of ``generator.lifter``."""
    add_choice(choices.Lifters, name)
    make_anew(GeneratorOptions)


def own_options(generator: GeneratorOptions) -> Options | None:
    """The group of options of the chosen architecture; None if it has none."""
    own: Options | None = getattr(generator, generator.architecture, None)
    return own
