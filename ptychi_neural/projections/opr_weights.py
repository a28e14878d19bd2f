"""Steps of the weights of the OPR modes: the beam's intensity and shape at each position.

The probe's first mode at position j is sum_k w_jk P_k. The weight of the first OPR mode scales the
intensity, those of the others tell how the probe differs from its mean (Odstrcil et al., Opt.
Express 24, 8360 (2016)).
"""

from torch import Tensor

from ptychi_neural.physics.exit_waves import ExitWaveCorrection
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.resumable import Resumable


class WeightRefinement(Resumable):
    """Steps of the OPR weights of a scan.

    Parameters
    ----------
    scan : ScanPhysics
        The scan whose weights are refined.
    """

    name = "opr_mode_weights"

    def __init__(self, scan: ScanPhysics) -> None:
        self.model = scan.model
        self.options = scan.options.start
        self.weights = scan.model.opr_mode_weights
        options = self.weights.options
        first = 0 if options.optimize_intensity_variation else 1
        last = self.weights.n_opr_modes if options.optimize_eigenmode_weights else 1
        self.refined = slice(first, last)
        """Which OPR modes have weights that are refined."""
        self.n_unknowns = max(last - first, 0)

    def is_due(self, iteration: int) -> bool:
        """Whether an iteration of this number refines the weights, by the options and the plan."""
        n_since = iteration - self.options.first_weight_iteration
        return n_since >= 0 and self.weights.optimization_enabled(iteration)

    def begin(self, object_: Tensor) -> None:
        """Weights need nothing of the object but its patches."""

    def wave_changes(
        self, correction: ExitWaveCorrection, patches: Tensor, frames: Tensor
    ) -> list[list[Tensor]]:
        """Changes of the first mode's exit waves with each weight, in the first slice."""
        modes = self.model.opr_modes(frames, self.refined)
        return [[mode[:, None] * patches[:, :1]] for mode in modes.unbind(1)]

    def take(self, steps: Tensor) -> None:
        """Change the weights by (n, n_unknowns) steps, whose mean the probe itself takes."""
        steps = self.options.weight_step * (steps - steps.mean(0))
        weights = self.weights.data.clone()
        weights[:, self.refined] += steps
        self.weights.set_data(weights)
        self.weights.apply_primary_mode_weight_floor()

    def restart(self) -> None:
        """Weights have no momentum."""
