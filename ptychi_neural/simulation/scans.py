"""Scan positions: (n, 2) arrays of (y, x) in object pixels, the middle of their extent at 0, 0."""

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.float64]


def raster(
    n_y: int, n_x: int, *, step_px: float, jitter_px: float, seed: int | np.random.Generator
) -> Positions:
    """Rows of points, each moved by up to ``jitter_px`` along both axes.

    Without jitter a raster has ambiguities of the period of its step (Thibault et al.,
    Ultramicroscopy 109, 338 (2009)).

    Parameters
    ----------
    n_y, n_x : int
        Number of points along each axis; x is the fast one.
    step_px : float
        Distance of neighbouring points before jitter.
    jitter_px : float
        Largest displacement along an axis, uniformly distributed.
    seed : int or numpy.random.Generator
        The same seed gives the same jitter.
    """
    grid = np.indices((n_y, n_x)).reshape(2, -1).T * step_px
    jitter = np.random.default_rng(seed).uniform(-jitter_px, jitter_px, grid.shape)
    return _centred(grid + jitter)


def fermat_spiral(n: int, *, step_px: float) -> Positions:
    """Fermat spiral, r = c sqrt(k) at k times the golden angle; one point for each step_px^2.

    Huang et al., Optics Express 22, 12634 (2014).

    Parameters
    ----------
    n : int
        Number of points.
    step_px : float
        Side of the square that has a point's share of the area, c = step_px / sqrt(pi).
    """
    k = np.arange(n)
    radius = step_px * np.sqrt(k / np.pi)
    angle = k * np.pi * (3 - np.sqrt(5))
    return _centred(_polar(radius, angle))


def concentric(n_rings: int, *, step_px: float, n_first_ring: int) -> Positions:
    """A centre point and rings ``step_px`` apart, ring j having j n_first_ring points.

    Dierolf et al., New J. Physics 12, 035017 (2010).

    Parameters
    ----------
    n_rings : int
        Number of rings around the centre point.
    step_px : float
        Distance of neighbouring rings.
    n_first_ring : int
        Number of points on the innermost ring.
    """
    rings = [np.zeros((1, 2))]
    for j in range(1, n_rings + 1):
        n = j * n_first_ring
        rings.append(_polar(np.full(n, j * step_px), 2 * np.pi * np.arange(n) / n))
    return _centred(np.concatenate(rings))


def line(n: int, *, step_px: float, angle_deg: float) -> Positions:
    """Points along one line.

    Parameters
    ----------
    n : int
        Number of points.
    step_px : float
        Distance of neighbouring points.
    angle_deg : float
        Direction of the line, from the x axis towards the y axis.
    """
    distance = step_px * np.arange(n, dtype=np.float64)
    return _centred(_polar(distance, np.full_like(distance, np.radians(angle_deg))))


def _polar(radius: Positions, angle: Positions) -> Positions:
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def _centred(positions: Positions) -> Positions:
    return positions - (positions.max(axis=0) + positions.min(axis=0)) / 2
