"""What becomes of each of pty-chi's options in the neural engine: honoured, or refused by name.

python -m ptychi_neural.options.honoured > docs/pty_chi_options.md
"""

import dataclasses
from collections.abc import Iterator

from ptychi.api.options.base import Options

OF_THE_ENGINE = (
    *("generator", "start", "validation", "consistency", "intensity_scale", "fit_loss"),
)
"""Groups of ``reconstructor_options`` that are the engine's own (docs/options.md)."""

IN_EPOCHS = "in epochs that refine it (start.refine_in_epochs)"

HONOURED = {
    "data_options": "as in pty-chi",
    "reconstructor_options.num_epochs": "largest number of epochs of the generator",
    "reconstructor_options.batch_size": "frames of a minibatch; None: chosen from the scan",
    "reconstructor_options.batching_mode": "as in pty-chi",
    "reconstructor_options.compact_mode_update_clustering": "as in pty-chi",
    "reconstructor_options.compact_mode_update_clustering_stride": "as in pty-chi",
    "reconstructor_options.default_device": "as in pty-chi",
    "reconstructor_options.default_dtype": "FLOAT32 or FLOAT64",
    "reconstructor_options.use_double_precision_for_fft": "as in pty-chi",
    "reconstructor_options.allow_nondeterministic_algorithms": "as in pty-chi",
    "reconstructor_options.random_seed": "as in pty-chi; also of the held-out pixels and splits",
    "reconstructor_options.displayed_loss_function": "loss in the table of losses",
    "reconstructor_options.exclude_measured_pixels_below": (
        "these pixels are seen neither by the initial reconstruction nor by updates, lifters, loss "
        "or validation"
    ),
    "reconstructor_options.forward_model_options": "as in pty-chi",
    "reconstructor_options.loss_function": "of the generator, the updates and the validation",
    "object_options.initial_guess": "as in pty-chi (deprecated there)",
    "object_options.slice_spacings_m": "as in pty-chi",
    "object_options.slice_spacing_options": "by its own optimiser in the generator's epochs",
    "object_options.pixel_size_m": "as in pty-chi",
    "object_options.pixel_size_aspect_ratio": "as in pty-chi",
    "object_options.l1_norm_constraint": "penalty in the generator's epochs",
    "object_options.l2_norm_constraint": "penalty in the generator's epochs",
    "object_options.total_variation": (
        "penalty in the generator's epochs; start.total_variation denoises the start"
    ),
    "object_options.patch_interpolation_method": "as in pty-chi",
    "object_options.remove_object_probe_ambiguity": "when a run ends",
    "object_options.build_preconditioner_with_all_modes": "as in pty-chi",
    "object_options.determine_position_origin_coords_by": "as in pty-chi",
    "object_options.position_origin_coords": "as in pty-chi",
    "probe_options.optimizable": "in the initial reconstruction and in the generator's epochs",
    "probe_options.optimization_plan": (
        "in the initial reconstruction, counted in its iterations, and in the epochs"
    ),
    "probe_options.optimizer": IN_EPOCHS,
    "probe_options.step_size": "in epochs that refine it, relative to the probe's peak",
    "probe_options.optimizer_params": IN_EPOCHS,
    "probe_options.initial_guess": "as in pty-chi (deprecated there)",
    "probe_options.orthogonalize_incoherent_modes": (
        "in epochs that refine it, or once before epochs that leave it (start.refine_in_epochs)"
    ),
    "probe_options.orthogonalize_opr_modes": IN_EPOCHS,
    "probe_options.support_constraint": (
        "in the initial reconstruction, counted in its iterations, and in the epochs"
    ),
    "probe_options.center_constraint": (
        "in the initial reconstruction, counted in its iterations, and in the epochs"
    ),
    "probe_position_options.optimizable": (
        "in the initial reconstruction (a detector of the probe's size, no blur) and in the "
        "generator's epochs"
    ),
    "probe_position_options.optimization_plan": (
        "in the initial reconstruction, counted in its iterations, and in the epochs"
    ),
    "probe_position_options.optimizer": IN_EPOCHS,
    "probe_position_options.step_size": "in epochs that refine them, in pixels",
    "probe_position_options.optimizer_params": IN_EPOCHS,
    "probe_position_options.position_x_px": "as in pty-chi (deprecated there)",
    "probe_position_options.position_y_px": "as in pty-chi (deprecated there)",
    "probe_position_options.constrain_position_mean": (
        "in the initial reconstruction and in the generator's epochs"
    ),
    "probe_position_options.correction_options.clip_update_magnitude_by_mad": "as in pty-chi",
    "probe_position_options.correction_options.update_magnitude_limit": "as in pty-chi",
    "probe_position_options.affine_transform_constraint": "in the generator's epochs",
    "opr_mode_weight_options.optimizable": (
        "in the initial reconstruction (a detector of the probe's size, no blur) and in the "
        "generator's epochs"
    ),
    "opr_mode_weight_options.optimization_plan": (
        "in the initial reconstruction, counted in its iterations, and in the epochs"
    ),
    "opr_mode_weight_options.optimizer": IN_EPOCHS,
    "opr_mode_weight_options.step_size": IN_EPOCHS,
    "opr_mode_weight_options.optimizer_params": IN_EPOCHS,
    "opr_mode_weight_options.initial_weights": "as in pty-chi (deprecated there)",
    "opr_mode_weight_options.optimize_eigenmode_weights": (
        "in the initial reconstruction and in the generator's epochs"
    ),
    "opr_mode_weight_options.optimize_intensity_variation": (
        "in the initial reconstruction and in the generator's epochs"
    ),
    "opr_mode_weight_options.smoothing": "in the generator's epochs",
    "opr_mode_weight_options.primary_mode_weight_floor": "as in pty-chi",
}
"""Options, or whole groups of them, that the engine honours, and how."""

