"""Options of the neural engine, beside pty-chi's own: ``NeuralPtychographyOptions``."""

from dataclasses import field

import ptychi.api.enums as pty_enums
import ptychi.api.options.ad_ptychography as ad
from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass

from ptychi_neural.options.choices import NeuralReconstructors
from ptychi_neural.options.consistency import ConsistencyOptions
from ptychi_neural.options.fit_loss import FitLossOptions
from ptychi_neural.options.generator import GeneratorOptions
from ptychi_neural.options.intensity_scale import IntensityScaleOptions
from ptychi_neural.options.open_choices import contains
from ptychi_neural.options.refusals import unsupported_options
from ptychi_neural.options.start import StartOptions
from ptychi_neural.options.validation import ValidationOptions


@contains(GeneratorOptions)
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

    fit_loss: FitLossOptions = field(default_factory=FitLossOptions)

    def get_reconstructor_type(self) -> NeuralReconstructors:  # type: ignore[override]
        return NeuralReconstructors.NEURAL


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


@contains(GeneratorOptions)
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

    def load_from_dict(self, d: dict, strict: bool = False) -> "NeuralPtychographyOptions":
        """Load values as pty-chi does, into the same groups: a task that has them learns of it."""
        groups = {name: group for name, group in vars(self).items() if isinstance(group, Options)}
        super().load_from_dict(d, strict)
        for name, group in groups.items():
            for option, value in vars(getattr(self, name)).items():
                setattr(group, option, value)
            setattr(self, name, group)
        return self

    def check(self, *args: object, **kwargs: object) -> None:
        super().check(*args, **kwargs)
        problems = list(unsupported_options(self))
        if problems:
            raise ValueError(
                "The neural engine cannot honour these options:\n- " + "\n- ".join(problems)
            )
