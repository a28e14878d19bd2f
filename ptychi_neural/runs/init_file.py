"""Run files that are filled in from the files of a scan."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ptychi_neural.runs.configuration import parse_changes
from ptychi_neural.runs.inspect_scan import Inspection, inspect_scan
from ptychi_neural.runs.measured import section_of
from ptychi_neural.runs.template import BEGINNING, OPTIONS, TEMPLATE
from ptychi_neural.scans import Scan
from ptychi_neural.scans.shadow_images import Shadow

PARALLEL = 1.02
"""Magnification below which a near-field beam is taken for a parallel one."""

OTHER_PIXEL = 0.1
"""Relative difference from which a pixel size is another one than shadow images show."""

COMMENTED = {
    "photon_energy_eV": "1e4          # or electron_energy_eV = 300e3, or wavelength_m",
    "detector_distance_m": "2.0       # from the sample",
    "detector_pixel_size_m": "75e-6   # of a stored pixel; pixel_size_m = ... skips all three",
}
"""Keys that give the size of an object pixel, with examples."""


def write_run_file(
    path: Path, product: Path | None, output: Path | None, changes: Sequence[str]
) -> tuple[Path, list[str]]:
    """Write a run file for a scan, or the template where no scan is given.

    Parameters
    ----------
    path : Path
        File of patterns, or the run file to write from the template.
    product : Path, optional
        File of positions that belongs to it.
    output : Path, optional
        The run file; None: ``<name of path>.toml`` in the current directory.
    changes : sequence of str
        Keys of ``[data]``, see ``parse_changes``.

    Returns
    -------
    Path, list of str
        The run file, and what a user has to look after.

    Raises
    ------
    FileExistsError
        If there is such a run file.
    FileNotFoundError, ValueError
        If a file cannot be read.
    """
    if path.suffix.lower() == ".toml":
        _write(path, TEMPLATE)
        return path, []
    contents = parse_changes(changes)
    if set(contents) - {"data"}:
        raise ValueError(
            f"--set names {', '.join(sorted(set(contents) - {'data'}))}; init takes keys of [data] "
            "alone, and the run file can be changed afterwards."
        )
    target = output or Path(f"{path.stem}.toml")
    if target.exists():
        raise FileExistsError(f"{target} exists; name another with --output.")
    keys: dict[str, Any] = contents.get("data", {})
    inspection = inspect_scan(section_of(path, product, changes))
    hints = list(inspection.suspicions)
    found = _found_keys(inspection, keys)
    if found:
        told = [f"data.{name}={tomli_w.dumps({'x': value})[4:]}" for name, value in found.items()]
        inspection = inspect_scan(section_of(path, product, [*changes, *told]))
        hints = list(inspection.suspicions)
    if inspection.problem is not None:
        hints.insert(0, f"it cannot be reconstructed yet: {inspection.problem}")
    _write(target, _text(target, path, product, keys, found, inspection, hints))
    return target, hints


def _found_keys(inspection: Inspection, given: dict[str, Any]) -> dict[str, Any]:
    """Keys of ``[data]`` that the data tell."""
    found: dict[str, Any] = {}
    height, width = inspection.stored.patterns.shape[1:]
    if "crop" not in given and (height % 2 or width % 2):
        found["crop"] = [height - height % 2, width - width % 2]
    shadow, scan = inspection.shadow, inspection.scan
    if shadow is None:
        return found
    is_near = not {"focus_object_distance_m", "free_space_propagation_distance_m"}.isdisjoint(given)
    is_near |= scan is not None and scan.free_space_propagation_distance_m is not None
    distance = {} if is_near or scan is None else _near_field(scan, shadow, given)
    turned = shadow if is_near or distance else shadow.in_far_field()
    names = ("transpose", "flip_y", "flip_x")
    orientation = {name: True for name in names if getattr(turned, name) and name not in given}
    return found | distance | orientation


def _near_field(scan: Scan, shadow: Shadow, given: dict[str, Any]) -> dict[str, float]:
    """The key of the near field's distance, where shadow images tell of another pixel size."""
    distance_m = scan.detector_distance_m
    detector_m = scan.attributes.get("detector_pixel_size_m", given.get("detector_pixel_size_m"))
    is_known = abs(shadow.pixel_size / scan.pixel_size_m - 1) < OTHER_PIXEL
    if is_known or not distance_m or detector_m is None:
        return {}
    magnification = float(detector_m) / shadow.pixel_size
    if magnification > PARALLEL:
        return {"focus_object_distance_m": _rounded(-distance_m / (magnification - 1))}
    return {"free_space_propagation_distance_m": _rounded(distance_m)}


def _text(
    target: Path,
    path: Path,
    product: Path | None,
    given: dict[str, Any],
    found: dict[str, Any],
    inspection: Inspection,
    hints: list[str],
) -> str:
    folder = path.resolve().parent
    data: dict[str, Any] = {
        "folder": os.path.relpath(folder, target.resolve().parent),
        "diffraction": path.name,
    }
    if product is not None:
        data["product"] = os.path.relpath(product.resolve(), folder)
    lines = [BEGINNING, f"# {path.name}:"]
    lines += [f"# {name + ':':20}{value}" for name, value in inspection.facts.items()]
    if hints:
        lines += ["#", "# To look after:", *(f"# - {_one_line(hint)}" for hint in hints)]
    lines += ["", "[data]", tomli_w.dumps(data).rstrip()]
    given = {
        name: os.path.relpath(Path(value).resolve(), folder)
        if name in ("mask", "background", "reference") and isinstance(value, str)
        else value
        for name, value in given.items()
    }
    tables = {name: value for name, value in given.items() if not isinstance(value, dict)}
    if tables:
        lines.append(tomli_w.dumps(tables).rstrip())
    for name, value in given.items():
        if isinstance(value, dict):
            lines.append(f"{name} = {_inline(value)}")
    if found:
        lines.append("# As the data tell: sides of frames are odd, or patterns are shadow images.")
        lines.append(tomli_w.dumps(found).rstrip())
    lines += _commented(inspection, given)
    return "\n".join(lines) + "\n" + OPTIONS


def _commented(inspection: Inspection, given: dict[str, Any]) -> list[str]:
    """Keys that are likely to be needed, as comments."""
    scan, lines = inspection.scan, []
    if scan is None or scan.wavelength_m is None or math.isnan(scan.pixel_size_m):
        lines += [f"# {name} = {value}" for name, value in COMMENTED.items() if name not in given]
    if scan is None:
        lines += [
            '# product = "positions.csv"  # a row for each frame: y and x, in metres',
            "# raster = { shape = [30, 40], step_m = 1e-7 }  # where there is no file of positions",
            '# datasets = { patterns = "group/frames", y = "group/y", x = "group/x" }',
        ]
    if "frames" not in given:
        lines.append("# frames = { stop = 500 }     # the first 500; or every = 2, window_px = 200")
    lines += [
        "# n_probe_modes = 3           # incoherent probe modes to start from",
        '# probe = { kind = "zone_plate", diameter_m = 180e-6, outermost_zone_width_m = 50e-9,'
        " defocus_m = 2e-4 }",
        '# reference = "reference.h5"  # an object to compare the result with',
    ]
    return lines


def _inline(value: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_inline(v)}" for key, v in value.items()) + " }"
    return tomli_w.dumps({"x": value})[4:].strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rounded(number: float) -> float:
    return float(f"{number:.5g}")


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
