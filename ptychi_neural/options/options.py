"""Options of the neural engine, beside pty-chi's own: ``NeuralPtychographyOptions``."""

import copy
from collections.abc import Iterator
from dataclasses import field, fields
from functools import reduce
from typing import Any

import ptychi.api.enums as pty_enums
import ptychi.api.options.ad_ptychography as ad
from ptychi.api.options.base import Options, ParameterOptions
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass

from ptychi_neural.options import choices as enums


@dataclass
class CascadedOptions(Options):
    """Architecture A: blocks at constant resolution, then a convolutional U-Net refiner."""

    n_blocks: int = PydanticField(default=4, ge=1)
    """Number of blocks of stage 1 (L in the proposal)."""

    link: enums.CascadeLinks = enums.CascadeLinks.IMAGE
    """What passes from stage 1 to the refiner."""

    refiner_depth: int = PydanticField(default=2, ge=1)
    """Number of levels of the refiner below its input resolution."""

    channel_cap: int = PydanticField(default=128, ge=1)
    """Largest number of channels of the refiner, whose levels double the width."""

    stage_one_epochs: int = PydanticField(default=0, ge=0)
    """Epochs in which stage 1 alone is trained, on its rough object, before both are trained end
    to end. Needs ``link = "image"``."""

    rough_loss_weight: float = PydanticField(default=0.0, ge=0)
    """Weight of an auxiliary data loss on the rough object. Needs ``link = "image"``."""


@dataclass
class HybridUNOOptions(Options):
    """Architecture B: spectral encoder with skips from its local path, convolutional decoder."""

    depth: int = PydanticField(default=2, ge=1)
    """Number of levels below the input resolution."""

    n_bottleneck_blocks: int = PydanticField(default=1, ge=1)
    """Number of spectral blocks at the lowest resolution."""

    downsampling: enums.Downsamplings = enums.Downsamplings.STRIDED
    """Strided convolution or mean pooling."""

    upsampling: enums.Upsamplings = enums.Upsamplings.TRANSPOSED
    """Transposed convolution or bilinear interpolation and a convolution."""

    fusion: enums.Fusions = enums.Fusions.CONCATENATE
    """How the decoder takes in a skip."""

    channel_cap: int = PydanticField(default=128, ge=1)
    """Largest number of channels: levels double the width up to this."""


@dataclass
class CNNOptions(Options):
    """Architecture C: PtychoPINN's encoder with an amplitude and a phase decoder.

    Hoidn et al., Scientific Reports 13, 22789 (2023).
    """

    depth: int = PydanticField(default=3, ge=1)
    """Number of levels below the input resolution."""

    downsampling: enums.Downsamplings = enums.Downsamplings.MAX
    """Max pooling as published, mean pooling or strided convolution."""

    channel_cap: int = PydanticField(default=256, ge=1)
    """Largest number of channels: levels double the width up to this."""


