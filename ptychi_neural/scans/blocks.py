"""Blocks of detector pixels without counts: modules, gaps and beam stops that are stored as zeros.

A dark region of the pattern fades out over several pixels, and some stray light is in it. A block
begins beside pixels in full light, and has none.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptychi_neural.scans.defects import (
    LARGEST_DEAD_GROUP,
    around,
    groups,
    nearly_all_bright,
    widened,
)

BRIGHT_COUNTS = 10.0
"""Counts from which a pixel beside a block is bright. A dead pixel has fewer beside it, and they
must be brighter."""

STRAY_LIGHT = 3e-3
"""Least part of the light beside a dark region of the pattern that each of its pixels shows."""

STRAY_LIGHT_NARROW = 0.1
"""The same for regions of at most ``NARROW`` pixels width, into which light reaches from both
sides."""

NARROW = 2

STRAY_LIGHT_AT_RIM = 9e-3
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
    lit = valid & (counts > 0)
    between = _between_bright(counts, lit, empty, 0) | _between_bright(counts, lit, empty, 1)
    if between.any():  # where two gaps cross
        beside = np.where(between, np.inf, 0.0)
        lit_or_gap = lit | between
        between |= np.logical_and(
            *(_between_bright(beside, lit_or_gap, empty, axis) for axis in (0, 1))
        )
    at_edge = _modules_at_edge(counts, empty, valid)
    blocks = [of for of in groups(between) if _is_defect(*of, counts, valid)]
    if not blocks and not at_edge.any():
        return found
    edges = widened(empty & ~between & ~at_edge) & valid & ~empty
    sharp_light = edges.any() and np.median(counts[edges]) > BRIGHT_COUNTS
    for block, box in blocks:
        if not sharp_light or _is_straight(block):
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
    padded = np.zeros((counts.shape[0] + 6, counts.shape[1] + 6))
    padded[3:-3, 3:-3] = counts
    unlit = empty | ~valid
    for turns, edge in enumerate((unlit[:, 0], unlit[0], unlit[:, -1], unlit[-1])):
        if edge.sum() < SHORTEST_SIDE:
            continue
        light = np.rot90(padded, turns)[3:-3, 3:]  # and three pixels on the other side of it
        dark, usable = (np.rot90(pixels, turns) for pixels in (empty, valid))
        n_dark = np.logical_and.accumulate(dark | ~usable, axis=1).sum(axis=1)
        for row in np.flatnonzero(n_dark[1:] == dark.shape[1]) + 1:  # in the midst, it is a gap
            n_dark[row] = n_dark[row - 1]
        # Dead pixels beside a module are none of it.
        n_dark = ndimage.grey_opening(n_dark, LARGEST_DEAD_GROUP + 1, mode="nearest")
        rows = np.arange(len(light))
        beside, further, beyond = (light[rows, n_dark + k] for k in range(3))
        bright = (n_dark > 0) & dark[rows, n_dark - 1] & (beside > BRIGHT_COUNTS)
        least = max(SHORTEST_SIDE, STRAIGHT_PART * bright.sum())
        if bright.sum() < least:
            continue
        module = np.zeros(dark.shape, bool)
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
    counts: NDArray[np.float64], lit: NDArray[np.bool_], empty: NDArray[np.bool_], axis: int
) -> NDArray[np.bool_]:
    """True for those of the empty pixels whose next lit ones on both sides along an axis are
    bright."""
    found = np.zeros(empty.shape, bool)
    lines, of_lines, dark = (pixels if axis else pixels.T for pixels in (counts, lit, found))
    width = lines.shape[1]
    row, column = np.nonzero(empty if axis else empty.T)
    # Pixels before the first and after the last one belong to no line.
    at = np.concatenate([[-1], np.flatnonzero(of_lines), [lines.size]])
    is_bright = np.concatenate([[False], lines[of_lines] > BRIGHT_COUNTS, [False]])
    after = np.searchsorted(at, row * width + column)
    sides = (is_bright[k] & (at[k] // width == row) for k in (after, after - 1))
    dark[row, column] = np.logical_and(*sides)
    return found


def _is_defect(
    block: NDArray[np.bool_],
    box: tuple[slice, slice],
    counts: NDArray[np.float64],
    valid: NDArray[np.bool_],
) -> bool:
    """Whether a block of pixels without counts begins beside pixels in full light."""
    beside, further = (some[some > 0] for some in around(block, box, counts, valid))
    n_pixels = n_rim = int(block.sum())
    width, light = NARROW, beside.sum() / max(len(beside), 1)
    # More than the light of a narrow block no wider one must show.
    if not _must_show_light(n_pixels, n_rim, width, light):
        return False
    if not nearly_all_bright(beside, BRIGHT_COUNTS):
        return False
    if min(block.shape) > NARROW:
        depths = ndimage.distance_transform_cdt(np.pad(block, 1), "chessboard")
        width, n_rim = 2 * int(depths.max()), int((depths == 1).sum())
    if not _must_show_light(n_pixels, n_rim, width, light):
        return False
    sharp = len(further) == 0 or light >= SHARP_EDGE * further.mean()
    return bool(sharp or (width <= NARROW and _is_straight(block)))


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
