"""Blocks of detector pixels without counts: modules, gaps and beam stops that are stored as zeros.

A dark region of the pattern fades out over several pixels, and some stray light is in it. A block
begins beside pixels in full light, and has none.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychi_neural.scans.defects import (
    around,
    groups,
    nearly_all_bright,
    widened,
)

BRIGHT_COUNTS = 10.0
"""Counts from which a pixel beside a block is bright. A dead pixel has fewer beside it, and they
must be brighter."""

STRAY_LIGHT = 1e-3
"""Least part of the light beside a dark region of the pattern that each of its pixels shows."""

STRAY_LIGHT_NARROW = 0.1
"""The same for regions of at most ``NARROW`` pixels width, into which light reaches from both
sides."""

NARROW = 2

STRAY_LIGHT_AT_RIM = 3e-3
"""The same for those pixels of a region that lie beside the light."""

STRAY_COUNTS = 10.0
"""Counts expected at the least stray light from which none at all means a defect."""

SHARP_EDGE = 0.5
"""Least ratio of the light beside a block to the light one pixel further."""

STEADY = 0.65
"""Least ratio of this ratio to that one pixel further where the light falls off steadily, towards
counts that a block of zeros does not have; at the edge of a pupil it falls off at once."""

STRAIGHT_SIDE = 3.0
"""Mean length in pixels from which the sides of a block are straight."""

SHORTEST_SIDE = 6
"""Bright pixels in a line from which it is the side of a module."""

STRAIGHT_PART = 0.7
"""Part of the sharp edge on one side of the pattern that a module's straight side makes up."""


def blocks_without_counts(
    scan_counts: NDArray[np.float64], valid: NDArray[np.bool_], unit: float = 1.0
) -> NDArray[np.bool_]:
    """Find modules, gaps, rows and beam stops that were stored as zeros.

    Parameters
    ----------
    scan_counts : ndarray
        (h, w) sum of a scan's patterns.
    valid : ndarray
        (h, w) True for pixels that are no known defect.
    unit : float
        Value of one count.

    Returns
    -------
    ndarray
        (h, w) True in blocks that lie between bright pixels, and in rectangles at the edge of the
        detector beside bright pixels. Where the light itself has sharp edges, as a pupil without
        a sample has, only blocks with straight sides between bright pixels count.
    """
    counts = scan_counts / unit
    empty = valid & (scan_counts == 0)
    found = np.zeros(counts.shape, bool)
    if not empty.any():
        return found
    between = empty & (_between_bright(counts, valid, 0) | _between_bright(counts, valid, 1))
    beside = np.where(between, np.inf, counts.clip(max=1.0))  # where two gaps cross
    between |= empty & _between_bright(beside, valid, 0) & _between_bright(beside, valid, 1)
    at_edge = _modules_at_edge(counts, empty, valid)
    edges = widened(empty & ~between & ~at_edge) & valid & ~empty
    sharp_light = edges.any() and np.median(counts[edges]) > BRIGHT_COUNTS
    for block, box in groups(between):
        if _is_defect(block, box, counts, valid) and (not sharp_light or _is_straight(block)):
            found[box] |= block
    return found if sharp_light else found | at_edge


def _modules_at_edge(
    counts: NDArray[np.float64], empty: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find rectangles without counts between a straight line of bright pixels and the edge.

    Light that is itself a rectangle, as that of a mirror without a sample, has three such lines
    or more and is no defect.
    """
    found, n_sides = [np.zeros(counts.shape, bool)], 0
    for turns in range(4):
        light = np.rot90(counts, turns)
        dark, usable = (np.rot90(pixels, turns) for pixels in (empty, valid))
        n_dark = np.logical_and.accumulate(dark | ~usable, axis=1).sum(axis=1)
        for row in np.flatnonzero(n_dark[1:] == light.shape[1]) + 1:  # in the midst, it is a gap
            n_dark[row] = n_dark[row - 1]
        padded = np.pad(light, ((0, 0), (0, 3)))
        rows = np.arange(len(light))
        beside, further, beyond = (padded[rows, n_dark + k] for k in range(3))
        bright = (n_dark > 0) & dark[rows, n_dark - 1] & (beside > BRIGHT_COUNTS)
        least = max(SHORTEST_SIDE, STRAIGHT_PART * bright.sum())
        if bright.sum() < least:
            continue
        module = np.zeros(light.shape, bool)
        for run in np.split(rows, np.flatnonzero(np.diff(n_dark)) + 1):
            lit, depth = run[bright[run]], int(n_dark[run[0]])
            if len(lit) < least:
                continue
            sums = [float(light_of[lit].sum()) for light_of in (beside, further, beyond)]
            if sums[0] < SHARP_EDGE * sums[1] and sums[0] * sums[2] < STEADY * sums[1] ** 2:
                continue
            n_sides += 1
            if _must_show_light(depth * len(lit), len(lit), depth, beside[lit].mean()):
                module[lit[0] : lit[-1] + 1, :depth] = True
        found.append(np.rot90(module & dark, -turns))
    return np.logical_or.reduce(found) if n_sides < 3 else found[0]


def _between_bright(
    counts: NDArray[np.float64], valid: NDArray[np.bool_], axis: int
) -> NDArray[np.bool_]:
    """True where the next pixels with counts on both sides along an axis are bright."""
    lit = valid & (counts > 0)
    sides = []
    for step in (1, -1):
        order = (slice(None),) * axis + (slice(None, None, step),)
        lit_here = np.moveaxis(lit[order], axis, -1)
        index = np.where(lit_here, np.arange(lit_here.shape[-1]), -1)
        last = np.maximum.accumulate(index, axis=-1)
        values = np.moveaxis(counts[order], axis, -1)
        side = np.where(last >= 0, np.take_along_axis(values, last.clip(min=0), axis=-1), 0)
        sides.append(np.moveaxis(side, -1, axis)[order])
    return np.asarray(np.minimum(*sides) > BRIGHT_COUNTS)


def _is_defect(
    block: NDArray[np.bool_],
    box: tuple[slice, slice],
    counts: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> bool:
    """Whether a block of pixels without counts begins beside pixels in full light."""
    beside, further = (some[some > 0] for some in around(block, box, counts, valid))
    if not nearly_all_bright(beside, BRIGHT_COUNTS):
        return False
    depths = ndimage.distance_transform_cdt(np.pad(block, 1), "chessboard")
    width, n_rim = 2 * int(depths.max()), int((depths == 1).sum())
    sharp = len(further) == 0 or beside.mean() >= SHARP_EDGE * further.mean()
    sharp |= width <= NARROW and _is_straight(block)
    return bool(sharp and _must_show_light(int(block.sum()), n_rim, width, beside.mean()))


def _must_show_light(n_pixels: int, n_rim: int, width: int, beside: float) -> bool:
    """Whether pixels of the pattern, some of them beside pixels of so many counts, would show stray
    light."""
    part = STRAY_LIGHT_NARROW if width <= NARROW else STRAY_LIGHT
    return max(part * n_pixels, STRAY_LIGHT_AT_RIM * n_rim) * beside > STRAY_COUNTS


def _is_straight(block: NDArray[np.bool_]) -> bool:
    """Whether a block has long straight sides, as modules and gaps have and discs have not."""
    around = np.pad(block, 1).astype(np.int64)
    sides = sum(int(np.abs(np.diff(around, axis=axis)).sum()) for axis in (0, 1))
    corners = around[1:, 1:] + around[1:, :-1] + around[:-1, 1:] + around[:-1, :-1]
    return bool(sides >= STRAIGHT_SIDE * np.isin(corners, (1, 3)).sum())
