"""Simulated objects: complex (H, W) transmission functions.

Each is made of a density d and a composition c, both real (H, W) textures in [0, 1]. Dense
material absorbs, and shifts the phase by an amount that the composition varies:

    |O| = a_max - (a_max - a_min) d,    arg O = p_min + (p_max - p_min) m,
    m = (1 - k) d + k c, stretched to [0, 1], with k = ``COMPOSITION_SHARE``

so amplitude and phase are correlated, as in a real specimen, and neither follows from the other.
Exceptions are :func:`image_pair`, whose two images are amplitude and phase themselves,
:func:`natural`, :func:`from_file` and :func:`published_lines`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import skimage.color
import skimage.data
import skimage.draw
import skimage.io
import skimage.transform
import skimage.util
from numpy.typing import NDArray
from scipy import ndimage

from ptychi_neural.simulation.files import read_array

Range = tuple[float, float]
Seed = int | np.random.Generator
Texture = NDArray[np.float64]
ComplexObject = NDArray[np.complex128]
SampleImage = Literal[
    "astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "rocket"
]

COMPOSITION_SHARE = 0.4
PUBLISHED_LINES_SIDE_PX = 392
PUBLISHED_N_LINES = 400


def lines(
    shape: tuple[int, int],
    seed: Seed,
    *,
    n_lines: int | None = None,
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Random straight lines, blurred at three scales; the composition is a second draw.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    seed : int or numpy.random.Generator
        The same seed gives the same object.
    n_lines : int, optional
        Number of lines on a canvas of (2 H, 2 W), whose centre is kept. None: the published
        line density.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.

    References
    ----------
    Texture: Hoidn et al., Scientific Reports 13, 22789 (2023), and its repository PtychoPINN.
    """
    rng = np.random.default_rng(seed)
    density, composition = (_line_texture(shape, rng, n_lines) for _ in range(2))
    return _from_material(density, composition, amplitude_range, phase_range)


