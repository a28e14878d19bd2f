"""Simulated objects: complex (H, W) transmission functions.

Each kind is a class that has the options of a run file and draws the object in ``build``. A new
kind needs a class here and a place in ``AnyObject``.
"""

from typing import Annotated, Literal

import numpy as np
import skimage.draw
import skimage.transform
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy import ndimage

from ptychi_neural.simulation.images import ImagePair, Natural, ObjectFile
from ptychi_neural.simulation.sections import Section, Seed
from ptychi_neural.simulation.textures import ComplexObject, Texture, Textured, stretched

PUBLISHED_LINES_SIDE_PX = 392
PUBLISHED_N_LINES = 400


MOST_SHAPES = 10**7
"""Shapes that are drawn in some minutes."""


def _drawable(n: float, remedy: str) -> int:
    """A number of shapes, at least one, of which an object is drawn.

    Raises
    ------
    ValueError
        If there are too many.
    """
    if not n <= MOST_SHAPES:
        raise ValueError(
            f"simulation.object: {n:.3g} shapes would have to be drawn, more than {MOST_SHAPES}; "
            f"{remedy}, or make the scan smaller."
        )
    return max(1, round(n))


class Lines(Textured):
    """Random straight lines, blurred at three scales; the composition is a second draw.

    References
    ----------
    Texture: Hoidn et al., Scientific Reports 13, 22789 (2023), and its repository PtychoPINN.
    """

    kind: Literal["lines"] = "lines"

    n_lines: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Number of lines on a canvas of twice the size, whose centre is kept. None: the published
    density of lines."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Draw the (H, W) object."""
        rng = np.random.default_rng(seed)
        return self._of_material(*(_line_texture(shape, rng, self.n_lines) for _ in range(2)))


class PublishedLines(Section):
    """The lines object of PtychoPINN's benchmark: its phase is a function of its amplitude.

    amplitude = A / mean over patches of max A,  phase = pi tanh((A - max A / 2) / (3 mean A)).

    The published object is (392, 392).

    References
    ----------
    Hoidn et al., Scientific Reports 13, 22789 (2023), and its repository PtychoPINN.
    """

    kind: Literal["published_lines"] = "published_lines"

    patch_shape: tuple[PositiveInt, PositiveInt] = (128, 128)
    """(h, w) of the diffraction patterns, in which the amplitude is normalised."""

    n_lines: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Number of lines on a canvas of twice the size, whose centre is kept. None: the published
    density of lines."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Draw the (H, W) object.

        Raises
        ------
        ValueError
            If the object is smaller than a patch.
        """
        if any(side < patch for side, patch in zip(shape, self.patch_shape)):
            raise ValueError(
                f"shape {shape} is smaller than patch_shape {self.patch_shape}: make the object "
                "larger."
            )
        texture = _line_texture(shape, np.random.default_rng(seed), self.n_lines)
        inside = tuple(
            slice(n // 2, side - (n - 1) // 2) for n, side in zip(self.patch_shape, shape)
        )
        patch_maxima = ndimage.maximum_filter(texture, size=self.patch_shape)[inside]
        phase = np.pi * np.tanh((texture - texture.max() / 2) / (3 * texture.mean()))
        return texture / patch_maxima.mean() * np.exp(1j * phase)


def _line_texture(shape: tuple[int, int], rng: np.random.Generator, n_lines: int | None) -> Texture:
    canvas = np.zeros((2 * shape[0], 2 * shape[1]))
    if n_lines is None:
        # The number of lines that cross a field of view is proportional to its side.
        n_lines = round(PUBLISHED_N_LINES * max(shape) / PUBLISHED_LINES_SIDE_PX)
    for ends in rng.integers(0, (*canvas.shape, *canvas.shape), (n_lines, 4)):
        canvas[skimage.draw.line(*ends)] = 1
    scales = ((1, 1), (2, 5), (5, 10))
    blurred = sum(weight * ndimage.gaussian_filter(canvas, sigma) for weight, sigma in scales)
    return np.asarray(blurred)[tuple(slice(side // 2, side // 2 + side) for side in shape)]


class DeadLeaves(Textured):
    """Opaque discs of all sizes that cover each other, each of its own density and composition.

    The probability of a radius falls with its third power.

    References
    ----------
    Lee, Mumford and Huang, Int. J. Computer Vision 41, 35 (2001).
    """

    kind: Literal["dead_leaves"] = "dead_leaves"

    smallest_radius_px: float = Field(default=3.0, gt=0)
    """Smallest radius of a disc."""

    largest_radius_px: float = Field(default=24.0, gt=0)
    """Largest radius of a disc."""

    smoothing_px: float = Field(default=0.7, ge=0)
    """Sigma of the Gaussian that softens the edges."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Draw the (H, W) object.

        Raises
        ------
        ValueError
            If the smallest radius is not below the largest.
        """
        smallest, largest = self.smallest_radius_px, self.largest_radius_px
        if not smallest < largest:
            raise ValueError(
                f"smallest_radius_px = {smallest} must be positive and below "
                f"largest_radius_px = {largest}."
            )
        rng = np.random.default_rng(seed)
        # Radii have the density r^-3 if r^-2 is uniformly distributed.
        low, high = largest**-2, smallest**-2
        mean_area = np.pi * np.log(high / low) / (high - low)
        height, width = (side + 2 * largest for side in shape)
        # This many discs leave a share exp(-5) of the area bare.
        n_discs = _drawable(
            np.ceil(5 * height * width / mean_area),
            "raise smallest_radius_px, lower largest_radius_px",
        )
        radii = rng.uniform(low, high, n_discs) ** -0.5
        centres = rng.uniform(0, (height, width), (n_discs, 2)) - largest
        materials = rng.uniform(size=(n_discs, 2))

        textures = np.full((*shape, 2), 0.5)
        for centre, radius, material in zip(centres, radii, materials):
            textures[skimage.draw.disk(tuple(centre), radius, shape=shape)] = material
        textures = ndimage.gaussian_filter(textures, self.smoothing_px, axes=(0, 1))
        return self._of_material(textures[..., 0], textures[..., 1])


class SiemensStar(Textured):
    """Siemens star with a gap ring, rotated at random; the composition is a smooth random field."""

    kind: Literal["siemens_star"] = "siemens_star"

    n_spokes: PositiveInt = 24
    """Number of spokes."""

    smoothing_px: float = Field(default=0.7, ge=0)
    """Sigma of the Gaussian that softens the edges."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Draw the (H, W) object."""
        rng = np.random.default_rng(seed)
        oversampling = 4
        y, x = (
            (np.arange(side * oversampling) + 0.5) / (side * oversampling) - 0.5 for side in shape
        )
        y, x = y[:, None] * shape[0] / min(shape), x[None, :] * shape[1] / min(shape)
        radius = np.hypot(y, x)
        angle = np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
        in_gap = np.abs(radius - 0.27) <= 0.012
        spokes = (np.sin(self.n_spokes * angle) > 0) & (radius < 0.48) & ~in_gap
        density = skimage.transform.downscale_local_mean(spokes.astype(float), (oversampling,) * 2)
        composition = ndimage.gaussian_filter(rng.normal(size=shape), min(shape) / 16)
        return self._of_material(
            ndimage.gaussian_filter(density, self.smoothing_px), stretched(composition)
        )