@dataclass
class UnrolledOptions(Options):
    """Unrolled generator: data-consistency updates, each corrected by a small network."""

    n_iterations: int = PydanticField(default=1, ge=1)
    """Number of unrolled iterations (K)."""

    shared_weights: bool = True
    """One network for all iterations, or one for each."""

    network: enums.UnrolledNetworks = enums.UnrolledNetworks.DILATED
    """The correcting network."""

    n_layers: int = PydanticField(default=4, ge=1)
    """Blocks (dilated, spectral) or levels (U-Net, hybrid U-NO) of the network. Four dilated blocks
    see 21 pixels far; two see 7, and err 1 to 5 % more where light is scarce."""

    symmetric: bool = True
    """Train in random orientations (flips, transposition) of the object, and average the
    correction over them when it is applied."""

    averaged_orientations: int = PydanticField(default=8, ge=1, le=8)
    """Of the eight. A network that was fitted to one scan errs up to 4 % less with all of them than
    with two, one that was trained on many scans less than 1 %."""

    n_splits: int = PydanticField(default=4, ge=1, le=100)
    """Splits of the measured pixels. In each epoch the network sees a start and updates made
    without the pixels of one split, and the loss is that of this split: what it learns is to
    predict, not to copy the noise. 1: input and loss see the same pixels. Nothing is hidden by
    splitting if the task's object has already been fitted to the data."""

    gradient_iterations: int | None = PydanticField(default=None, ge=1)
    """Number of last iterations through which the gradient passes. None: all."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""


@dataclass
class GeneratorOptions(ParameterOptions):
    """The generator: which network, and how it is trained.

    ``optimizer``, ``step_size``, ``optimizer_params`` and ``optimization_plan`` (with its
    scheduler) have pty-chi's meaning.
    """

    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = PydanticField(default=5e-3, gt=0)

    gradient_clipping: float | None = PydanticField(default=1.0, gt=0)
    """Largest norm of the generator's gradient; None: no limit."""

    architecture: enums.Architectures = enums.Architectures.UNROLLED

    lifter: enums.Lifters = enums.Lifters.STANDARDIZED
    """What the network sees of a pattern. Standardised log counts are the default: on simulated
    scans the proposal's plain CNN lifter gave about twice their error."""

    shallow_cnn: bool = True
    """Lift with 3x3 convolution, GELU, 3x3 convolution; False: with one 1x1 convolution."""

    width: int = PydanticField(default=16, ge=1)
    """Channels at the input resolution."""

    block: enums.Blocks = enums.Blocks.PTYCHO
    """Block of the spectral architectures."""

    n_modes: int | list[int] | None = None
    """Retained Fourier modes along each axis (both signs counted): one number for all levels, or
    one for each level from the finest down. None: half of the patch size of each level, at most
    32."""

    head: enums.Heads = enums.Heads.AMPLITUDE_PHASE

    maximum_amplitude: float | None = PydanticField(default=None, gt=1)
    """Upper limit of the amplitude that the amplitude/phase head can give, relative to the
    object it starts from. None: learned, starting at 2."""

    grid_size: int = PydanticField(default=1, ge=1)
    """g: patterns of g x g neighbouring positions enter as g^2 channels, and g^2 patches leave
    (PtychoPINN's grouping)."""

    checkpoint: str | None = None
    """A generator saved with ``save_generator``, to start from instead of random weights. What
    makes up the network (architecture, width, number of layers) is taken from there; set to
    something else than saved it is an error. The projections are those of its training, unless
    ``start`` is set; their number is left open where the probe is refined."""

    cascaded: CascadedOptions = field(default_factory=CascadedOptions)

    hybrid_uno: HybridUNOOptions = field(default_factory=HybridUNOOptions)

    cnn: CNNOptions = field(default_factory=CNNOptions)

    unrolled: UnrolledOptions = field(default_factory=UnrolledOptions)

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
    *("n_splits", "gradient_iterations", "activation_checkpointing"),
}


def _structure(options: Options) -> dict[str, Any]:
    """Dotted names and values of the options that training is not free to change."""
    structure: dict[str, Any] = {}
    for name in (f.name for f in fields(options) if f.name not in _OF_TRAINING):
        value = getattr(options, name)
        if isinstance(value, Options):
            structure |= {f"{name}.{inner}": v for inner, v in _structure(value).items()}
        else:
            structure[name] = value
    return structure


@dataclass
class ConsistencyOptions(Options):
    """The stitch-and-extract layer."""

    stitch_weighting: enums.StitchWeightings = enums.StitchWeightings.PROBE_INTENSITY

    scope: enums.StitchScopes = enums.StitchScopes.BATCH

    canvas_update_stride: int = PydanticField(default=5, ge=1)
    """Epochs between assemblies of the scan-wide object in ``task.object``, with which held-out
    pixels are predicted. It is always assembled at the end of a run."""


@dataclass
class IntensityScaleOptions(ParameterOptions):
    """The scale between predicted and measured intensities."""

    optimizable: bool = True
    """Whether the scale is learned along with the generator."""

    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = PydanticField(default=1e-3, gt=0)
    """Step size for the scale's logarithm."""

    start_from_data: bool = True
    """Start at the ratio of measured to predicted counts. False: trust the probe's power."""


