"""Objects that are taken from images and from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import skimage.color
import skimage.data
import skimage.io
import skimage.transform
import skimage.util

from ptychi_neural.simulation.files import read_array
from ptychi_neural.simulation.sections import Section, Seed
from ptychi_neural.simulation.textures import ComplexObject, Texture, Textured, stretched

SampleImage = Literal[
    "astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "rocket"
]


class ImagePair(Textured):
    """Any two images as amplitude and phase, black at the low and white at the high end.

    Images are taken as grey, cropped in the middle to the object's aspect ratio and resized.
    """

    kind: Literal["image_pair"] = "image_pair"

    amplitude_image: Path
    """Image file that becomes the amplitude; scikit-image must be able to read it."""

    phase_image: Path
    """Image file that becomes the phase."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Make the (H, W) object; the images leave nothing to the seed.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If an image is uniform.
        """
        textures = []
        for name in ("amplitude_image", "phase_image"):
            path: Path = getattr(self, name)
            if not path.is_file():
                raise FileNotFoundError(f"{name}: there is no file {path}.")
            image = skimage.io.imread(path, as_gray=True).astype(float)
            if image.ndim != 2 or image.min() == image.max():
                raise ValueError(
                    f"{name}: {path} is not a grey or colour image with some contrast."
                )
            textures.append(stretched(skimage.transform.resize(_cropped(image, shape), shape)))
        return self._of_images(*textures)


class Natural(Textured):
    """Parts of two natural images as amplitude and phase, black at the low end.

    The seed decides which part of each image is taken, of half to all of its shorter side, and
    how it is oriented.
    """

    kind: Literal["natural"] = "natural"

    amplitude_image: SampleImage = "camera"
    """Sample image of scikit-image of which a part becomes the amplitude."""

    phase_image: SampleImage = "coins"
    """Sample image of which a part becomes the phase."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Make the (H, W) object."""
        rng = np.random.default_rng(seed)
        return self._of_images(
            *(_part_of(name, shape, rng) for name in (self.amplitude_image, self.phase_image))
        )


class ObjectFile(Section):
    """The middle of an object in a NumPy file or an HDF5 file such as a ptychodus product."""

    kind: Literal["file"] = "file"

    path: Path
    """``.npy`` file, or HDF5 file of any other suffix, of an (H', W') or (1, H', W') object."""

    dataset: str = "object"
    """Name of the dataset in an HDF5 file."""

    def build(self, shape: tuple[int, int], seed: Seed) -> ComplexObject:
        """Cut out the (H, W) object; the file leaves nothing to the seed.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            If there is no such file or dataset, or if it is no object of one slice, or too small.
        """
        found = read_array(self.path, self.dataset, "object")
        if found.ndim == 3 and len(found) == 1:
            found = found[0]
        if found.ndim != 2 or any(size < side for size, side in zip(found.shape, shape)):
            raise ValueError(
                f"path: the object in {self.path} is {found.shape}; the scan needs one slice of at "
                f"least {shape}: make the scan smaller."
            )
        return found[_middle(found.shape, shape)]


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
    return stretched(skimage.transform.resize(part, shape, anti_aliasing=True))


def _cropped(image: Texture, shape: tuple[int, int]) -> Texture:
    """The largest central part of ``image`` that has the aspect ratio of ``shape``."""
    scale = min(size / side for size, side in zip(image.shape, shape))
    return image[_middle(image.shape, [max(1, round(scale * side)) for side in shape])]


def _middle(shape: Sequence[int], sides: Sequence[int]) -> tuple[slice, ...]:
    """Index of the central part with the given sides."""
    starts = [(size - side) // 2 for size, side in zip(shape, sides)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides))
