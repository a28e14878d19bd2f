"""Makes the engine known to pty-chi: its reconstructor maps and its table of options."""

import functools
from collections.abc import Callable
from typing import Any

import ptychi.maps
from ptychi.api.registry import RECONSTRUCTOR_OPTIONS_MAP

from ptychi_neural.api import options
from ptychi_neural.api.enums import NeuralReconstructors


def register() -> None:
    """Register the engine with pty-chi. Calling it again changes nothing."""
    RECONSTRUCTOR_OPTIONS_MAP[NeuralReconstructors.NEURAL] = {  # type: ignore[index]
        "object_options": options.NeuralObjectOptions,
        "probe_options": options.NeuralProbeOptions,
        "probe_position_options": options.NeuralProbePositionOptions,
        "opr_mode_weight_options": options.NeuralOPRModeWeightsOptions,
        "reconstructor_options": options.NeuralReconstructorOptions,
    }
    for name in ("get_reconstructor_by_enum", "get_multiprocess_reconstructor_by_enum"):
        lookup = getattr(ptychi.maps, name)
        if not hasattr(lookup, "knows_neural_engine"):
            setattr(ptychi.maps, name, _knowing_neural_engine(lookup))


def _knowing_neural_engine(lookup: Callable[[Any], type]) -> Callable[[Any], type]:
    @functools.wraps(lookup)
    def wrapper(key: Any) -> type:
        if key is NeuralReconstructors.NEURAL:
            from ptychi_neural.reconstructor import NeuralReconstructor

            return NeuralReconstructor
        return lookup(key)

    wrapper.knows_neural_engine = True  # type: ignore[attr-defined]
    return wrapper
