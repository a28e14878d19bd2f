"""What a script touches. Importing it registers the engine with pty-chi."""

from ptychi_neural.api.enums import (
    Architectures,
    Blocks,
    CascadeLinks,
    Downsamplings,
    Fusions,
    Heads,
    Lifters,
    NeuralReconstructors,
    StitchScopes,
    StitchWeightings,
    UnrolledNetworks,
    Upsamplings,
)
from ptychi_neural.api.options import (
    CascadedOptions,
    CNNOptions,
    ConsistencyOptions,
    GeneratorOptions,
    HybridUNOOptions,
    IntensityScaleOptions,
    NeuralObjectOptions,
    NeuralOPRModeWeightsOptions,
    NeuralProbeOptions,
    NeuralProbePositionOptions,
    NeuralPtychographyOptions,
    NeuralReconstructorOptions,
    StartOptions,
    UnrolledOptions,
)
from ptychi_neural.api.registration import register

__all__ = [
    "Architectures",
    "Blocks",
    "CNNOptions",
    "CascadeLinks",
    "CascadedOptions",
    "ConsistencyOptions",
    "Downsamplings",
    "Fusions",
    "GeneratorOptions",
    "Heads",
    "HybridUNOOptions",
    "IntensityScaleOptions",
    "Lifters",
    "NeuralOPRModeWeightsOptions",
    "NeuralObjectOptions",
    "NeuralProbeOptions",
    "NeuralProbePositionOptions",
    "NeuralPtychographyOptions",
    "NeuralReconstructorOptions",
    "NeuralReconstructors",
    "StartOptions",
    "StitchScopes",
    "StitchWeightings",
    "UnrolledNetworks",
    "UnrolledOptions",
    "Upsamplings",
]

register()