@dataclass
class StartOptions(Options):
    """Accelerated projections without a network, from which the generator starts.

    Every pattern's counts are imposed on its exit wave - by their modulus, or as the Poisson
    likelihood weights them where it is the loss and the probe is known -, the back-projected
    patches are stitched into one object, and the object carries momentum.
    """

    n_iterations: int | None = PydanticField(default=None, ge=0)
    """Number of iterations over the whole scan before the first epoch; fewer where no step lowers
    the loss any more. None: from the counts per object pixel, because more follow finer features
    of the likelihood, which are noise where light is scarce; and with the Poisson loss no further
    than to the best prediction of the held-out pixels, once that has been lost by 0.02 nats per
    pixel."""

    momentum: float = PydanticField(default=0.97, ge=0, lt=1)
    """Largest momentum. It grows as k / (k + 3) with the iterations."""

    regularization: float = PydanticField(default=1e-3, gt=0)
    """Added to the probe intensity in the back-projection, relative to its maximum."""

    transfer_floor: float | None = PydanticField(default=0.1, gt=0)
    """With a known probe, updates are divided by the probe's contrast transfer plus this, so that
    coarse phase, which the data tell least of, comes as fast as the rest. None: not divided."""

    moment_iterations: int = PydanticField(default=0, ge=0)
    """With a known probe and patterns of the far field, so many early iterations also turn the
    object by the coarse phase that the patterns' first moments tell of (differential phase
    contrast): 16 iterations come as far as 32 without. 0: none."""

    alternate_halves: bool = False
    """With a known probe, all iterations but the last few see every second frame, in turn with the
    others: half the time, and the same object where half of the frames still overlap well."""

    total_variation: float | None = PydanticField(default=None, ge=0)
    """Weight of total-variation denoising of real and imaginary part of the projected object
    (Chambolle, J. Math. Imaging Vis. 20, 89 (2004)), in units of the object. None: the one of
    0, 0.01, 0.02, 0.05, 0.1 and 0.2 that predicts the held-out pixels best; 0 where there are
    none. A generator is saved with the weight of its training."""

    from_empty: bool = False
    """Start from an empty object (1 + 0i) instead of the task's."""


@dataclass
class ValidationOptions(Options):
    """Stopping where it is best: by the likelihood of pixels that nothing else sees."""

    held_out: float = PydanticField(default=0.03, ge=0, lt=0.5)
    """Share of the detector pixels of each pattern, drawn at random with the run's seed, that are
    kept out of input, updates and loss. When a run ends, the state that predicts them best is
    what the task holds. 0: no validation, the last state is the result."""

    patience: int | None = PydanticField(default=50, ge=1)
    """Epochs without a better prediction after which a run ends. None: run all epochs."""


@dataclass
class NeuralReconstructorOptions(ad.AutodiffPtychographyReconstructorOptions):
    loss_function: pty_enums.LossFunctions = pty_enums.LossFunctions.POISSON
    """Poisson likelihood (up to a constant that depends on the data alone), or any other loss
    function of pty-chi, on intensities in counts."""

    num_epochs: int = PydanticField(default=120, ge=0)

    batch_size: int | None = PydanticField(default=None, ge=1)  # type: ignore[assignment]
    """Frames in a batch. None: chosen from the scan."""

    batching_mode: pty_enums.BatchingModes = pty_enums.BatchingModes.COMPACT
    """Compact batches by default: a stitch constrains only patches that overlap."""

    generator: GeneratorOptions = field(default_factory=GeneratorOptions)

    consistency: ConsistencyOptions = field(default_factory=ConsistencyOptions)

    intensity_scale: IntensityScaleOptions = field(default_factory=IntensityScaleOptions)

    start: StartOptions = field(default_factory=StartOptions)

    validation: ValidationOptions = field(default_factory=ValidationOptions)

    def get_reconstructor_type(self) -> enums.NeuralReconstructors:  # type: ignore[override]
        return enums.NeuralReconstructors.NEURAL


@dataclass
class NeuralObjectOptions(ad.AutodiffPtychographyObjectOptions):
    """pty-chi's object options. ``remove_object_probe_ambiguity`` acts when a run ends."""


@dataclass
class NeuralProbeOptions(ad.AutodiffPtychographyProbeOptions):
    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = 1e-3
    """Step size, relative to the largest amplitude of the initial probe."""


