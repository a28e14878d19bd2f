"""Likely mistakes in a scan, told in words, with the key of ``[data]`` that mends each."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptychi_neural.counted import counted
from ptychi_neural.scans import Scan
from ptychi_neural.scans.shadow_images import Shadow

LOW_OVERLAP, HIGH_OVERLAP = 0.5, 0.97
"""Linear overlaps below and above which something is likely to be wrong."""

FEWEST_STEPS, MOST_STEPS = 0.01, 0.5
"""Usual steps between positions, in fields of view."""

LINE_PX = 0.25
"""Standard deviation from a line, in object pixels, below which positions span no area."""

JITTER = 0.02
"""Deviation from a lattice, in steps, below which a raster has no jitter."""


def even_crop(shape: Sequence[int], bin: int) -> list[int] | None:
    """[height, width] to cut out of frames, so that sides are even after binning; None: as it is.

    Examples
    --------
    >>> even_crop((101, 100), 1), even_crop((100, 96), 4), even_crop((96, 96), 4)
    ([100, 100], [96, 96], None)
    """
    even = [side - side % (2 * bin) for side in shape]
    return even if even != list(shape) and all(even) else None


def in_sides(shape: Sequence[int], bin: int) -> list[str]:
    """Whether (h, w) frames have sides that no reconstruction takes, after binning."""
    crop = even_crop(shape, bin)
    if crop is None:
        return []
    after = "" if bin == 1 else f" after bin = {bin}"
    return [f"frames have odd sides{after}, which pty-chi refuses: set crop = {crop}"]


def in_patterns(
    patterns: NDArray[np.generic], valid: NDArray[np.bool_] | None, is_near_field: bool
) -> list[str]:
    """What frames suggest: a direct beam elsewhere, no counts."""
    found = []
    height, width = patterns.shape[1:]
    mean = _light(patterns, valid)
    if is_at_corner(patterns, valid):
        found.append(
            "the light is in the corners of the frames: set dc_at_corner = true if the direct "
            "beam is stored there"
        )
    elif not is_near_field and mean.sum() > 0:
        rows, columns = np.indices(mean.shape)
        y, x = ((axis * mean).sum() / mean.sum() for axis in (rows, columns))
        if abs(y - height // 2) > 0.04 * height or abs(x - width // 2) > 0.04 * width:
            found.append(
                f"the centre of the light is at row {y:.1f}, column {x:.1f}, not at "
                f"{height // 2}, {width // 2}: set center and crop if the direct beam is there"
            )
    return found


def in_counts(stored: NDArray[np.generic]) -> list[str]:
    """Whether (n, h, w) frames as they are stored are no counts."""
    some = stored[:: max(1, len(stored) // 16)]
    if stored.dtype.kind != "f" or np.array_equal(some, np.round(some), equal_nan=True):
        return []
    return [
        "counts are not whole numbers: the Poisson likelihood expects counts, so that amplitudes "
        "have to be squared, a camera's units divided by those of an electron or photon, or "
        'loss_function = "mse_sqrt" be set'
    ]


def is_at_corner(patterns: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> bool:
    """Whether most of the light is in the corners of (n, h, w) frames."""
    mean = _light(patterns, valid)
    height, width = mean.shape
    quarter = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    inside, shifted = mean[quarter].sum(), np.fft.fftshift(mean)[quarter].sum()
    return bool(inside < 0.25 * mean.sum() and shifted > 0.5 * mean.sum())


def _light(patterns: NDArray[np.generic], valid: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    mean = patterns.mean(axis=0, dtype=np.float64)
    return mean if valid is None else np.where(valid, mean, 0)


def in_positions(
    positions_px: NDArray[np.floating],
    probe: NDArray[np.complexfloating],
    overlap: float | None,
    step_px: float,
) -> list[str]:
    """What the positions suggest: no area, other units, little overlap, an unjittered raster.

    The overlap is None where no probe tells it.
    """
    found = []
    side = min(probe.shape[-2:])
    widths = np.linalg.svd(positions_px - positions_px.mean(axis=0), compute_uv=False)
    if len(positions_px) < 3 or widths[-1] < LINE_PX * np.sqrt(len(positions_px)):
        found.append(
            f"no area is spanned by {counted(len(positions_px), 'positions')}: metrics and "
            "intervals need one, and the probe is hard to refine along; take frames from more than "
            "one line"
        )
    if len(positions_px) < 3:
        return found
    if step_px > side:
        found.append(
            f"steps of {step_px:.3g} pixels are larger than the field of view of {side} pixels: "
            f"check position_units and the geometry{_unit_that_fits(step_px, side)}"
        )
    elif step_px < 0.05:
        found.append(
            f"steps of {step_px:.2g} pixels hardly move the beam: check position_units and the "
            f"geometry{_unit_that_fits(step_px, side)}"
        )
    elif overlap is None:
        pass
    elif overlap < 0:
        found.append(
            f"neighbouring positions do not overlap: steps of {step_px:.3g} pixels are wider than "
            "the beam that is started from; check its defocus (probe), position_units and the "
            "geometry"
            f"{_unit_that_fits(step_px, side)}"
        )
    elif overlap < LOW_OVERLAP:
        found.append(
            f"neighbouring positions overlap by {overlap:.0%} only; above {LOW_OVERLAP:.0%} the "
            "probe can be refined along, and below the object may come out in pieces"
        )
    elif overlap > HIGH_OVERLAP:
        found.append(
            f"an overlap of {overlap:.1%} is unusually high: check position_units and the geometry"
        )
    if is_unjittered_raster(positions_px):
        found.append(
            "positions are a raster without jitter: artefacts with the period of the step cannot "
            "be told from the object; measure with jitter or along a spiral"
        )
    return found


def in_geometry(scan: Scan, shadow: Shadow | None) -> list[str]:
    """What is missing, or is of another kind than the file tells."""
    found = []
    if scan.wavelength_m is None:
        found.append(
            "the energy is missing: set photon_energy_eV (or electron_energy_eV); objects of "
            "several slices and the near field need it"
        )
    if scan.known_pixel_size_m is None:
        found.append(
            "the pixel size of the object is missing, so that pictures are in pixels: set "
            "pixel_size_m, or the wavelength and the detector's geometry"
        )
    near_field = scan.free_space_propagation_distance_m is not None
    if shadow is not None and not near_field:
        if not shadow.fits_far_field:
            found.append(
                "patterns move with the sample, as shadow images do, of a beam that is wider than "
                "the field of view: if this is the near field set "
                "free_space_propagation_distance_m or focus_object_distance_m, which init measures"
            )
        shadow = shadow.in_far_field()
    if shadow is not None and near_field and not 0.9 < shadow.pixel_size < 1.1:
        found.append(
            f"patterns move as if an object pixel were {shadow.pixel_size:.3g} times as large: "
            "check the distances and the size of a detector pixel"
        )
    if shadow is not None and (shadow.transpose or shadow.flip_y or shadow.flip_x):
        found.append(
            f"patterns move in another direction than positions: set {orientation_keys(shadow)}"
        )
    return found


class Turned(Protocol):
    """Something in an orientation of the frames."""

    @property
    def transpose(self) -> bool:
        """Whether rows and columns change places."""

    @property
    def flip_y(self) -> bool:
        """Whether rows run the other way."""

    @property
    def flip_x(self) -> bool:
        """Whether columns run the other way."""


def orientation_keys(turned: Turned) -> str:
    """Keys of ``[data]`` for an orientation, as in TOML."""
    names = [name for name in ("transpose", "flip_y", "flip_x") if getattr(turned, name)]
    return ", ".join(f"{name} = true" for name in names) or "nothing (as stored)"


def is_unjittered_raster(positions: NDArray[np.floating]) -> bool:
    """Whether positions lie on a rectangular lattice, which may be turned.

    Examples
    --------
    >>> raster = np.indices((5, 6)).reshape(2, -1).T * 3.0
    >>> is_unjittered_raster(raster)
    True
    >>> is_unjittered_raster(raster + np.random.default_rng(0).normal(size=raster.shape))
    False
    """
    from scipy.spatial import cKDTree

    if len(positions) < 9:
        return False
    distances, others = cKDTree(positions).query(positions, k=2)
    step = float(np.median(distances[:, 1]))
    if step == 0:
        return False
    moves = positions[others[:, 1]] - positions
    angle = np.angle(np.mean(np.exp(4j * np.arctan2(moves[:, 0], moves[:, 1])))) / 4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for coordinates in (positions @ turn.T).T:
        ordered = np.sort(coordinates)
        gaps = np.diff(ordered)
        lines = np.split(ordered, np.flatnonzero(gaps > 0.25 * step) + 1)
        spread = max(float(np.ptp(line)) for line in lines)
        if len(lines) > len(positions) / 2 or spread > JITTER * step * 2:
            return False
        spacings = np.diff([line.mean() for line in lines])
        if len(spacings) > 1 and np.ptp(spacings) > 2 * JITTER * float(np.median(spacings)):
            return False
    return True


def _unit_that_fits(step_px: float, side: int) -> str:
    """The unit with which steps would be a usual part of the field of view."""
    for unit, factor in (("um", 1e-6), ("mm", 1e-3), ("nm", 1e-9), ("angstrom", 1e-10)):
        if FEWEST_STEPS * side < step_px * factor < MOST_STEPS * side:
            return f' (position_units = "{unit}" would make steps of {step_px * factor:.3g} pixels)'
    return ""
