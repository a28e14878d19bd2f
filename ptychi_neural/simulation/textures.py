"""Real textures in [0, 1], and the complex objects that are made of them.

Most simulated objects are made of a material, which has a density d and a composition c, both
(H, W) textures. Dense material absorbs, and shifts the phase by an amount that the composition
varies:

    |O| = a_max - (a_max - a_min) d,    arg O = p_min + (p_max - p_min) m,
    m = (1 - k) d + k c, stretched to [0, 1], with k = ``COMPOSITION_SHARE``

Amplitude and phase are therefore correlated, as in a real specimen, and neither follows from the
other.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from ptychi_neural.simulation.sections import Section

Texture = NDArray[np.float64]
ComplexObject = NDArray[np.complex128]

COMPOSITION_SHARE = 0.4


class Textured(Section):
    """An object whose amplitude and phase are textures, each mapped to a range."""

    amplitude_range: tuple[
        Annotated[FiniteFloat, Field(ge=0)], Annotated[FiniteFloat, Field(gt=0)]
    ] = (0.6, 1.0)
    """Smallest and largest amplitude."""

    phase_range: tuple[FiniteFloat, FiniteFloat] = (-1.0, 1.0)
    """Smallest and largest phase in radians."""

    @model_validator(mode="after")
    def _ordered(self) -> "Textured":
        for name in ("amplitude_range", "phase_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} = ({low}, {high}) must be (smallest, largest).")
        return self

    def _of_images(self, amplitude: Texture, phase: Texture) -> ComplexObject:
        """The object whose amplitude and phase look like two textures in [0, 1]."""
        low, high = self.amplitude_range
        moduli = low + (high - low) * amplitude
        low, high = self.phase_range
        angles = low + (high - low) * phase
        return moduli * np.exp(1j * angles)

    def _of_material(self, density: Texture, composition: Texture) -> ComplexObject:
        """The object that is made of a material, see the module's head."""
        mixture = (1 - COMPOSITION_SHARE) * density + COMPOSITION_SHARE * composition
        return self._of_images(1 - stretched(density), stretched(mixture))


def stretched(texture: Texture) -> Texture:
    """The texture with 0 at its smallest and 1 at its largest value; 0 where all are equal."""
    return (texture - texture.min()) / (np.ptp(texture) or 1.0)
