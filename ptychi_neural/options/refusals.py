"""What is asked for that the engine cannot honour: it is refused by name, never ignored."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import ptychi.api.enums as pty_enums

from ptychi_neural.options import choices
from ptychi_neural.options.generator import (
    ARCHITECTURES,
    GeneratorOptions,
    own_options,
)

if TYPE_CHECKING:
    from ptychi_neural.options.task import NeuralPtychographyOptions


def unsupported_options(options: "NeuralPtychographyOptions") -> Iterator[str]:
    """Tell what the engine cannot honour: option, reason and remedy, one by one."""
    reconstructor = options.reconstructor_options
    generator = reconstructor.generator
    yield from _options_of_other_architectures(generator)

    object_options = options.object_options
    if not object_options.optimizable:
        yield (
            "object_options.optimizable = False: the object is the generator's; keep it with "
            "reconstructor_options.generator.optimizable = False"
        )
    for name in (
        "smoothness_constraint",
        "hard_limits_magnitude_phase",
        "remove_grid_artifacts",
        "multislice_regularization",
    ):
        if getattr(object_options, name).enabled:
            yield (
                f"object_options.{name}: the generator would undo it in the next epoch; disable "
                "it, or run a classical engine from this result"
            )
    priors = (
        object_options.experimental.deep_image_prior_options,
        options.probe_options.experimental.deep_image_prior_options,
    )
    if any(prior is not None and prior.enabled for prior in priors):
        yield "experimental.deep_image_prior_options: use the autodiff engine for it"
    if options.probe_options.power_constraint.enabled:
        yield (
            "probe_options.power_constraint: the probe's power is learned; see "
            "reconstructor_options.intensity_scale"
        )
    probe_options = options.probe_options
    if probe_options.pixel_size_m not in (None, object_options.pixel_size_m) or (
        probe_options.pixel_size_aspect_ratio not in (None, object_options.pixel_size_aspect_ratio)
    ):
        yield (
            "probe_options.pixel_size_m: patches are made on the object's grid; leave it and "
            "pixel_size_aspect_ratio None"
        )
    one_shot = ARCHITECTURES[generator.architecture].one_shot
    if not one_shot and reconstructor.consistency.scope != choices.StitchScopes.BATCH:
        yield (
            "reconstructor_options.consistency.scope: has no effect with "
            f"reconstructor_options.generator.architecture = {generator.architecture.value!r}, "
            "which makes no patches"
        )
    blur = reconstructor.forward_model_options.diffraction_pattern_blur_sigma
    if blur is not None and round(blur * 10) % 2 == 1:
        yield (
            f"reconstructor_options.forward_model_options.diffraction_pattern_blur_sigma = {blur}: "
            "pty-chi blurs with round(10 sigma) + 1 pixels, which has to be odd; choose "
            f"{round(blur * 10 + 1) / 10}"
        )
    if generator.optimizer == pty_enums.Optimizers.LBFGS:
        yield "reconstructor_options.generator.optimizer = LBFGS: minibatches need ADAM or the like"
    if reconstructor.forward_model_class != pty_enums.ForwardModels.PLANAR_PTYCHOGRAPHY:
        yield "reconstructor_options.forward_model_class: the engine brings its own; leave it"
    if reconstructor.forward_model_params:
        yield "reconstructor_options.forward_model_params: use forward_model_options"
    if reconstructor.default_dtype == pty_enums.Dtypes.FLOAT16:
        yield "reconstructor_options.default_dtype = FLOAT16: FFTs need FLOAT32 or FLOAT64"


def _options_of_other_architectures(generator: GeneratorOptions) -> Iterator[str]:
    architecture = generator.architecture
    where = "reconstructor_options.generator"
    for name, facts in ARCHITECTURES.items():
        if name == architecture or facts.group is None:
            continue
        if getattr(generator, name) != facts.group():
            yield f"{where}.{name}: has no effect with {where}.architecture = {architecture!r}"
    defaults = GeneratorOptions()
    for name in sorted(ARCHITECTURES[architecture].unused):
        if getattr(generator, name) != getattr(defaults, name):
            yield f"{where}.{name}: has no effect with {where}.architecture = {architecture!r}"
    if generator.lifter == choices.Lifters.CNN and not generator.shallow_cnn:
        yield f"{where}.shallow_cnn = False: the lifter 'cnn' is the shallow CNN"
    if generator.head == choices.Heads.REAL_IMAGINARY and generator.maximum_amplitude is not None:
        yield f"{where}.maximum_amplitude: has no effect with {where}.head = 'real_imaginary'"
    for problem in getattr(own_options(generator), "problems", list)():
        yield f"{where}.{architecture.value}.{problem}"
