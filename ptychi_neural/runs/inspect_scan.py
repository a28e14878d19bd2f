"""A look at a scan before it is reconstructed: what its files hold, and what is likely wrong."""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.constants import c, e, h

from ptychi_neural.counted import counted
from ptychi_neural.runs.measured import load_measured
from ptychi_neural.runs.sections import DataSection
from ptychi_neural.runs.summary import overlap, step
from ptychi_neural.runs.suspicions import (
    FEWEST_STEPS,
    MOST_STEPS,
    in_counts,
    in_geometry,
    in_patterns,
    in_positions,
    in_sides,
    is_at_corner,
)
from ptychi_neural.scans import Scan, repair
from ptychi_neural.scans.beamline import METRES
from ptychi_neural.scans.diffraction import Diffraction
from ptychi_neural.scans.entries import entry_chosen
from ptychi_neural.scans.formats import reader_of
from ptychi_neural.scans.load import chosen_frames, read_patterns
from ptychi_neural.scans.named_datasets import stack_shape
from ptychi_neural.scans.scan_names import scan_name
from ptychi_neural.scans.shadow_images import Shadow, find_shadow

SAMPLE_BYTES = 64 * 2**20
"""Frames that are looked at, in bytes of two for a pixel; of larger scans every so many-th."""


@dataclass
class Inspection:
    """What a look at a scan finds."""

    facts: dict[str, str]
    """What the files hold, in words."""

    suspicions: list[str]
    """Likely mistakes, with the key that mends each."""

    stored: Diffraction
    """Frames that were looked at, and the file's mask."""

    numbers: NDArray[np.int64]
    """(n,) their numbers in the file."""

    scan: Scan | None
    """The scan of these frames as a reconstruction would see it; None where it cannot be loaded."""

    positions_px: NDArray[np.float64] | None
    """(n, 2) positions of all frames in object pixels; None where there is no scan."""

    problem: str | None
    """Why it cannot be loaded."""

    shadow: Shadow | None
    """What shadow images tell, where patterns move with the sample, with pixel sizes in metres."""

    is_defocused: bool
    """Whether they are those of a far-field beam out of focus."""

    is_probe_known: bool
    """Whether the file or a key tells the probe; without it the mean pattern's is in focus."""

    is_as_stored: bool
    """Whether frames are used as they are stored, but for defects."""


def inspect_scan(section: DataSection) -> Inspection:
    """Look at a measured scan.

    Parameters
    ----------
    section : DataSection
        Its section ``[data]``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the patterns cannot be read.
    """
    with entry_chosen(section.told_entry, section.entry and section.diffraction_path):
        return _inspected(section)


