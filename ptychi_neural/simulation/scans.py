"""Scan positions: (n, 2) arrays of (y, x) in object pixels, the middle of their extent at 0, 0.

Each kind is a class that has the options of a run file and places the points in ``build``. A new
kind needs a class here and a place in ``AnyScan``.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PositiveInt

from ptychi_neural.simulation.sections import Section, Seed

Positions = NDArray[np.float64]


class Raster(Section):
    """Rows of points with a uniformly distributed jitter; x is the fast axis.

    Without jitter a raster has ambiguities of the period of its step (Thibault et al.,
    Ultramicroscopy 109, 338 (2009)).
    """

    kind: Literal["raster"] = "raster"

    n_y: PositiveInt = 20
    """Number of rows."""

    n_x: PositiveInt = 20
    """Number of points in a row."""

    step_px: float = Field(default=4.0, gt=0)
    """Distance of neighbouring points before jitter."""

    jitter_px: float = Field(default=1.0, ge=0)
    """Largest random displacement along an axis. 0 gives a perfect raster, whose
    reconstructions have artefacts of the period of the step."""

    @property
    def n_points(self) -> int:
        """Number of positions."""
        return self.n_y * self.n_x

    def build(self, seed: Seed) -> Positions:
        """Place the (n_y * n_x, 2) positions."""
        grid = np.indices((self.n_y, self.n_x)).reshape(2, -1).T * self.step_px
        rng = np.random.default_rng(seed)
        return _centred(grid + rng.uniform(-self.jitter_px, self.jitter_px, grid.shape))


class FermatSpiral(Section):
    """Fermat spiral, r = c sqrt(k) at k times the golden angle; one point for each step_px^2.

    Huang et al., Optics Express 22, 12634 (2014).
    """

    kind: Literal["fermat_spiral"] = "fermat_spiral"

    n: PositiveInt = 400
    """Number of points."""

    step_px: float = Field(default=4.0, gt=0)
    """Side of the square that has a point's share of the area, c = step_px / sqrt(pi)."""

    @property
    def n_points(self) -> int:
        """Number of positions."""
        return self.n

    def build(self, seed: Seed) -> Positions:
        """Place the (n, 2) positions; the spiral leaves nothing to the seed."""
        k = np.arange(self.n)
        radius = self.step_px * np.sqrt(k / np.pi)
        return _centred(_polar(radius, k * np.pi * (3 - np.sqrt(5))))


class Concentric(Section):
    """A centre point and rings ``step_px`` apart, of which ring j has j n_first_ring points.

    Dierolf et al., New J. Physics 12, 035017 (2010).
    """

    kind: Literal["concentric"] = "concentric"

    n_rings: PositiveInt = 11
    """Number of rings around the centre point."""

    step_px: float = Field(default=4.0, gt=0)
    """Distance of neighbouring rings."""

    n_first_ring: PositiveInt = 6
    """Number of points on the innermost ring; ring j has j times as many."""

    @property
    def n_points(self) -> int:
        """Number of positions."""
        return 1 + self.n_first_ring * self.n_rings * (self.n_rings + 1) // 2

    def build(self, seed: Seed) -> Positions:
        """Place the (n, 2) positions; the rings leave nothing to the seed."""
        rings = [np.zeros((1, 2))]
        for j in range(1, self.n_rings + 1):
            n = j * self.n_first_ring
            rings.append(_polar(np.full(n, j * self.step_px), 2 * np.pi * np.arange(n) / n))
        return _centred(np.concatenate(rings))


class Line(Section):
    """Points along one line."""

    kind: Literal["line"] = "line"

    n: PositiveInt = 100
    """Number of points."""

    step_px: float = Field(default=2.0, gt=0)
    """Distance of neighbouring points."""

    angle_deg: FiniteFloat = 0.0
    """Direction, from the x axis towards the y axis."""

    @property
    def n_points(self) -> int:
        """Number of positions."""
        return self.n

    def build(self, seed: Seed) -> Positions:
        """Place the (n, 2) positions; the line leaves nothing to the seed."""
        distance = self.step_px * np.arange(self.n, dtype=np.float64)
        return _centred(_polar(distance, np.full_like(distance, np.radians(self.angle_deg))))


def _polar(radius: NDArray[np.float64], angle: NDArray[np.float64]) -> Positions:
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def _centred(positions: Positions) -> Positions:
    return positions - (positions.max(axis=0) + positions.min(axis=0)) / 2


AnyScan = Annotated[Raster | FermatSpiral | Concentric | Line, Field(discriminator="kind")]
