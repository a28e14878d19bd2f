"""What a script or run file sets: a file for each group, and what is refused and why."""

from ptychi_neural.options.consistency import ConsistencyOptions
from ptychi_neural.options.fit_loss import FitLossOptions
from ptychi_neural.options.generator import GeneratorOptions
from ptychi_neural.options.intensity_scale import IntensityScaleOptions
from ptychi_neural.options.start import StartOptions
from ptychi_neural.options.task import (
    NeuralObjectOptions,
    NeuralOPRModeWeightsOptions,
    NeuralProbeOptions,
    NeuralProbePositionOptions,
    NeuralPtychographyOptions,
    NeuralReconstructorOptions,
)
from ptychi_neural.options.validation import ValidationOptions

__all__ = [
    "ConsistencyOptions",
    "FitLossOptions",
    "GeneratorOptions",
    "IntensityScaleOptions",
    "NeuralOPRModeWeightsOptions",
    "NeuralObjectOptions",
    "NeuralProbeOptions",
    "NeuralProbePositionOptions",
    "NeuralPtychographyOptions",
    "NeuralReconstructorOptions",
    "StartOptions",
    "ValidationOptions",
]