REFUSED = {
    "object_options.optimizable": (
        "the object is the generator's; keep it with "
        "reconstructor_options.generator.optimizable = False"
    ),
    "object_options.optimization_plan": (
        "the object is the generator's; see reconstructor_options.generator.optimization_plan"
    ),
    "object_options.optimizer": (
        "the object is the generator's; see reconstructor_options.generator.optimizer"
    ),
    "object_options.step_size": (
        "the object is the generator's; see reconstructor_options.generator.step_size"
    ),
    "object_options.optimizer_params": (
        "the object is the generator's; see reconstructor_options.generator.optimizer_params"
    ),
    "object_options.smoothness_constraint": (
        "the generator would undo it in the next epoch; disable it, or run a classical engine from "
        "this result"
    ),
    "object_options.hard_limits_magnitude_phase": (
        "the generator would undo it in the next epoch; disable it, or run a classical engine from "
        "this result"
    ),
    "object_options.remove_grid_artifacts": (
        "the generator would undo it in the next epoch; disable it, or run a classical engine from "
        "this result"
    ),
    "object_options.multislice_regularization": (
        "the generator would undo it in the next epoch; disable it, or run a classical engine from "
        "this result"
    ),
    "object_options.experimental": "use the autodiff engine for it",
    "probe_options.experimental": "use the autodiff engine for it",
    "probe_options.power_constraint": (
        "the probe's power is learned; see reconstructor_options.intensity_scale"
    ),
    "probe_options.pixel_size_m": (
        "patches are made on the object's grid; leave it and pixel_size_aspect_ratio None"
    ),
    "probe_options.pixel_size_aspect_ratio": "patches are made on the object's grid; leave it None",
    "probe_options.eigenmode_update_relaxation": "LSQML alone relaxes these updates; leave it",
    "probe_position_options.correction_options.correction_type": (
        "positions follow the gradient; leave it"
    ),
    "probe_position_options.correction_options.differentiation_method": (
        "positions follow the gradient; leave it"
    ),
    "probe_position_options.correction_options.cross_correlation_scale": (
        "positions follow the gradient; leave it"
    ),
    "probe_position_options.correction_options.cross_correlation_real_space_width": (
        "positions follow the gradient; leave it"
    ),
    "probe_position_options.correction_options.cross_correlation_probe_threshold": (
        "positions follow the gradient; leave it"
    ),
    "probe_position_options.correction_options.slice_for_correction": (
        "positions follow the gradient through all slices; leave it"
    ),
    "opr_mode_weight_options.update_relaxation": "LSQML alone relaxes these updates; leave it",
    "reconstructor_options.forward_model_class": "the engine brings its own; leave it",
    "reconstructor_options.forward_model_params": "use forward_model_options",
}
"""Options, or whole groups of them, that are refused unless they have their defaults, and why."""


def fields_of(options: Options, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options of pty-chi in the engine's options."""
    for field in dataclasses.fields(options):
        name, value = f"{prefix}{field.name}", getattr(options, field.name)
        if name.removeprefix("reconstructor_options.") in OF_THE_ENGINE:
            continue
        if isinstance(value, Options):
            yield from fields_of(value, f"{name}.")
        else:
            yield name


def entry_of(name: str, table: dict[str, str]) -> str | None:
    """The entry of an option, or of the innermost group that has one; None without any."""
    while name:
        if name in table:
            return name
        name = name.rpartition(".")[0]
    return None


def main() -> None:
    """Print the table."""
    print("# pty-chi's options in the neural engine\n")
    print("Written by `python -m ptychi_neural.options.honoured > docs/pty_chi_options.md`.\n")
    print("## Honoured\n\n| option or group | how |\n|---|---|")
    for name, how in HONOURED.items():
        print(f"| `{name}` | {how} |")
    print("\n## Refused\n\nThe engine refuses these when a task is built, unless they have their")
    print("defaults.\n\n| option or group | why, and what to do |\n|---|---|")
    for name, why in REFUSED.items():
        print(f"| `{name}` | {why} |")


if __name__ == "__main__":
    main()