def _inspected(section: DataSection) -> Inspection:
    path = section.diffraction_path
    kind = "named datasets" if "patterns" in section.datasets else reader_of(path).name
    shape = stack_shape(path, section.datasets)
    raw = _raw_positions(section, shape)
    is_chosen = section.frames is not None and raw is not None
    n_frames = len(raw.numbers) if raw is not None and is_chosen else shape[0]
    stride = max(1, math.ceil(2 * n_frames * math.prod(shape[1:]) / SAMPLE_BYTES))
    scan, problem, report = _loaded(section, stride)
    is_part = is_chosen or stride > 1
    numbers = np.arange(0, shape[0], stride)
    if scan is not None and is_part and (sample := _raw_positions(section, shape, stride)):
        numbers = np.unique(sample.numbers)
    stored = read_patterns(path, numbers if is_part else None, section.datasets)
    if scan is None:
        report += _defects(stored)
    name = scan_name(path) if scan is None else scan.name
    facts = {"name": name, "format": kind, "patterns": f"{tuple(shape)} {stored.patterns.dtype}"}
    if is_chosen:
        facts["taken"] = f"{n_frames} of {counted(shape[0], 'frames')}"
    if stride > 1:
        facts["looked at"] = f"{len(numbers)} of {counted(n_frames, 'frames')}"
    used = stored if scan is None else Diffraction(scan.patterns, scan.valid_pixel_mask)
    facts |= _of_counts(stored, used)
    shadow: Shadow | None = None
    if raw is not None and (section.dc_at_corner or not is_at_corner(*stored)):
        _, rows, here = np.intersect1d(numbers, raw.numbers, return_indices=True)
        frames, valid = stored.patterns[rows], stored.valid_pixel_mask
        if section.dc_at_corner:
            frames = np.fft.fftshift(frames, axes=(1, 2))
            valid = None if valid is None else np.fft.fftshift(valid)
        shadow = find_shadow(frames, valid, raw.positions[here])
        if shadow is not None and raw.in_pixels and scan is not None:
            shadow = shadow._replace(pixel_size=shadow.pixel_size * scan.pixel_size_m)
    suspicions: list[str] = []
    is_defocused, is_known = False, False
    positions_px: NDArray[np.float64] | None = None
    # A product whose numbers leave out some frames belongs to them as it is.
    is_counted = raw is not None and np.array_equal(raw.numbers, np.arange(len(raw.numbers)))
    if raw is not None and is_counted and not is_chosen and len(raw.positions) != shape[0]:
        suspicions.append(
            f"there are {counted(len(raw.positions), 'positions')} for "
            f"{counted(shape[0], 'frames')}: check that they belong together, frame by frame"
        )
    if scan is not None:
        positions_px = _all_positions(scan, raw)
        # The mean pattern's probe is in focus, and may be narrower than the beam.
        is_known = section.probe is not None or (raw is not None and raw.has_probe)
        facts |= _of_scan(scan, positions_px, is_known)
        now = shadow
        if shadow is not None or raw is None:  # in pixels and the orientation that keys give
            now = find_shadow(scan.patterns, scan.valid_pixel_mask, scan.positions_px)
        suspicions += in_geometry(scan, now)
        is_far = scan.free_space_propagation_distance_m is None
        is_defocused = is_far and now is not None and now.fits_far_field
        if now is None or not is_far or is_defocused:
            common: float | None = overlap(positions_px, scan.probe) if is_known else None
            step_px = step(positions_px)
            if now is not None and is_defocused:  # the beam may be wider than the probe in focus
                wide = 1 - step_px / now.beam_px(scan.patterns.shape[1:])
                common = wide if common is None else max(common, wide)
            suspicions += in_positions(positions_px, scan.probe, common, step_px)
    elif raw is not None:
        suspicions += _unit_that_loads(section, stride)
    facts |= {f"defects {i}": line for i, line in enumerate(report, 1)}
    near_field = scan is not None and scan.free_space_propagation_distance_m is not None
    suspicions += in_sides(section.crop or shape[1:], section.bin)
    suspicions += in_patterns(*used, near_field or shadow is not None)
    suspicions += in_counts(stored.patterns)  # a background that is subtracted is no whole number
    return Inspection(
        *(facts, suspicions, stored, numbers, scan, positions_px, problem, shadow, is_defocused),
        *(is_known or near_field, not section.changes_frames),
    )


def _unit_that_loads(section: DataSection, stride: int) -> list[str]:
    """The unit of positions with which a scan can be loaded that cannot be as it is."""
    if section.position_units is not None:
        return []
    for unit in ("um", "nm", "mm", "angstrom"):
        scan, _, _ = _loaded(section.model_copy(update={"position_units": unit}), stride)
        if scan is not None and len(scan.positions_px) > 1:
            step_px, side = step(scan.positions_px), min(scan.probe.shape[-2:])
            if FEWEST_STEPS * side < step_px < MOST_STEPS * side:
                return [f'position_units = "{unit}" would make steps of {step_px:.3g} pixels']
    return []


class _Raw(NamedTuple):
    """Positions as their file has them."""

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    """Numbers of their frames."""

    in_pixels: bool
    """Whether they are in object pixels instead of metres."""

    has_probe: bool
    """Whether their file has a probe."""