class Cells(Textured):
    """Cell-like texture: overlapping domes with membranes, nuclei and granules.

    The composition is that of nuclei and granules, over a smooth random field.
    """

    kind: Literal["cells"] = "cells"

    radius_px: float = Field(default=14.0, ge=3, le=10_000)
    """Mean radius of a cell."""

    coverage: float = Field(default=0.9, gt=0)
    """Sum of the cells' areas over the area of the object."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Draw the (H, W) object."""
        rng = np.random.default_rng(seed)
        margin = int(np.ceil(2 * self.radius_px))
        canvas = tuple(side + 2 * margin for side in shape)
        area = np.pi * self.radius_px**2
        n_cells = _drawable(self.coverage * canvas[0] * canvas[1] / area, "lower coverage")
        bodies, nuclei = np.zeros(canvas), np.zeros(canvas)
        for _ in range(n_cells):
            centre = rng.uniform(0, canvas)
            _add_cell(bodies, nuclei, centre, self.radius_px * rng.uniform(0.7, 1.3), rng)
        granules = ndimage.gaussian_filter(rng.normal(size=canvas), 1.0)
        granules = np.clip(granules / granules.std() - 1, 0, None) * np.clip(bodies, 0, 1)
        field = ndimage.gaussian_filter(rng.normal(size=canvas), self.radius_px)

        inside = (slice(margin, -margin),) * 2
        density = bodies + 0.6 * nuclei + 0.3 * granules
        composition = stretched(field[inside]) + 1.5 * nuclei[inside] + 0.3 * granules[inside]
        return self._of_material(stretched(density[inside]), stretched(composition))


def _add_cell(
    bodies: Texture,
    nuclei: Texture,
    centre: NDArray[np.float64],
    radius: float,
    rng: np.random.Generator,
) -> None:
    """Add one cell of a random outline around ``centre``, in place."""
    reach = 1.8 * radius
    window = tuple(
        slice(max(0, int(c - reach)), min(side, int(c + reach) + 1))
        for c, side in zip(centre, bodies.shape)
    )
    y, x = np.ogrid[window]
    y, x = y - centre[0], x - centre[1]
    angle = np.arctan2(y, x) - rng.uniform(0, 2 * np.pi)
    outline = 1 + sum(
        rng.uniform(0, 0.22) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
    )
    relative = np.hypot(y, x) / (radius * outline)
    dome = np.sqrt(np.clip(1 - relative**2, 0, None))
    membrane = np.exp(-(((relative - 0.97) * radius / 1.2) ** 2))
    bodies[window] += rng.uniform(0.6, 1.0) * dome + 0.35 * membrane
    offset = rng.uniform(-0.25, 0.25, 2) * radius
    nucleus = np.hypot(y - offset[0], x - offset[1]) / (0.35 * radius)
    nuclei[window] += 1 / (1 + np.exp(np.clip((nucleus - 1) * 0.35 * radius / 0.5, -50, 50)))


AnyObject = Annotated[
    Lines | PublishedLines | DeadLeaves | SiemensStar | Cells | ImagePair | Natural | ObjectFile,
    Field(discriminator="kind"),
]
