"""The units of a run: a probe of peak amplitude 1, and a scale that carries its power."""

import logging
from typing import Any, cast

import ptychi.maths as pmath
import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from torch import Tensor

from ptychi_neural.engine.parameters import NeuralParameterGroup
from ptychi_neural.physics.ranks import summed_numbers
from ptychi_neural.physics.scan_physics import ScanPhysics

logger = logging.getLogger(__name__)


class WorkingUnits:
    """Goes to the working units when a run begins, and back to physical ones when it ends.

    During a run the probe is kept relative to its initial peak amplitude and the intensity scale
    carries the power, so that step sizes do not depend on the dose. When a run ends the scale is
    folded into the probe: probe and object alone then reproduce the measured intensities, and the
    common factor of the two is removed by pty-chi where its options ask for it.

    Parameters
    ----------
    group : NeuralParameterGroup
        Probe, object and scale.
    """

    def __init__(self, group: NeuralParameterGroup) -> None:
        self.group = group
        self.peak_amplitude: Tensor | None = None

    @torch.no_grad()
    def enter(self) -> None:
        """Divide the probe by its initial peak amplitude, and let the scale carry it."""
        if self.peak_amplitude is None:
            self.note_peak_amplitude()
        assert self.peak_amplitude is not None
        self.group.probe.set_data(self.group.probe.data / self.peak_amplitude)
        power = self.peak_amplitude.square() / self.group.intensity_scale.count_unit
        self.group.intensity_scale.set_data(power.log().reshape(1))

    def note_peak_amplitude(self) -> None:
        """Take note of the initial probe's peak amplitude."""
        if self.peak_amplitude is None:
            self.peak_amplitude = self.group.probe.data.abs().max()

    @torch.no_grad()
    def fit_scale(self, scan: ScanPhysics) -> None:
        """Set S = sum(Y_meas) / sum(Y_pred) over the pixels of the loss, with the start.

        Raises
        ------
        ValueError
            If nothing was measured or nothing is predicted there.
        """
        measured = predicted = 0.0
        for batch in scan.batches:
            y_true = scan.model.measured(batch)
            y_pred = scan.predict(scan.start, batch)
            mask = scan.to_predict(batch, y_true)
            measured += float(torch.where(mask, y_true, 0.0).sum(dtype=torch.float64))
            predicted += float(torch.where(mask, y_pred, 0.0).sum(dtype=torch.float64))
        measured, predicted = summed_numbers(measured, predicted)
        if not (measured > 0 and predicted > 0):
            raise ValueError(
                f"the pixels of the loss have {measured:.3g} counts in all, and object and probe "
                f"predict {predicted:.3g}: check probe_data, object_data, opr_mode_weights_data, "
                "valid_pixel_mask and exclude_measured_pixels_below."
            )
        scale = self.group.intensity_scale
        scale.set_data(scale.data + torch.tensor(measured / predicted).log())

    @torch.no_grad()
    def leave(self) -> None:
        """Fold the scale into the probe, and remove the ambiguity of object and probe."""
        group = self.group
        scale = group.intensity_scale
        group.probe.set_data(group.probe.data * (scale.value * scale.count_unit).sqrt())
        scale.reset()
        if group.object.options.remove_object_probe_ambiguity.enabled:
            self._remove_ambiguity()
        if group.probe.has_multiple_opr_modes:
            normalize_eigenmodes(group)

    def _remove_ambiguity(self) -> None:
        object_, probe, positions = self.group.object, self.group.probe, self.group.probe_positions
        before = object_.data.clone(), probe.data.clone()
        # pty-chi's weight is its preconditioner, whose unit is that of all counts, broken pixels'
        # too. It is the light that fell.
        use_all_modes = object_.options.build_preconditioner_with_all_modes
        light = object_.calculate_illumination_map(probe, positions, use_all_modes=use_all_modes)
        # Squares of it are summed; to divide it by a power of two changes no bit.
        weight = cast(Tensor, light)
        object_.preconditioner = torch.ldexp(weight, -torch.frexp(weight.max()).exponent)
        object_.remove_object_probe_ambiguity(probe)
        if not (object_.data.isfinite().all() and probe.data.isfinite().all()):
            object_.set_data(before[0])
            probe.set_data(before[1])
            logger.warning(
                "The positions span no area in which the object has a mean amplitude: the common "
                "factor of object and probe is left as it is."
            )

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {"peak_amplitude": self.peak_amplitude}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.peak_amplitude = state["peak_amplitude"]


@torch.no_grad()
def normalize_eigenmodes(group: PlanarPtychographyParameterGroup) -> None:
    """Give eigenmodes the mean intensity 1, and their weights what is due to the first mode.

    This is pty-chi's normalisation, to which its other engines bring eigenmodes without a change of
    the weights. Weights belong to the first incoherent mode, the only one that varies.
    """
    probe, weights = group.probe.data, group.opr_mode_weights.data
    norms = pmath.mnorm(probe[1:], dim=(-2, -1), keepdims=True)
    norms = torch.where(norms > 0, norms, 1.0)
    probe[1:] /= norms
    weights[:, 1:] *= norms[:, 0, 0, 0]
    group.probe.set_data(probe)
    group.opr_mode_weights.set_data(weights)