def _loaded(section: DataSection, stride: int) -> tuple[Scan | None, str | None, list[str]]:
    """The scan of every so many-th frame, or why it cannot be loaded, and what was repaired."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        diffraction = section.diffraction_path
        try:
            scan, _ = load_measured(section, slice(None, None, stride))
        except (ValueError, FileNotFoundError) as error:
            return None, str(error), []
    told = (w for w in caught if w.category is UserWarning)
    return scan, None, [str(w.message).removeprefix(f"{diffraction}: ") for w in told]


def _defects(stored: Diffraction) -> list[str]:
    try:
        return repair(*stored).report
    except ValueError as error:
        return [str(error)]


def _raw_positions(section: DataSection, shape: tuple[int, ...], stride: int = 1) -> _Raw | None:
    """Finite positions in metres, or in object pixels where a file has these."""
    try:
        known, native_unit, _ = chosen_frames(
            *(section.product_path, section.preparation(), shape[1:], slice(None, None, stride)),
            section.diffraction_path,
        )
    except (ValueError, FileNotFoundError):
        return None
    positions, numbers = known.positions_px, known.frame_indexes
    unit = section.position_units or native_unit
    if not math.isnan(known.pixel_size_m) and native_unit != "px":
        positions = positions * known.pixel_size_m
    assert numbers is not None
    return _Raw(positions * METRES.get(unit, 1.0), numbers, unit == "px", known.probe.size > 0)


def _all_positions(scan: Scan, raw: _Raw | None) -> NDArray[np.float64]:
    """Positions in pixels of all frames, of which the scan has some."""
    if raw is None or len(raw.positions) <= len(scan.positions_px) or scan.frame_indexes is None:
        return scan.positions_px
    _, mine, here = np.intersect1d(scan.frame_indexes, raw.numbers, return_indices=True)
    if len(mine) < 3:
        return scan.positions_px
    known = np.column_stack([raw.positions[here], np.ones(len(here))])
    # The unit may be lengths of 1e-9: equal scales keep the fit well conditioned.
    scale = np.abs(known).max(axis=0)
    scale[scale == 0] = 1
    fit = np.linalg.lstsq(known / scale, scan.positions_px[mine], rcond=None)[0]
    everywhere = np.column_stack([raw.positions, np.ones(len(raw.positions))])
    return np.asarray(everywhere / scale @ fit)


def _of_counts(stored: Diffraction, used: Diffraction) -> dict[str, str]:
    """Facts about counts: those of frames as they are used, without markers of gaps, and stored."""
    patterns, valid = used
    with np.errstate(invalid="ignore", over="ignore"):
        counts = patterns.sum(axis=(1, 2), dtype=np.float64, where=True if valid is None else valid)
    mask = stored.valid_pixel_mask
    invalid = 0 if mask is None else int((~mask).sum())
    return {
        "counts per frame": f"{counts.mean():.4g} ({counts.min():.4g} to {counts.max():.4g})",
        "largest count": f"{stored.patterns.max():.6g}",
        "masked pixels": f"{invalid} by the file",
    }


def _of_scan(scan: Scan, positions_px: NDArray[np.float64], is_known: bool) -> dict[str, str]:
    """Facts about a scan, whose probe is known or the mean pattern's."""
    extent = np.ptp(positions_px, axis=0)
    size_m, is_unsized = scan.pixel_size_m, scan.known_pixel_size_m is None
    extent_um = 1e6 * size_m * extent
    distance_m, near_m = scan.detector_distance_m, scan.free_space_propagation_distance_m
    wavelength = "unknown"
    if scan.wavelength_m is not None:
        energy_keV = h * c / (1e3 * e * scan.wavelength_m)
        wavelength = f"{scan.wavelength_m:.4g} m ({energy_keV:.4g} keV if photons)"
    facts = {
        "pixel size": "unknown" if is_unsized else f"{size_m:.4g} m",
        "field of view": "unknown"
        if is_unsized
        else " x ".join(f"{1e6 * size_m * n:.4g}" for n in scan.probe.shape[-2:]) + " um",
        "wavelength": wavelength,
        "detector distance": "unknown" if distance_m is None else f"{distance_m:.4g} m",
        "propagation": "far field" if near_m is None else f"near field, {near_m:.4g} m",
        "positions": f"{len(positions_px)} over {extent[0]:.1f} x {extent[1]:.1f} pixels"
        + ("" if is_unsized else f" ({extent_um[0]:.4g} x {extent_um[1]:.4g} um)"),
        "probe": f"{scan.probe.shape} (OPR modes, modes, height, width)",
        "object": f"{scan.object.shape} pixels (slices, height, width)",
    }
    if len(positions_px) > 1:
        facts["step"] = f"{step(positions_px):.2f} pixels"
        common = overlap(positions_px, scan.probe)
        told = f"{common:.0%}" if common > 0 else "none: steps are wider than this probe"
        unknown = "unknown without a probe, whose defocus the engine looks for"
        facts["overlap"] = told if is_known or near_m is not None else unknown
    return facts