def published_lines(
    shape: tuple[int, int],
    seed: Seed,
    *,
    patch_shape: tuple[int, int] = (128, 128),
    n_lines: int | None = None,
) -> ComplexObject:
    """The lines object of PtychoPINN's benchmark: its phase is a function of its amplitude.

    amplitude = A / mean over patches of max A,  phase = pi tanh((A - max A / 2) / (3 mean A)).

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels; published: (392, 392).
    seed : int or numpy.random.Generator
        The same seed gives the same object.
    patch_shape : tuple of int
        (h, w) of the diffraction patterns.
    n_lines : int, optional
        Number of lines on a canvas of (2 H, 2 W), whose centre is kept. None: the published
        line density.

    Returns
    -------
    ndarray
        (H, W) complex object.

    Raises
    ------
    ValueError
        If the object is smaller than a patch.

    References
    ----------
    Hoidn et al., Scientific Reports 13, 22789 (2023), and its repository PtychoPINN.
    """
    if any(side < patch for side, patch in zip(shape, patch_shape)):
        raise ValueError(
            f"shape {shape} is smaller than patch_shape {patch_shape}: make the object larger."
        )
    texture = _line_texture(shape, np.random.default_rng(seed), n_lines)
    inside = tuple(slice(n // 2, side - (n - 1) // 2) for n, side in zip(patch_shape, shape))
    patch_maxima = ndimage.maximum_filter(texture, size=patch_shape)[inside]
    phase = np.pi * np.tanh((texture - texture.max() / 2) / (3 * texture.mean()))
    return texture / patch_maxima.mean() * np.exp(1j * phase)


def dead_leaves(
    shape: tuple[int, int],
    seed: Seed,
    *,
    smallest_radius_px: float = 3.0,
    largest_radius_px: float = 24.0,
    smoothing_px: float = 0.7,
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Opaque discs of all sizes covering each other, each of its own density and composition.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    seed : int or numpy.random.Generator
        The same seed gives the same object.
    smallest_radius_px, largest_radius_px : float
        Limits of the radii, whose probability falls with their third power.
    smoothing_px : float
        Sigma of the Gaussian that softens the edges.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.

    Raises
    ------
    ValueError
        If the radii are not 0 < smallest < largest.

    References
    ----------
    Lee, Mumford and Huang, Int. J. Computer Vision 41, 35 (2001).
    """
    if not 0 < smallest_radius_px < largest_radius_px:
        raise ValueError(
            f"smallest_radius_px = {smallest_radius_px} must be positive and below "
            f"largest_radius_px = {largest_radius_px}."
        )
    rng = np.random.default_rng(seed)
    # A density r^-3 of the radii is a uniform one of r^-2.
    low, high = largest_radius_px**-2, smallest_radius_px**-2
    mean_area = np.pi * np.log(high / low) / (high - low)
    height, width = (side + 2 * largest_radius_px for side in shape)
    n_leaves = int(np.ceil(5 * height * width / mean_area))  # leaves exp(-5) of the area bare
    radii = rng.uniform(low, high, n_leaves) ** -0.5
    centres = rng.uniform(0, (height, width), (n_leaves, 2)) - largest_radius_px
    materials = rng.uniform(size=(n_leaves, 2))

    textures = np.full((*shape, 2), 0.5)
    for centre, radius, material in zip(centres, radii, materials):
        textures[skimage.draw.disk(tuple(centre), radius, shape=shape)] = material
    density, composition = ndimage.gaussian_filter(textures, smoothing_px, axes=(0, 1)).T
    return _from_material(density.T, composition.T, amplitude_range, phase_range)


def siemens_star(
    shape: tuple[int, int],
    seed: Seed,
    *,
    n_spokes: int = 24,
    smoothing_px: float = 0.7,
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Siemens star with a gap ring, rotated at random; the composition is a smooth random field.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    seed : int or numpy.random.Generator
        The same seed gives the same object.
    n_spokes : int
        Number of spokes.
    smoothing_px : float
        Sigma of the Gaussian that softens the edges.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.
    """
    rng = np.random.default_rng(seed)
    oversampling = 4
    y, x = ((np.arange(side * oversampling) + 0.5) / (side * oversampling) - 0.5 for side in shape)
    y, x = y[:, None] * shape[0] / min(shape), x[None, :] * shape[1] / min(shape)
    radius = np.hypot(y, x)
    angle = np.arctan2(y, x) + rng.uniform(0, 2 * np.pi)
    spokes = (np.sin(n_spokes * angle) > 0) & (radius < 0.48) & (np.abs(radius - 0.27) > 0.012)
    density = skimage.transform.downscale_local_mean(spokes.astype(float), (oversampling,) * 2)
    composition = ndimage.gaussian_filter(rng.normal(size=shape), min(shape) / 16)
    return _from_material(
        ndimage.gaussian_filter(density, smoothing_px),
        _stretch(composition),
        amplitude_range,
        phase_range,
    )


def cells(
    shape: tuple[int, int],
    seed: Seed,
    *,
    radius_px: float = 14.0,
    coverage: float = 0.9,
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Cell-like texture: overlapping domes with membranes, nuclei and granules.

    The composition is that of nuclei and granules, over a smooth random field.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    seed : int or numpy.random.Generator
        The same seed gives the same object.
    radius_px : float
        Mean radius of a cell.
    coverage : float
        Sum of the cells' areas over the area of the object.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.
    """
    rng = np.random.default_rng(seed)
    margin = int(np.ceil(2 * radius_px))
    canvas = tuple(side + 2 * margin for side in shape)
    n_cells = max(1, round(coverage * canvas[0] * canvas[1] / (np.pi * radius_px**2)))
    bodies, nuclei = np.zeros(canvas), np.zeros(canvas)
    for _ in range(n_cells):
        centre = rng.uniform(0, canvas)
        _add_cell(bodies, nuclei, centre, radius_px * rng.uniform(0.7, 1.3), rng)
    granules = ndimage.gaussian_filter(rng.normal(size=canvas), 1.0)
    granules = np.clip(granules / granules.std() - 1, 0, None) * np.clip(bodies, 0, 1)
    field = ndimage.gaussian_filter(rng.normal(size=canvas), radius_px)

    inside = (slice(margin, -margin),) * 2
    density = bodies + 0.6 * nuclei + 0.3 * granules
    composition = _stretch(field[inside]) + 1.5 * nuclei[inside] + 0.3 * granules[inside]
    return _from_material(
        _stretch(density[inside]), _stretch(composition), amplitude_range, phase_range
    )


def image_pair(
    shape: tuple[int, int],
    amplitude_image: str | Path,
    phase_image: str | Path,
    *,
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Any two images as amplitude and phase, black at the low and white at the high end.

    Images are taken as grey, cropped in the middle to the object's aspect ratio and resized.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    amplitude_image, phase_image : path
        Image files that scikit-image can read.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If an image is uniform.
    """
    textures = []
    for name, path in (("amplitude_image", amplitude_image), ("phase_image", phase_image)):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{name}: there is no file {path}.")
        image = skimage.io.imread(path, as_gray=True).astype(float)
        if image.ndim != 2 or image.min() == image.max():
            raise ValueError(f"{name}: {path} is not a grey or colour image with some contrast.")
        textures.append(_stretch(skimage.transform.resize(_crop(image, shape), shape)))
    amplitude, phase = textures
    return _complex_object(amplitude, phase, amplitude_range, phase_range)


def natural(
    shape: tuple[int, int],
    seed: Seed,
    *,
    amplitude_image: SampleImage = "camera",
    phase_image: SampleImage = "coins",
    amplitude_range: Range = (0.6, 1.0),
    phase_range: Range = (-1.0, 1.0),
) -> ComplexObject:
    """Parts of two natural images as amplitude and phase, black at the low and white at the high
    end.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    seed : int or numpy.random.Generator
        Decides which part of each image, of half to all of its shorter side, and its orientation.
    amplitude_image, phase_image : str
        Names of sample images that come with scikit-image.
    amplitude_range, phase_range : tuple of float
        Smallest and largest amplitude and phase (rad).

    Returns
    -------
    ndarray
        (H, W) complex object.
    """
    rng = np.random.default_rng(seed)
    amplitude, phase = (_part_of(name, shape, rng) for name in (amplitude_image, phase_image))
    return _complex_object(amplitude, phase, amplitude_range, phase_range)


def from_file(
    shape: tuple[int, int], path: str | Path, *, dataset: str = "object"
) -> ComplexObject:
    """The middle of an object in a NumPy file or an HDF5 file such as a ptychodus product.

    Parameters
    ----------
    shape : tuple of int
        (H, W) of the object in pixels.
    path : path
        ``.npy`` file, or HDF5 file of any other suffix.
    dataset : str
        Name of the dataset in an HDF5 file.

    Returns
    -------
    ndarray
        (H, W) complex object: of the file's (H', W') or (1, H', W').

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        If there is no such file or dataset, or if it is no object of one slice, or is too small.
    """
    found = read_array(path, dataset, "object")
    if found.ndim == 3 and len(found) == 1:
        found = found[0]
    if found.ndim != 2 or any(size < side for size, side in zip(found.shape, shape)):
        raise ValueError(
            f"path: the object in {path} is {found.shape}; the scan needs one slice of at least "
            f"{shape}: make the scan smaller."
        )
    return found[_middle(found.shape, shape)]


def _line_texture(shape: tuple[int, int], rng: np.random.Generator, n_lines: int | None) -> Texture:
    canvas = np.zeros((2 * shape[0], 2 * shape[1]))
    if n_lines is None:  # the number of lines across a field of view goes with its side
        n_lines = round(PUBLISHED_N_LINES * max(shape) / PUBLISHED_LINES_SIDE_PX)
    for ends in rng.integers(0, (*canvas.shape, *canvas.shape), (n_lines, 4)):
        canvas[skimage.draw.line(*ends)] = 1
    scales = ((1, 1), (2, 5), (5, 10))
    blurred = sum(weight * ndimage.gaussian_filter(canvas, sigma) for weight, sigma in scales)
    return np.asarray(blurred)[tuple(slice(side // 2, side // 2 + side) for side in shape)]


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


def _part_of(name: SampleImage, shape: tuple[int, int], rng: np.random.Generator) -> Texture:
    """A random part of a sample image, grey, in a random orientation."""
    image = skimage.util.img_as_float(getattr(skimage.data, name)())
    if image.ndim == 3:
        image = skimage.color.rgb2gray(image)
    image = np.rot90(image, int(rng.integers(4)))
    scale = rng.uniform(0.5, 1) * min(size / side for size, side in zip(image.shape, shape))
    sides = [max(2, round(scale * side)) for side in shape]
    starts = [rng.integers(size - side + 1) for size, side in zip(image.shape, sides)]
    part = image[tuple(slice(start, start + side) for start, side in zip(starts, sides))]
    return _stretch(skimage.transform.resize(part, shape, anti_aliasing=True))


def _crop(image: Texture, shape: tuple[int, int]) -> Texture:
    """The largest central part of ``image`` that has the aspect ratio of ``shape``."""
    scale = min(size / side for size, side in zip(image.shape, shape))
    return image[_middle(image.shape, [max(1, round(scale * side)) for side in shape])]


def _middle(shape: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """Index of the central part with the given sides."""
    starts = [(size - side) // 2 for size, side in zip(shape, sides)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides))


def _stretch(texture: Texture) -> Texture:
    return (texture - texture.min()) / np.ptp(texture)


def _from_material(
    density: Texture, composition: Texture, amplitude_range: Range, phase_range: Range
) -> ComplexObject:
    mixture = (1 - COMPOSITION_SHARE) * density + COMPOSITION_SHARE * composition
    return _complex_object(1 - _stretch(density), _stretch(mixture), amplitude_range, phase_range)


def _complex_object(
    amplitude: Texture, phase: Texture, amplitude_range: Range, phase_range: Range
) -> ComplexObject:
    """Map two textures in [0, 1] to the ranges of amplitude and phase."""
    moduli = amplitude_range[0] + (amplitude_range[1] - amplitude_range[0]) * amplitude
    angles = phase_range[0] + (phase_range[1] - phase_range[0]) * phase
    return moduli * np.exp(1j * angles)
