"""The object that reconstructions are compared with: a ground truth or a reference."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychi_neural import evaluation
from ptychi_neural.runs.reconstruct import in_register, load
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan


@dataclass(frozen=True)
class Target:
    """What reconstructions of a scan are compared with."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) object."""

    name: Literal["ground truth", "reference"]
    """A ground truth is the object that was simulated; a reference is another reconstruction."""

    def is_free(self, refined: bool) -> bool:
        """Whether a phase ramp and a translation are removed before a comparison.

        They are unknown where probe or positions were refined, and against a reference.
        """
        return refined or self.name == "reference"

    def aligned(
        self, object: NDArray[np.complexfloating], scan: Scan, refined: bool
    ) -> tuple[NDArray[np.complexfloating], NDArray[np.complexfloating], NDArray[np.bool_]]:
        """Bring an object into register with the target.

        Parameters
        ----------
        object : ndarray
            (n_slices, H, W) object.
        scan : Scan
            Its nominal positions bound the scanned area.
        refined : bool
            Whether probe or positions were refined.

        Returns
        -------
        tuple of ndarray
            (H, W) product of the object's slices, aligned; (H, W) product of the target's slices;
            (H, W) scanned area.
        """
        return in_register(object, self.object, scan.positions_px, free=self.is_free(refined))

    def error(self, object: NDArray[np.complexfloating], scan: Scan, refined: bool) -> float:
        """Relative complex error of an object inside the scanned area.

        The parameters are those of ``aligned``.
        """
        return evaluation.complex_error(*self.aligned(object, scan, refined))


def load_with_target(run: RunFile) -> tuple[Scan, Target | None]:
    """Load the scan of a run file, and its ground truth or reference where there is one."""
    scan, object_ = load(run)
    if object_ is None:
        return scan, None
    return scan, Target(object_, "reference" if run.simulation is None else "ground truth")
