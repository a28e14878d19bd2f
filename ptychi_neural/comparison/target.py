"""The object that reconstructions are compared with: a ground truth or a reference."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptychi_neural import evaluation
from ptychi_neural.runs.progress import bar_of
from ptychi_neural.runs.reconstruct import in_register, load
from ptychi_neural.runs.run_file import RunFile
from ptychi_neural.scans import Scan
from ptychi_neural.scans.scan_names import named
from ptychi_neural.simulation import simulate


@dataclass(frozen=True)
class Target:
    """What reconstructions of a scan are compared with."""

    object: NDArray[np.complexfloating]
    """(n_slices, H, W) object."""

    name: Literal["ground truth", "reference"]
    """A ground truth is the object that was simulated; a reference is another reconstruction."""

    positions_px: NDArray[np.floating] | None = None
    """(n, 2) true positions (y, x) of all frames in pixels; None where they are not known."""

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

    def true_positions(self, scan: Scan) -> NDArray[np.floating] | None:
        """(n, 2) true positions (y, x) of a scan's frames in pixels; None if they are unknown."""
        if self.positions_px is None or scan.frame_indexes is None:
            return self.positions_px
        return self.positions_px[scan.frame_indexes]


def load_with_target(run: RunFile) -> tuple[Scan, Target | None]:
    """Load the scan of a run file, and its ground truth or reference where there is one."""
    if run.simulation is not None:
        simulated = simulate(run.simulation, bar_of)
        truth = simulated.truth
        return named(simulated.scan, run.product), Target(
            truth.object, "ground truth", truth.positions_px
        )
    scan, reference = load(run)
    return scan, None if reference is None else Target(reference, "reference")
