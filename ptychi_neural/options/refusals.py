"""What is asked for that the engine cannot honour: it is refused by name, never ignored."""

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING, Any

import ptychi.api.enums as pty_enums
from ptychi.api.options.base import Options

from ptychi_neural.options import choices
from ptychi_neural.options.generator import (
    ARCHITECTURES,
    GeneratorOptions,
    own_options,
)
from ptychi_neural.options.honoured import REFUSED
from ptychi_neural.options.workable import unworkable

if TYPE_CHECKING:
    from ptychi_neural.options.task import NeuralPtychographyOptions


def unsupported_options(options: "NeuralPtychographyOptions") -> Iterator[str]:
    """Tell what the engine cannot honour: option, reason and remedy, one by one."""
    reconstructor = options.reconstructor_options
    generator = reconstructor.generator
    yield from _options_of_other_architectures(generator)

    yield from _refused(options)
    spacing = options.object_options.slice_spacing_options
    if spacing.optimizable and len(options.object_options.slice_spacings_m or ()) == 0:
        yield (
            "object_options.slice_spacing_options.optimizable: the object has one slice; leave it, "
            "or give object_options.slice_spacings_m"
        )
    one_shot = ARCHITECTURES[generator.architecture].one_shot
    if not one_shot and reconstructor.consistency.scope != choices.StitchScopes.BATCH:
        yield (
            "reconstructor_options.consistency.scope: has no effect with "
            f"reconstructor_options.generator.architecture = {generator.architecture.value!r}, "
            "which makes no patches"
        )
    yield from reconstructor.fit_loss.problems(reconstructor.num_epochs)
    blur = reconstructor.forward_model_options.diffraction_pattern_blur_sigma
    if blur is not None and round(blur * 10) % 2 == 1:
        yield (
            f"reconstructor_options.forward_model_options.diffraction_pattern_blur_sigma = {blur}: "
            "pty-chi blurs with round(10 sigma) + 1 pixels, which has to be odd; choose "
            f"{round(blur * 10 + 1) / 10}"
        )
    if generator.optimizer == pty_enums.Optimizers.LBFGS:
        yield "reconstructor_options.generator.optimizer = LBFGS: minibatches need ADAM or the like"
    if reconstructor.default_dtype == pty_enums.Dtypes.FLOAT16:
        yield "reconstructor_options.default_dtype = FLOAT16: FFTs need FLOAT32 or FLOAT64"
    yield from unworkable(options)


def _refused(options: "NeuralPtychographyOptions") -> Iterator[str]:
    """Tell which of the options in ``REFUSED`` are set to something else than their defaults."""
    defaults = type(options)()
    for name, why in REFUSED.items():
        value, default = (reduce(getattr, name.split("."), of) for of in (options, defaults))
        if name.startswith("probe_options.pixel_size"):  # The object's own is no other.
            default = default if value is None else getattr(options.object_options, name[14:])
        if _is_on(value) if _has_switch(value) else value != default:
            yield f"{name}: {why}"


def _has_switch(value: Any) -> bool:
    """Whether a group of options, or one in it, is switched on and off."""
    return isinstance(value, Options) and (
        hasattr(value, "enabled") or any(map(_has_switch, vars(value).values()))
    )


def _is_on(value: Any) -> bool:
    """Whether a group with a switch, or one in it, is on."""
    if not isinstance(value, Options):
        return False
    return bool(getattr(value, "enabled", False)) or any(map(_is_on, vars(value).values()))


def _options_of_other_architectures(generator: GeneratorOptions) -> Iterator[str]:
    architecture = generator.architecture
    where = "reconstructor_options.generator"
    chosen, defaults = ARCHITECTURES[architecture], GeneratorOptions()
    no_effect = f"has no effect with {where}.architecture = {architecture.value!r}"
    for name, facts in ARCHITECTURES.items():
        if name == architecture or facts.group is None:
            continue
        if getattr(generator, name) != facts.group():
            yield f"{where}.{name}: {no_effect}"
    for name in sorted(chosen.unused | (set() if chosen.one_shot else {"periphery_binning"})):
        if getattr(generator, name) != getattr(defaults, name):
            yield f"{where}.{name}: {no_effect}"
    if generator.periphery_binning == 1 and generator.fine_window != defaults.fine_window:
        yield f"{where}.fine_window: has no effect with {where}.periphery_binning = 1"
    if generator.lifter == choices.Lifters.CNN and not generator.shallow_cnn:
        yield f"{where}.shallow_cnn = False: the lifter 'cnn' is the shallow CNN"
    if generator.head == choices.Heads.REAL_IMAGINARY and generator.maximum_amplitude is not None:
        yield f"{where}.maximum_amplitude: has no effect with {where}.head = 'real_imaginary'"
    for problem in getattr(own_options(generator), "problems", list)():
        yield f"{where}.{architecture.value}.{problem}"
