"""What ``ptychi-neural inspect`` tells and draws."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptychi_neural.evaluation.inspection_figure import inspection_figure
from ptychi_neural.runs.configuration import has_keys
from ptychi_neural.runs.found_keys import as_changes, in_line, inspect_file
from ptychi_neural.runs.inspect_scan import Inspection, inspect_scan
from ptychi_neural.runs.measured import section_of
from ptychi_neural.runs.summary import is_result, summarize
from ptychi_neural.runs.suspicions import orientation_keys
from ptychi_neural.scans.formats import reader_of
from ptychi_neural.scans.scan_names import scan_name


def report(
    path: Path,
    product: Path | None,
    figure: Path | None,
    changes: Sequence[str],
    orientations: bool,
) -> Iterator[str]:
    """Lines about a scan or a result, while its picture is drawn.

    Parameters
    ----------
    path : Path
        File of patterns, product, run file, generator, or folder of a result.
    product : Path, optional
        File of positions that belongs to it.
    figure : Path, optional
        The picture; None: ``<name of the scan>-inspect.png`` in the current directory, replaced.
    changes : sequence of str
        Keys of ``[data]``, see ``parse_changes``.
    orientations : bool
        Whether the orientations of frames are ranked too.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing to read.
    """
    if (is_result(path) and not changes) or not _may_hold_patterns(path, changes):
        yield from _rows(summarize(path))
        return
    keys: dict[str, Any] = {}
    if has_keys(path):  # which says itself how its scan is stored
        inspection = inspect_scan(section_of(path, product, changes))
    else:
        inspection, keys = inspect_file(path, product, changes)
    changes = [*changes, *as_changes(keys)]
    yield from _rows(inspection.facts)
    if keys:
        told = ", ".join(f"{name} = {in_line(value)}" for name, value in keys.items())
        yield f"This is with what the data tell, which init writes too: {told}"
    if inspection.problem is not None:
        yield f"It cannot be reconstructed yet: {inspection.problem}"
    for suspicion in inspection.suspicions:
        yield f"- {suspicion}"
    target = figure or Path(f"{scan_name(path)}-inspect.png")
    draw(inspection, target, f"{inspection.facts['name']}: {path.name}")
    yield f"{target}: mean pattern, counts of frames, positions over the probe, overlap"
    if orientations:
        from ptychi_neural.runs.orientations import rank_orientations  # imports the engine
        from ptychi_neural.runs.run_file import run_of

        yield "orientation, nats per held-out pixel above the best, deviance:"
        for found in rank_orientations(run_of(path, product, changes)):
            yield f"  {orientation_keys(found):46}{found.loss:10.4g}{found.deviance:10.4g}"
        near_m = inspection.scan and inspection.scan.free_space_propagation_distance_m
        if near_m is None:
            yield (
                "In the far field an orientation and its half turn (both flips) fit alike: one "
                "gives the complex conjugate, turned by half, of the other's object, and the sign "
                "of its phase or of the probe's defocus tells which is right."
            )


def draw(inspection: Inspection, path: Path, title: str) -> None:
    """Draw the frames and positions of an inspection, in place of an earlier picture."""
    stored, scan = inspection.stored, inspection.scan
    if scan is None:
        dropped = np.zeros(len(stored.patterns), bool)
        inspection_figure(path, *stored, inspection.numbers, dropped, title=title, overwrite=True)
        return
    kept = np.arange(len(stored.patterns)) if scan.frame_indexes is None else scan.frame_indexes
    dropped = ~np.isin(inspection.numbers, kept)
    patterns, mask = scan.patterns, scan.valid_pixel_mask
    if inspection.is_as_stored:
        patterns = stored.patterns  # with those that are left out
        mask = mask if mask is not None else stored.valid_pixel_mask
        numbers = inspection.numbers
    else:
        numbers, dropped = kept, np.zeros(len(patterns), bool)
    inspection_figure(
        path,
        patterns,
        mask,
        numbers,
        dropped,
        positions_px=inspection.positions_px,
        probe=scan.probe,
        is_probe_known=inspection.is_probe_known,
        pixel_size_m=scan.known_pixel_size_m,
        title=title,
        overwrite=True,
    )


def _may_hold_patterns(path: Path, changes: Sequence[str]) -> bool:
    """Whether a file is one of patterns or a run file, not a product alone or a result's folder."""
    if has_keys(path) or changes:
        return True
    try:
        reader_of(path).stack_shape(path)
    except FileNotFoundError:
        raise
    except ValueError:
        try:
            reader_of(path).read_product(path)
        except ValueError:
            return True  # what is wrong with its patterns is told
        return False
    return True


def _rows(facts: dict[str, str]) -> Iterator[str]:
    return (f"{name + ': ':22}{value}" for name, value in facts.items())
