"""What a script touches. Importing it registers the engine with pty-chi."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptychi_neural.engine.registration import register
from ptychi_neural.generators import (
    register_architecture,
    register_correcting_network,
    register_lifter,
)
from ptychi_neural.generators.architectures.cascaded import CascadedOptions
from ptychi_neural.generators.architectures.cnn import CNNOptions
from ptychi_neural.generators.architectures.hybrid_uno import HybridUNOOptions
from ptychi_neural.generators.unrolled_options import UnrolledOptions
from ptychi_neural.options import (
    ConsistencyOptions,
    FitLossOptions,
    GeneratorOptions,
    IntensityScaleOptions,
    NeuralObjectOptions,
    NeuralOPRModeWeightsOptions,
    NeuralProbeOptions,
    NeuralProbePositionOptions,
    NeuralPtychographyOptions,
    NeuralReconstructorOptions,
    StartOptions,
    ValidationOptions,
)
from ptychi_neural.options.choices import (
    Architectures,
    Blocks,
    CascadeLinks,
    Downsamplings,
    Fusions,
    Heads,
    Lifters,
    NeighbourMixings,
    NeuralReconstructors,
    PriorInputs,
    SkipSources,
    SpectralLevels,
    StitchScopes,
    StitchWeightings,
    UnrolledNetworks,
    Upsamplings,
)

if TYPE_CHECKING:
    from ptychi_neural.prediction import NeuralPredictor
    from ptychi_neural.runs import NeuralWarmStartWorkflow
    from ptychi_neural.training import MultiscanTrainingWorkflow, TrainingScan

__all__ = [
    "Architectures",
    "Blocks",
    "CNNOptions",
    "CascadeLinks",
    "CascadedOptions",
    "ConsistencyOptions",
    "Downsamplings",
    "FitLossOptions",
    "Fusions",
    "GeneratorOptions",
    "Heads",
    "HybridUNOOptions",
    "IntensityScaleOptions",
    "Lifters",
    "MultiscanTrainingWorkflow",
    "NeighbourMixings",
    "NeuralOPRModeWeightsOptions",
    "NeuralObjectOptions",
    "NeuralPredictor",
    "NeuralProbeOptions",
    "NeuralProbePositionOptions",
    "NeuralPtychographyOptions",
    "NeuralReconstructorOptions",
    "NeuralReconstructors",
    "NeuralWarmStartWorkflow",
    "PriorInputs",
    "SkipSources",
    "SpectralLevels",
    "StartOptions",
    "StitchScopes",
    "StitchWeightings",
    "TrainingScan",
    "UnrolledNetworks",
    "UnrolledOptions",
    "Upsamplings",
    "ValidationOptions",
    "register",
    "register_architecture",
    "register_correcting_network",
    "register_lifter",
]

register()

_LAZY = {
    "MultiscanTrainingWorkflow": "ptychi_neural.training",
    "NeuralPredictor": "ptychi_neural.prediction",
    "NeuralWarmStartWorkflow": "ptychi_neural.runs",
    "TrainingScan": "ptychi_neural.training",
}
"""Names whose modules are imported when they are asked for, which takes seconds."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
