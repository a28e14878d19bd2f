"""Tasks of any of pty-chi's engines for a scan."""

from collections.abc import Collection
from typing import Any

import numpy as np
from ptychi.api.options.data import PtychographyDataOptions
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask

from ptychi_neural.scans import Scan, check_geometry


def build_task(
    options: PtychographyTaskOptions, scan: Scan, keep: Collection[str] = ()
) -> PtychographyTask:
    """A task of any engine for a scan.

    Pixel size, wavelength and slice spacings are taken from the scan.

    Parameters
    ----------
    options : PtychographyTaskOptions
        Options of the engine; the scan's geometry is written into them.
    scan : Scan
        The scan.
    keep : collection of str
        Dotted names, such as ``"data_options.wavelength_m"``, of options that stay as they are.

    Raises
    ------
    ValueError
        If the engine refuses options or data.
    """
    geometry: tuple[tuple[str, str, Any], ...] = (
        ("object_options", "pixel_size_m", scan.pixel_size_m),
        ("object_options", "slice_spacings_m", scan.slice_spacings_m),
        ("data_options", "wavelength_m", scan.wavelength_m),
    )
    distance = scan.free_space_propagation_distance_m
    chosen = "data_options.free_space_propagation_distance_m"
    if distance is not None and chosen not in keep:  # The near field has no DC to shift.
        geometry += (
            ("data_options", "free_space_propagation_distance_m", distance),
            ("data_options", "fft_shift", False),
        )
    near_field_m = options.data_options.free_space_propagation_distance_m
    near_field_m = near_field_m if distance is None or chosen in keep else distance
    default_m = PtychographyDataOptions().wavelength_m
    if "data_options.wavelength_m" not in keep and options.data_options.wavelength_m == default_m:
        check_geometry(len(scan.object), scan.wavelength_m, near_field_m)
    for group, name, value in geometry:
        if value is not None and f"{group}.{name}" not in keep:
            setattr(getattr(options, group), name, np.asarray(value).tolist())
    return PtychographyTask(
        options,
        diffraction_data=scan.patterns,
        object_data=scan.object,
        probe_data=scan.probe,
        probe_position_x_px=scan.positions_px[:, 1],
        probe_position_y_px=scan.positions_px[:, 0],
        opr_mode_weights_data=scan.opr_mode_weights,
        valid_pixel_mask=scan.valid_pixel_mask,
    )
