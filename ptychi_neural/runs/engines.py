"""The catalogue of engines, which run files and comparisons share."""

from dataclasses import dataclass
from typing import Any

import ptychi.api as api
from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural.engine.registration import register
from ptychi_neural.options import NeuralPtychographyOptions, StartOptions

register()  # The command line imports the package without registering the engine.


@dataclass(frozen=True)
class Engine:
    """An engine as the catalogue knows it."""

    options_class: type[PtychographyTaskOptions]
    """Options that choose the engine in pty-chi."""

    variant_of: str | None = None
    """Name of the engine that this one runs with other settings. Run files name that engine."""

    comparison_settings: dict[str, Any] | None = None
    """Options, as in a run file, in which comparisons differ from the engine's defaults in order
    to make it a strong baseline. None: comparisons do not offer the engine."""

    total_variation_weights: tuple[float, ...] = ()
    """Weights of ``start.total_variation``, in units of the object, that a comparison tries where
    the option is None. It keeps the best run."""


def _classical(
    options_class: type[PtychographyTaskOptions],
    variant_of: str | None = None,
    **groups: dict[str, Any],
) -> Engine:
    """An engine of pty-chi that comparisons run for 200 epochs."""
    reconstructor = {"num_epochs": 200, **groups.pop("reconstructor_options", {})}
    return Engine(options_class, variant_of, {"reconstructor_options": reconstructor, **groups})


_PROJECTIONS = {
    "reconstructor_options": {
        "num_epochs": 0,
        "start": {"n_iterations": 200},
        "validation": {"held_out": 0.0},
    }
}
_LSQML = {"batch_size": 50, "batching_mode": "compact", "momentum_acceleration_gain": 0.5}

CATALOGUE: dict[str, Engine] = {
    "neural": Engine(NeuralPtychographyOptions, comparison_settings={}),
    "network-off": Engine(
        NeuralPtychographyOptions, "neural", {"reconstructor_options": {"num_epochs": 0}}
    ),
    "network-off-tv": Engine(
        NeuralPtychographyOptions,
        "neural",
        _PROJECTIONS,
        tuple(weight for weight in StartOptions().total_variation_weights if weight > 0),
    ),
    "lsqml": _classical(api.LSQMLOptions, reconstructor_options=_LSQML),
    "lsqml-poisson": _classical(
        api.LSQMLOptions, "lsqml", reconstructor_options=_LSQML | {"noise_model": "poisson"}
    ),
    "rpie": _classical(
        api.RPIEOptions,
        reconstructor_options={"batch_size": 10, "batching_mode": "uniform"},
        object_options={"alpha": 0.5},
    ),
    "epie": Engine(api.EPIEOptions),
    "pie": Engine(api.PIEOptions),
    "dm": _classical(api.DMOptions, reconstructor_options={"chunk_length": 50}),
    "raar": Engine(api.RAAROptions),
    "bh": Engine(api.BHOptions),
    "autodiff": _classical(
        api.AutodiffPtychographyOptions,
        reconstructor_options={"batch_size": 50, "loss_function": "mse_sqrt"},
        object_options={"optimizer": "adam", "step_size": 0.1},
        probe_options={"step_size": 0.3},
        probe_position_options={"optimizer": "adam", "step_size": 0.01},
    ),
}
"""Engines by name. The settings of rPIE and autodiff avoid divergence: rPIE diverges in larger
batches of noisy frames, autodiff with the default step of the probe."""
