"""The engines that can be compared, and the options that a comparison gives them."""

from collections.abc import Collection
from typing import Any

from ptychi.api.options.task import PtychographyTaskOptions

from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.engines import CATALOGUE, Engine
from ptychi_neural.runs.run_file import RunFile, options_from

ENGINES: dict[str, Engine] = {
    name: engine for name, engine in CATALOGUE.items() if engine.comparison_settings is not None
}
"""Engines of the catalogue that comparisons offer, by name."""

SHARED = {
    "data_options": None,
    "object_options": (
        "pixel_size_m",
        "pixel_size_aspect_ratio",
        "slice_spacings_m",
        "determine_position_origin_coords_by",
        "position_origin_coords",
    ),
    "probe_options": ("optimizable", "pixel_size_m", "pixel_size_aspect_ratio"),
    "probe_position_options": ("optimizable",),
    "opr_mode_weight_options": (
        "optimizable",
        "optimize_eigenmode_weights",
        "optimize_intensity_variation",
    ),
    "reconstructor_options": ("random_seed", "default_device", "default_dtype"),
}
"""Options that every engine takes from the run file: data, geometry, what is refined, seed, device.
None stands for the whole group."""


def engine_options(
    name: str, run: RunFile, changes: dict[str, Any] | None = None
) -> PtychographyTaskOptions:
    """Make the options of an engine for the scan of a run file.

    The neural engine takes the run file's options if the run file is one for the neural engine.
    Every engine takes the ``SHARED`` options from it.

    Parameters
    ----------
    name : str
        One of ``ENGINES``.
    run : RunFile
        The run file.
    changes : dict, optional
        Option groups that take the place of the engine's, as in a run file.

    Raises
    ------
    ValueError
        If there is no such engine.
    RunFileError
        If keys or values are not the engine's.
    """
    check_engine_names([name])
    if not isinstance(changes or {}, dict):
        raise ValueError(
            f"{name} = {changes!r}: name a key, as {name}.reconstructor_options.num_epochs = 50."
        )
    engine = ENGINES[name]
    stated = run.filled_in()
    own: dict[str, Any] = {}
    if type(run.options) is engine.options_class is NeuralPtychographyOptions:
        own = {key: dict(value) for key, value in stated.items() if key.endswith("_options")}
        if engine.variant_of is not None:
            del own["reconstructor_options"]["generator"]
    shared = {
        group: {k: v for k, v in stated[group].items() if names is None or k in names}
        for group, names in SHARED.items()
    }
    settings = engine.comparison_settings or {}
    return options_from(
        engine.options_class, own, settings, shared, changes or {}, source=f"engine {name}"
    )


def check_engine_names(names: Collection[str]) -> None:
    """Refuse names that are not in ``ENGINES``.

    Raises
    ------
    ValueError
        If there is one, or none at all.
    """
    unknown = [name for name in names if name not in ENGINES]
    if unknown or not names:
        raise ValueError(
            f"engines: {', '.join(unknown) or 'none'}; choose from {', '.join(ENGINES)}."
        )
