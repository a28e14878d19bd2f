"""One self-contained HTML file that tells of a run; it opens without a network."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.runs.configuration import read_json, read_keys
from ptychi_neural.runs.folders import add_to_list
from ptychi_neural.runs.messages import noted_warnings
from ptychi_neural.runs.pictures import (
    amplitude_figure,
    phase_figure,
    pictures_of,
    probe_figure,
    save_png,
    shown_area,
)
from ptychi_neural.runs.report_figures import (
    counts_of,
    curves_figure,
    deviation_figure,
    frames_figure,
    positions_figure,
)
from ptychi_neural.runs.run_file import beside_defaults, read_run_file
from ptychi_neural.runs.run_scan import load
from ptychi_neural.runs.summary import overlap
from ptychi_neural.scans import Scan, read_product
from ptychi_neural.scans.hdf5 import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"

MOST_NUMBERS = 8
"""Gaps in the numbers of frames that are named."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2129; margin: 0 auto; max-width: 60rem;
        padding: 1.5rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #d7dbe2; }}
.outcome {{ color: #4a5261; margin: .2rem 0 1rem; }}
.note {{ background: #fff6dd; border-left: 4px solid #e0a800; margin: .5rem 0;
         padding: .4rem .8rem; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: .5rem; align-items: flex-start; }}
.pictures img {{ flex: 1 1 20rem; min-width: 0; max-width: 29rem; }}
img {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; }}
th {{ font-weight: 600; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }}
pre {{ background: #f5f6f8; padding: .8rem; overflow-x: auto; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="outcome">{outcome}</p>
{sections}
</body>
</html>
"""


def report(folder: str | Path, overwrite: bool = False) -> Path:
    """Write the report of a results folder, with its data read again from where they were.

    Parameters
    ----------
    folder : str or Path
        Results folder of a reconstruction.
    overwrite : bool
        Whether an earlier report is replaced.

    Returns
    -------
    Path
        The report, ``report.html`` in the folder.

    Raises
    ------
    FileExistsError
        If there is a report and ``overwrite`` is False.
    FileNotFoundError
        If the folder is no results folder of a reconstruction.
    """
    folder = Path(folder)
    with noted_warnings() as notes:
        start: Scan | None = None
        try:
            start, _ = load(read_run_file(_run_file(folder)))
        except (OSError, ValueError) as error:
            if not (folder / "product.h5").is_file():
                raise
            notes.append(f"The data could not be read again, and are left out here: {error}")
    write_report(folder, start, notes, overwrite)
    add_to_list(folder, REPORT)
    return folder / REPORT


def write_report(
    folder: Path, start: Scan | None, notes: Sequence[str] = (), overwrite: bool = False
) -> None:
    """Write the report of a results folder.

    Parameters
    ----------
    folder : Path
        Results folder of a reconstruction.
    start : Scan or None
        The scan as it was loaded; None where it is not to be had.
    notes : sequence of str
        Warnings about the data.
    overwrite : bool
        Whether an earlier report is replaced.
    """
    run = read_keys(_run_file(folder))
    scan = read_product(folder / "product.h5")
    told = read_json(folder / "provenance.json")
    metrics = folder / "metrics.json"
    stages = [run, run["refine"]] if "refine" in run else [run]
    engines = ", then ".join(stage["engine"] for stage in stages)
    sections = [
        *_noted(notes),
        *_object(scan, folder),
        *_section("Probe", _picture(probe_figure(pictures_of(scan)), "Probe modes")),
        *_section("Curves", _curves(folder)),
        *_positions(scan, start),
        *([] if start is None else _data(start)),
        *(
            _section("Comparison with the reference", _table(read_json(metrics)))
            if metrics.is_file()
            else []
        ),
        *_section("Run", _table(_how(told))),
        *_section("Environment", _table(_environment(told))),
        *_settings(run, folder),
    ]
    content = PAGE.format(
        title=escape(f"{scan.name or folder.name}: {engines}"),
        outcome=escape(_outcome(told)),
        sections="\n".join(sections),
    )
    with replacing(folder / REPORT, overwrite) as temporary:
        Path(temporary).write_text(content, encoding="utf-8")


def _run_file(folder: Path) -> Path:
    """The run file of a results folder."""
    path = folder / "run.toml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run.toml; a report is made of a folder of ptychi-neural "
            "reconstruct."
        )
    return path


def _outcome(told: Mapping[str, Any]) -> str:
    text = f"{counted(told['epochs'], 'epochs')} in {told['wall_time_s']:.3g} s on {told['device']}"
    stopped = told.get("stopped")
    return text if stopped is None else f"{text}. Stopped early: {stopped}"


def _noted(notes: Iterable[str]) -> list[str]:
    return [f'<p class="note">{escape(note)}</p>' for note in dict.fromkeys(notes)]


def _section(title: str, *content: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", *content]


def _picture(figure: "Figure", text: str) -> str:
    buffer = io.BytesIO()
    save_png(figure, buffer)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _table(rows: Mapping[str, Any], names_as_they_are: bool = False) -> str:
    names = {name: name if names_as_they_are else name.replace("_", " ") for name in rows}
    lines = (
        f"<tr><th>{escape(names[name])}</th><td>{escape(_number(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{''.join(lines)}</table>"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _object(scan: Scan, folder: Path) -> list[str]:
    pictures = pictures_of(scan)
    shown = [
        _picture(amplitude_figure(pictures), "Amplitude of the object"),
        _picture(phase_figure(pictures), "Unwrapped phase of the object"),
    ]
    beside = '<div class="pictures">' if len(scan.object) == 1 else "<div>"
    found = _section("Object", beside, *shown, "</div>")
    with h5py.File(folder / "product.h5") as file:
        if "object_std" in file:
            figure = deviation_figure(file["object_std"][()], shown_area(scan))
            found += [
                "<p>How far the predictions that make up the object disagree:</p>",
                '<div class="pictures">',
                _picture(figure, "Disagreement of the predictions"),
                "</div>",
            ]
    return found


def _curves(folder: Path) -> str:
    losses = pd.read_csv(folder / "losses.csv")
    curves: list[Mapping[str, Any]] = []
    if len(losses):
        curves.append({"x": losses.epoch, "y": losses.loss, "title": "loss", "xlabel": "epoch"})
    validation = folder / "validation.csv"
    if validation.is_file():
        table = pd.read_csv(validation)
        for stage, xlabel in (("projections", "projection"), ("epoch", "epoch")):
            part = table[(table.stage == stage) & table.loss.notna()]
            if len(part):
                curves.append(
                    {
                        "x": part.step,
                        "y": part.loss,
                        "title": f"held-out loss, {stage if stage != 'epoch' else 'epochs'}",
                        "xlabel": xlabel,
                        "best": part.step[part.loss.idxmin()],
                    }
                )
    if not curves:
        return "<p>No epoch was run, and no pixel held out.</p>"
    return _picture(curves_figure(curves), "Losses")


def _positions(scan: Scan, start: Scan | None) -> list[str]:
    if start is None or start.positions_px.shape != scan.positions_px.shape:
        return []
    moves = np.hypot(*(scan.positions_px - start.positions_px).T)
    if moves.max() < 1e-6 * max(1.0, np.abs(start.positions_px).max()):
        return _section("Positions", "<p>They were not refined.</p>")
    text = (
        f"They moved by {np.median(moves):.3g} px in the median, by {moves.max():.3g} px at most."
    )
    figure = positions_figure(start.positions_px, scan.positions_px)
    return _section("Positions", f"<p>{text}</p>", _picture(figure, "Positions before and after"))


def _data(start: Scan) -> list[str]:
    counts, valid = counts_of(start), start.valid_pixel_mask
    told = {
        "patterns": f"{start.patterns.shape} {start.patterns.dtype}",
        "counts of a frame": f"{np.mean(counts):.4g} (from {counts.min():.4g} to "
        f"{counts.max():.4g})",
        "largest count": f"{start.patterns.max():.6g}",
        "masked pixels": 0 if valid is None else int((~valid).sum()),
        "frame numbers": _frame_numbers(start.frame_indexes),
        "object pixel": "unknown"
        if start.known_pixel_size_m is None
        else f"{start.pixel_size_m:.4g} m",
        "wavelength": "unknown" if start.wavelength_m is None else f"{start.wavelength_m:.4g} m",
        "near-field distance": "far field"
        if start.free_space_propagation_distance_m is None
        else f"{start.free_space_propagation_distance_m:.4g} m",
    }
    if len(counts) > 1:
        told["overlap"] = f"{overlap(start.positions_px, start.probe):.0%}"
    return _section("Data", _table(told), _picture(frames_figure(start), "Frames of the scan"))


def _frame_numbers(numbers: NDArray[np.int64] | None) -> str:
    """The first and the last in the file, and those between them that are not in the scan.

    Examples
    --------
    >>> _frame_numbers(np.array([1, 2, 7, 4]))
    '1 to 7, without 3: 3, 5 to 6'
    """
    if numbers is None or not len(numbers):
        return "unknown"
    numbers = np.sort(numbers)
    ends = np.flatnonzero(np.diff(numbers) > 1)
    gaps = [(int(numbers[k]) + 1, int(numbers[k + 1]) - 1) for k in ends]
    named = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in gaps[:MOST_NUMBERS])
    more = ", ..." if len(gaps) > MOST_NUMBERS else ""
    n_missing = sum(b - a + 1 for a, b in gaps)
    without = f", without {n_missing}: {named}{more}" if gaps else ""
    return f"{numbers[0]} to {numbers[-1]}{without}"


def _how(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "command": " ".join(told["command"]),
        "written": told["written"],
        "seed": told.get("seed"),
        "epochs": told["epochs"],
        "wall time, with the start": f"{told['wall_time_s']:.4g} s",
    }


def _environment(told: Mapping[str, Any]) -> dict[str, Any]:
    versions = {name: value for name, value in told["versions"].items() if value is not None}
    return {"device": told["device"], "platform": told["platform"], **versions}


def _settings(run: dict[str, Any], folder: Path) -> list[str]:
    changed = beside_defaults(run)
    whole = escape((folder / "run.toml").read_text(encoding="utf-8"))
    return _section(
        "Settings",
        "<p>What the run file says beside the defaults:</p>",
        _table(changed, names_as_they_are=True),
        f"<details><summary>The whole run file</summary><pre>{whole}</pre></details>",
    )
