"""The arrays that a task is made of, checked and repaired before anything is built of them.

Files and arrays get the same check: what files were checked for is not looked for again.
"""

import dataclasses
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.api.options.data import PtychographyDataOptions
from ptychi.api.task import PtychographyTask

from ptychi_neural.engine.modes import with_filled_modes
from ptychi_neural.scans import check_start, repair
from ptychi_neural.scans.counts import is_repaired
from ptychi_neural.scans.defects import arbitrary_unit
from ptychi_neural.scans.hdf5 import native
from ptychi_neural.scans.masks import telling

logger = logging.getLogger(__name__)

UNITS = (1e-25, 1e25)
"""Bounds of the value of a count, so that single precision holds all counts and their sums."""

COMPLEX = ("object_data", "probe_data")
"""Arrays of a task that may be complex; the others hold real numbers."""


def check_arrays(task: PtychographyTask) -> None:
    """Refuse arrays on which pty-chi would fail, or fail to notice, and convert what torch refuses.

    Parameters
    ----------
    task : PtychographyTask
        A task that is about to be built, whose arrays may be replaced.

    Raises
    ------
    ValueError
        Naming what is wrong and the remedy.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode: nothing can be fitted in it; build tasks outside.")
    data = task._task_data = _plain(task._task_data)
    names = ("object_data", "probe_data")
    check_start(*(_numpy(getattr(data, name)) for name in names), names=names)
    given = task.object_options.slice_spacings_m
    spacings, n_slices = () if given is None else np.ravel(given), _numpy(data.object_data).shape[0]
    if len(spacings) not in (0, n_slices - 1):
        raise ValueError(
            f"object_options.slice_spacings_m: has {len(spacings)} spacings, an object of "
            f"{n_slices} slices has {n_slices - 1}; correct them or object_data."
        )
    mask = data.valid_pixel_mask
    if mask is not None and not np.isfinite(_numpy(mask)).all():
        raise ValueError("valid_pixel_mask: has NaN or Inf; give True or 1 where pixels are valid.")
    for name in ("probe_position_y_px", "probe_position_x_px", "opr_mode_weights_data"):
        value = getattr(data, name)
        if value is not None and not np.isfinite(_numpy(value)).all():
            raise ValueError(f"{name}: has NaN or Inf; give finite numbers, or leave frames out.")


def repair_arrays(task: PtychographyTask) -> None:
    """Mask and drop broken counts as those of files, and fill dark modes of a refined probe.

    Frames are dropped with their positions and OPR weights.

    Parameters
    ----------
    task : PtychographyTask
        A task that is about to be built, whose arrays may be replaced.

    Raises
    ------
    ValueError
        If there is no repair.
    """
    changed = _repaired(task._task_data, task.data_options)
    if task.probe_options.optimizable:
        filled, dark = with_filled_modes(_numpy(task._task_data.probe_data))
        if dark:
            logger.warning(
                "probe_data: modes %s are zero and would stay so; Hermite modes take their place.",
                ", ".join(map(str, dark)),
            )
            changed["probe_data"] = filled
    if changed:
        task._task_data = dataclasses.replace(task._task_data, **changed)


def _plain(data: Any) -> Any:
    """Data of a task as arrays that torch takes: numbers in the order and strides of this machine.

    Masked numbers of NumPy's masked arrays become NaN, as which they are masked.
    """
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(data):
        name, value = field.name, getattr(data, field.name)
        if value is None:
            continue
        if isinstance(value, np.ma.MaskedArray):
            value = np.ma.filled(value.astype(np.result_type(value, np.float32)), np.nan)
        if name == "diffraction_data":  # The check of counts converts and refuses, too.
            plain[name] = value
            continue
        array = _numpy(value)
        if array.dtype.kind not in ("biufc" if name in COMPLEX else "biuf"):
            kind = "complex numbers" if name in COMPLEX else "real numbers"
            raise ValueError(f"{name}: has the type {array.dtype}; give {kind}.")
        if not isinstance(value, torch.Tensor):
            array = native(array)
            value = array.copy() if min(array.strides, default=0) < 0 else array
        plain[name] = value
    return dataclasses.replace(data, **plain)


def count_unit_of(task: PtychographyTask) -> float:
    """The value of one count in the unit of a task's patterns; 1 where they are counts.

    Raises
    ------
    ValueError
        If single precision does not hold such numbers and their sums.
    """
    data = task._task_data
    patterns, mask = _numpy(data.diffraction_data), data.valid_pixel_mask
    unit = arbitrary_unit(patterns, None if mask is None else _numpy(mask) != 0)
    if not UNITS[0] <= unit <= UNITS[1]:
        raise ValueError(
            f"diffraction_data: a count seems to be {unit:.2g}, by the noise, and single precision "
            f"does not hold such numbers and their sums; divide them by {unit:.2g}."
        )
    return unit


def _repaired(data: Any, options: PtychographyDataOptions) -> dict[str, Any]:
    """What the repair of the counts changes in the data of a task."""
    patterns = _numpy(data.diffraction_data)
    mask = None if data.valid_pixel_mask is None else _numpy(data.valid_pixel_mask) != 0
    if mask is not None and not mask.any():
        raise ValueError("valid_pixel_mask: no pixel is valid; valid pixels are True.")
    if is_repaired(patterns):
        return {}
    told = telling(mask)
    in_corner = not options.fft_shift and np.isinf(options.free_space_propagation_distance_m)
    if in_corner:  # Neighbours on the detector have to be neighbours in the array.
        patterns, told = (_shifted(array, np.fft.fftshift) for array in (patterns, told))
    try:
        found = repair(patterns, told)
    except ValueError as error:
        raise ValueError(f"diffraction_data: {error}") from error
    if not found.report and found.patterns is patterns and not in_corner:
        return {}
    if found.report:
        logger.warning("diffraction_data: %s.", ", ".join(found.report))
    patterns, mask = found.patterns, found.valid_pixel_mask
    if in_corner:
        patterns, mask = (_shifted(array, np.fft.ifftshift) for array in (patterns, mask))
    changed = {"diffraction_data": patterns, "valid_pixel_mask": mask}
    if not found.kept.all():
        names = ["probe_position_y_px", "probe_position_x_px"]
        weights = data.opr_mode_weights_data
        if weights is not None and _numpy(weights).ndim == 2:
            names.append("opr_mode_weights_data")
        changed |= {name: _numpy(getattr(data, name))[found.kept] for name in names}
    return changed


def _shifted(array: NDArray[Any] | None, shift: Any) -> Any:
    return None if array is None else shift(array, axes=(-2, -1))


def _numpy(array: Any) -> NDArray[Any]:
    if isinstance(array, torch.Tensor):
        if array.dtype == torch.bfloat16:  # which NumPy has not
            array = array.float()
        numbers: NDArray[Any] = array.resolve_conj().numpy(force=True)
        return numbers
    return np.asarray(array)
