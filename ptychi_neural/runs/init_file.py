"""Run files that are filled in from the files of a scan."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ptychi_neural.runs.configuration import YAML, data_changes
from ptychi_neural.runs.found_keys import in_line, inspect_file
from ptychi_neural.runs.inspect_scan import Inspection
from ptychi_neural.runs.template import BEGINNING, OPTIONS, TEMPLATE
from ptychi_neural.scans.scan_names import scan_name

_TURNED = "patterns move in another direction than the positions"
REASONS = {
    "crop": "sides have to be even, after binning too",
    "focus_object_distance_m": "patterns move with the sample, as shadow images of a cone beam do",
    "free_space_propagation_distance_m": "patterns move with the sample, as shadow images do",
    **dict.fromkeys(("transpose", "flip_y", "flip_x"), _TURNED),
}
"""Why keys are written that nobody has asked for."""

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
        The run file; None: ``<name of the scan>.toml`` in the current directory. A scan has the
        name of its file, or of its folder where the file is called as in every folder.
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
        If a file cannot be read, or the run file is to be no TOML.
    """
    for file in (path, output or path):
        if file.suffix.lower() in YAML:
            raise ValueError(f"{file}: run files are written as TOML; let the name end with .toml.")
    if path.suffix.lower() == ".toml":
        _write(path, TEMPLATE)
        return path, []
    contents = data_changes(changes)
    target = output or Path(f"{scan_name(path)}.toml")
    if target.exists():
        raise FileExistsError(f"{target} exists; name another with --output.")
    keys: dict[str, Any] = contents.get("data", {})
    inspection, found = inspect_file(path, product, changes)
    hints = list(inspection.suspicions)
    if inspection.problem is not None:
        hints.insert(0, f"it cannot be reconstructed yet: {inspection.problem}")
    _write(target, _text(target, path, product, keys, found, inspection, hints))
    return target, hints


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
            lines.append(f"{name} = {in_line(value)}")
    if found:
        lines.append("# As the data tell:")
        lines += [f"{name} = {in_line(value)}  # {REASONS[name]}" for name, value in found.items()]
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
        "# n_slices = 2                # of a thick object; their distance: slice_spacing_m = 1e-5",
        '# probe = { kind = "zone_plate", diameter_m = 180e-6, outermost_zone_width_m = 50e-9,'
        " defocus_m = 2e-4 }",
        '# reference = "reference.h5"  # an object to compare the result with',
    ]
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
