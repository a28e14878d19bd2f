"""Keys of ``[data]`` that the data tell, where neither the file nor the user does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ptychi_neural.runs.configuration import parse_changes
from ptychi_neural.runs.inspect_scan import Inspection, inspect_scan
from ptychi_neural.runs.measured import section_of
from ptychi_neural.runs.suspicions import even_crop
from ptychi_neural.scans import Scan
from ptychi_neural.scans.shadow_images import Shadow

PARALLEL = 1.02
"""Magnification below which a near-field beam is taken for a parallel one."""

OTHER_PIXEL = 0.1
"""Relative difference from which a pixel size is another one than shadow images show."""


def inspect_file(
    path: Path, product: Path | None, changes: Sequence[str]
) -> tuple[Inspection, dict[str, Any]]:
    """Look at a scan with the keys that its data tell.

    Parameters
    ----------
    path : Path
        File of patterns.
    product : Path, optional
        File of positions that belongs to it.
    changes : sequence of str
        Keys of ``[data]`` that are known, see ``parse_changes``.

    Returns
    -------
    Inspection, dict
        What is found with those keys, and the keys.

    Raises
    ------
    FileNotFoundError, ValueError
        If the patterns cannot be read.
    """
    inspection = inspect_scan(section_of(path, product, changes))
    given: dict[str, Any] = parse_changes(changes).get("data", {})
    keys: dict[str, Any] = {}
    while more := found_keys(inspection, given | keys):  # a crop lets others be found
        keys |= more
        inspection = inspect_scan(section_of(path, product, [*changes, *as_changes(keys)]))
    return inspection, keys


def as_changes(keys: Mapping[str, Any]) -> list[str]:
    """Keys of ``[data]`` as they are given on the command line.

    Examples
    --------
    >>> as_changes({"transpose": True, "crop": [98, 98]})
    ['data.transpose=true', 'data.crop=[98, 98]']
    """
    return [f"data.{name}={in_line(value)}" for name, value in keys.items()]


def in_line(value: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {in_line(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(in_line, value))}]"
    return tomli_w.dumps({"x": value})[4:].strip()


def found_keys(inspection: Inspection, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that the data tell and that are not given."""
    found: dict[str, Any] = {}
    crop = even_crop(inspection.stored.patterns.shape[1:], given.get("bin", 1))
    if "crop" not in given and crop is not None:
        found["crop"] = crop
    shadow, scan = inspection.shadow, inspection.scan
    if shadow is None or (found and scan is None):
        return found
    is_near = not {"focus_object_distance_m", "free_space_propagation_distance_m"}.isdisjoint(given)
    is_near |= scan is not None and scan.free_space_propagation_distance_m is not None
    distance: dict[str, float] = {}
    if scan is not None and not (is_near or inspection.is_defocused):
        distance = _near_field(scan, shadow, given)
    turned = shadow if is_near or distance else shadow.in_far_field()
    names = ("transpose", "flip_y", "flip_x")
    orientation = {name: True for name in names if getattr(turned, name) and name not in given}
    return found | distance | orientation


def _near_field(scan: Scan, shadow: Shadow, given: Mapping[str, Any]) -> dict[str, float]:
    """The key of the near field's distance, where shadow images tell of another pixel size."""
    distance_m = scan.detector_distance_m
    detector_m = given.get("detector_pixel_size_m", scan.attributes.get("detector_pixel_size_m"))
    size_m = given.get("bin", 1) * shadow.pixel_size
    is_known = abs(size_m / scan.pixel_size_m - 1) < OTHER_PIXEL
    if is_known or not distance_m or detector_m is None:
        return {}
    magnification = float(detector_m) / shadow.pixel_size
    if magnification > PARALLEL:
        return {"focus_object_distance_m": _rounded(-distance_m / (magnification - 1))}
    return {"free_space_propagation_distance_m": _rounded(distance_m)}


def _rounded(number: float) -> float:
    return float(f"{number:.5g}")