@dataclass
class NeuralProbePositionOptions(ad.AutodiffPtychographyProbePositionOptions):
    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = 1e-2
    """Step size in pixels."""


@dataclass
class NeuralOPRModeWeightsOptions(ad.AutodiffPtychographyOPRModeWeightsOptions):
    optimizer: pty_enums.Optimizers = pty_enums.Optimizers.ADAM

    step_size: float = 1e-3


@dataclass
class NeuralPtychographyOptions(ad.AutodiffPtychographyOptions):
    """Options of the neural engine, handed to ``PtychographyTask`` as any engine's are."""

    reconstructor_options: NeuralReconstructorOptions = field(
        default_factory=NeuralReconstructorOptions
    )

    object_options: NeuralObjectOptions = field(default_factory=NeuralObjectOptions)

    probe_options: NeuralProbeOptions = field(default_factory=NeuralProbeOptions)

    probe_position_options: NeuralProbePositionOptions = field(
        default_factory=NeuralProbePositionOptions
    )

    opr_mode_weight_options: NeuralOPRModeWeightsOptions = field(
        default_factory=NeuralOPRModeWeightsOptions
    )

    def check(self, *args: object, **kwargs: object) -> None:
        super().check(*args, **kwargs)
        problems = list(unsupported_options(self))
        if problems:
            raise ValueError(
                "The neural engine cannot honour these options:\n- " + "\n- ".join(problems)
            )


def unsupported_options(options: NeuralPtychographyOptions) -> Iterator[str]:
    """What is asked for that the engine cannot honour: option, reason and remedy, one by one."""
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
    unrolled = generator.architecture == enums.Architectures.UNROLLED
    if unrolled and reconstructor.consistency.scope != enums.StitchScopes.BATCH:
        yield (
            "reconstructor_options.consistency.scope: has no effect with "
            "reconstructor_options.generator.architecture = 'unrolled', which makes no patches"
        )
    projects = (
        reconstructor.start.n_iterations != 0
        or unrolled
        or generator.lifter == enums.Lifters.BACKPROJECTION
    )
    blur = reconstructor.forward_model_options.diffraction_pattern_blur_sigma
    if projects and blur is not None:
        yield (
            "reconstructor_options.forward_model_options.diffraction_pattern_blur_sigma: "
            "projections (start, 'unrolled', 'backprojection') take patterns as they are"
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
    for name, default in (
        ("cascaded", CascadedOptions()),
        ("hybrid_uno", HybridUNOOptions()),
        ("cnn", CNNOptions()),
        ("unrolled", UnrolledOptions()),
    ):
        if name != architecture and getattr(generator, name) != default:
            yield f"{where}.{name}: has no effect with {where}.architecture = {architecture!r}"
    defaults = GeneratorOptions()
    unused = {
        enums.Architectures.CNN: ("block", "n_modes"),
        enums.Architectures.UNROLLED: (
            "lifter", "shallow_cnn", "head", "maximum_amplitude", "grid_size",
        ),
    }  # fmt: skip
    for name in unused.get(architecture, ()):
        if getattr(generator, name) != getattr(defaults, name):
            yield f"{where}.{name}: has no effect with {where}.architecture = {architecture!r}"
    if generator.lifter == enums.Lifters.CNN and not generator.shallow_cnn:
        yield f"{where}.shallow_cnn = False: the lifter 'cnn' is the shallow CNN"
    if generator.head == enums.Heads.REAL_IMAGINARY and generator.maximum_amplitude is not None:
        yield f"{where}.maximum_amplitude: has no effect with {where}.head = 'real_imaginary'"
    cascaded = generator.cascaded
    if cascaded.link == enums.CascadeLinks.FEATURES and (
        cascaded.stage_one_epochs > 0 or cascaded.rough_loss_weight > 0
    ):
        yield (
            f"{where}.cascaded.stage_one_epochs, rough_loss_weight: need a rough object; set "
            f"{where}.cascaded.link = 'image'"
        )
    if generator.hybrid_uno.downsampling == enums.Downsamplings.MAX:
        yield f"{where}.hybrid_uno.downsampling: 'strided' or 'mean'"
