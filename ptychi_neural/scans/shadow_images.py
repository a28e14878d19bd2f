"""Near-field scans recognised by their patterns, which are shadow images that move with the sample.

A far-field pattern of a beam in focus does not move when the beam moves over the sample. One of a
beam far from focus is a shadow image, too, and upside down on one side of it. A shadow image moves
by

    s = - M (p_j - p_i) / d

detector pixels of size d between frames i and j at positions p. The shifts of neighbouring frames
therefore tell the size of an object pixel, d / M, and how frames are turned. The lit part of a
frame is then a beam of so many such pixels on the sample. Where it fits the far field's field of
view, lambda z / d, the far field describes the scan, and otherwise the near field alone does.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import cKDTree

MOST_FRAMES = 60
"""Frames whose shifts to their neighbours are measured."""

LARGEST_SIDE = 256
"""Pixels of a side to which larger frames are binned: shifts need no finer ones."""

LEAST_SHIFT_PX = 1.5
"""Median shift from which patterns move at all."""

LEAST_COMMON = 0.3
"""Part of the window that two images must have in common for a shift to be looked for."""

LIT = 0.05
"""Part of the brightest pixel's, row's or column's light from which one is lit."""

WIDEST = 1.1
"""Width of a beam, in fields of view, up to which it fits, as shadows tell it."""

LEAST_AGREEMENT = 0.7
"""Part of the shifts that has to agree with one magnification."""


class Shadow(NamedTuple):
    """What the movement of shadow images tells."""

    pixel_size: float
    """Size of an object pixel, in the unit of the positions."""

    transpose: bool
    flip_y: bool
    flip_x: bool
    agreement: float
    """Part of the shifts that agree."""

    lit: float = 1.0
    """Part of a side of the frames that the mean pattern lights."""

    @property
    def fits_far_field(self) -> bool:
        """Whether the beam fits the field of view, with positions in pixels of the far field."""
        return self.lit * self.pixel_size < WIDEST

    def beam_px(self, shape: tuple[int, ...]) -> float:
        """Width of the beam on the sample for (h, w) frames, with positions in object pixels."""
        return self.lit * self.pixel_size * max(shape)

    def in_far_field(self) -> "Shadow":
        """The same without a half turn, which tells the side of the focus there: frames that are
        turned by it give the complex conjugate of the object."""
        is_turned = self.flip_y and self.flip_x
        return self._replace(flip_y=False, flip_x=False) if is_turned else self


def find_shadow(
    patterns: NDArray[np.generic],
    valid_pixel_mask: NDArray[np.bool_] | None,
    positions: NDArray[np.floating],
) -> Shadow | None:
    """Find the magnification of shadow images, and the orientation of frames.

    Parameters
    ----------
    patterns : ndarray
        (n, h, w) counts as they are stored.
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works.
    positions : ndarray
        (n, 2) positions (y, x) in any unit.

    Returns
    -------
    Shadow or None
        None where patterns do not move with the sample: in the far field.
    """
    n, height, width = patterns.shape
    if n < 4 or min(height, width) < 8:
        return None
    valid = np.ones((height, width), bool) if valid_pixel_mask is None else valid_pixel_mask
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_FRAMES)).astype(int))
    _, neighbours = cKDTree(positions).query(positions[chosen], k=min(n, 4))
    used, index = np.unique(np.concatenate([chosen[:, None], neighbours], 1), return_inverse=True)
    coarse = -(-max(height, width) // LARGEST_SIDE)
    frames = _binned(patterns[used], coarse)
    valid = _binned(valid[None], coarse)[0] == coarse**2
    height, width = valid.shape
    mean = np.where(valid, frames.mean(axis=0), 0)
    light = np.minimum(mean, np.percentile(mean, 99))  # hot pixels are not the brightest light
    window = np.hanning(height)[:, None] * np.hanning(width)
    window = np.where(valid & (light > LIT * light.max()), window, 0).astype(np.float32)
    contrast = np.where(window > 0, frames / np.where(mean > 0, mean, 1) - 1, 0)
    waves = fft.rfft2(contrast * window)
    # The window's own correlation falls off from no shift, and would draw the peak there.
    common = fft.irfft2(np.abs(fft.rfft2(window)) ** 2, window.shape)
    common = np.where(common > LEAST_COMMON * common.max(), common, np.inf)
    index = index.reshape(len(chosen), -1)
    shifts, moves = [], []
    for row in index:
        for other in row[1:]:
            move = positions[used[other]] - positions[used[row[0]]]
            if move.any():
                shifts.append(_shift(waves[row[0]], waves[other], common))
                moves.append(move)
    if len(shifts) < 6:
        return None
    found = _fit(np.array(shifts), np.array(moves))
    if found is None:
        return None
    profiles = (light.sum(axis=axis) for axis in (0, 1))
    lit = max(float((profile > LIT * profile.max()).mean()) for profile in profiles)
    return found._replace(pixel_size=found.pixel_size / coarse, lit=lit)


def _binned(frames: NDArray[np.generic], side: int) -> NDArray[np.float32]:
    """Sums over squares of pixels; what is left over at the end of a side is cut off."""
    n, height, width = (len(frames), frames.shape[1] // side, frames.shape[2] // side)
    squares = frames[:, : height * side, : width * side].reshape(n, height, side, width, side)
    return squares.sum(axis=(2, 4), dtype=np.float32)


def _fit(shifts: NDArray[np.float64], moves: NDArray[np.float64]) -> Shadow | None:
    best: Shadow | None = None
    if np.median(np.hypot(*shifts.T)) < LEAST_SHIFT_PX:
        return None
    for transpose, flip_y, flip_x in product((False, True), repeat=3):
        turned = shifts[:, ::-1] if transpose else shifts
        turned = turned * np.where([flip_y, flip_x], -1, 1)
        along = -(turned * moves).sum(axis=1) / (moves**2).sum(axis=1)
        scale = float(np.median(along))
        if scale <= 0:
            continue
        wrong = np.hypot(*(turned + scale * moves).T)
        agrees = wrong < np.maximum(1.5, 0.15 * np.hypot(*shifts.T))
        if agrees.any() and (best is None or agrees.mean() > best.agreement):
            fitted = -(turned[agrees] * moves[agrees]).sum() / (moves[agrees] ** 2).sum()
            best = Shadow(1 / float(fitted), transpose, flip_y, flip_x, float(agrees.mean()))
    return best if best is not None and best.agreement >= LEAST_AGREEMENT else None


def _shift(
    one: NDArray[np.complex64], other: NDArray[np.complex64], common: NDArray[np.float32]
) -> NDArray[np.float64]:
    """By how many pixels (y, x) the second image lies further than the first."""
    correlation = fft.irfft2(one.conj() * other, common.shape) / common
    peak = np.unravel_index(correlation.argmax(), correlation.shape)
    shift = np.empty(2)
    for axis, (at, size) in enumerate(zip(peak, correlation.shape)):
        line = np.take(correlation, peak[1 - axis], axis=1 - axis)
        before, top, after = line[at - 1], line[at], line[(at + 1) % size]
        curvature = before - 2 * top + after
        vertex = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
        shift[axis] = (at + size // 2) % size - size // 2 + vertex
    return shift
