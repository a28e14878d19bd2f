"""What a script touches. Importing it registers the engine with pty-chi."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptychi_neural.engine.registration import register
from ptychi_neural.options.choices import (
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
from ptychi_neural.options.options import (
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
    ValidationOptions,
)

if TYPE_CHECKING:
    from ptychi_neural.prediction import NeuralPredictor

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
    "NeuralPredictor",
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
    "ValidationOptions",
]

register()

_LAZY = {
    "MultiscanTrainingWorkflow": "ptychi_neural.runs",
    "NeuralPredictor": "ptychi_neural.prediction",
    "NeuralWarmStartWorkflow": "ptychi_neural.runs",
    "TrainingScan": "ptychi_neural.runs",
}
"""Names that are imported when they are asked for: their modules import this one."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
