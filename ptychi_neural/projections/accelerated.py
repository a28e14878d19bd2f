"""Accelerated projections: the iteration without a network, by which a reconstruction begins.

In each iteration every pattern's counts are imposed on its exit wave, the back-projected
corrections d_j are averaged with the probe's intensity as weight, and the object takes Nesterov's
steps:

    O' = y + a sum_j P_j^* d_j / (sum_j |P_j|^2 + eps max),     y' = O' + beta (O' - O).

All patterns are projected at once, as in the difference map (Thibault et al., Ultramicroscopy 109,
338 (2009)). With a known probe the update is divided by the probe's contrast transfer, so that
coarse phase comes as fast as the rest, and a few early iterations turn the object by the phase that
the patterns' first moments tell of; whenever a step raises the loss, the iteration goes back and
takes shorter steps a. A probe that is refined is updated from the same corrections of the exit
waves, with the object's intensity as weight and longer steps of its pupil's phase; once it is
nearly found, its own transfer divides the updates, until that raises the loss by far. Momentum
starts anew where the loss has risen (O'Donoghue & Candes, Found. Comput. Math. 15, 715 (2015)).
"""

import math
from typing import Any, NamedTuple, cast

import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor

from ptychi_neural.physics.centring import centre, moved
from ptychi_neural.physics.exit_waves import ExitWaveCorrection, object_update
from ptychi_neural.physics.losses import MeanLoss, build_loss_function, losses_of_pixels
from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.squared_modulus import squared_modulus
from ptychi_neural.physics.stitching import Canvas, in_double
from ptychi_neural.projections.contrast_transfer import ContrastTransfer, first_divided_iteration
from ptychi_neural.projections.first_moments import FirstMoments
from ptychi_neural.projections.frame_parameters import FrameParameters
from ptychi_neural.projections.resumable import Resumable

DARK_PUPIL = 1e-4
"""Power in the pupil, relative to its maximum, below which there is no phase to speak of."""

PARTS = 10
"""Number of parts of the frames by which an object is updated in turn."""


class State(NamedTuple):
    """What the iterations have found."""

    object: Tensor
    """(n_slices, H, W)."""

    displacement: Tensor
    """(2,) pixels by which object and probe were moved to centre the probe."""

    refined: list[Tensor]
    """Probe, positions and OPR weights."""


class AcceleratedProjections(Resumable):
    """Projections over the whole scan, with momentum.

    Parameters
    ----------
    scan : ScanPhysics
        The scan, with the (n_slices, H, W) object to begin with as its start.
    loss_function : torch.nn.Module
        Loss of predicted and measured counts, for held-out pixels; and what updates have to lower.
        Without a transfer they lower the mean squared difference of the moduli where probe or
        positions are refined.
    transfer : ContrastTransfer, optional
        The contrast transfer by which updates are divided.
    halves : tuple of Tensor, optional
        Indices of the frames of two halves of the scan, if some iterations are to see but one.
    """

    KEPT = (
        *("frames", "object", "displacement", "n_iterated", "n_done", "of_modulus"),
        *("_last_object", "_last_probe", "_before", "_step", "_losses", "_n_rises", "_first_loss"),
        *("_first_divided", "_joined"),
    )

    def __init__(
        self,
        scan: ScanPhysics,
        loss_function: torch.nn.Module,
        transfer: ContrastTransfer | None,
        halves: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.scan = scan
        self.options = scan.options.start
        self.frames = (*(halves or ()), scan.frames)
        self.loss_function = loss_function
        self.transfer = transfer
        self.moments: FirstMoments | None = None
        if self.options.moment_iterations > 0 and transfer is not None and scan.model.is_far_field:
            self.moments = FirstMoments(scan)
        self._first_divided, self._joined = first_divided_iteration(scan), False
        self._moves_along = False  # Probe, positions or weights, beside the object.
        self.n_iterated = 0
        self.n_done = 0
        self.object = self._last_object = scan.start
        self._step = 1.0 if transfer is None else self.options.short_step
        self._last_probe = scan.model.probe.data
        self._before = self.object, torch.zeros_like(self.object)
        """The object whose loss was lowest, and its update."""
        self.displacement = torch.zeros(2)
        """(2,) pixels by which object and probe were moved to centre the probe."""
        # A probe yet to be found errs by more than the noise, most where little is predicted.
        self.lower(of_modulus=transfer is None and scan.model.refines_probe_or_positions)
        self._illuminations: list[Tensor | None] = [None] * len(self.frames)

    @torch.no_grad()
    def iterate(
        self,
        update_probe: bool,
        part: int = -1,
        of_frames: FrameParameters | None = None,
        update_object: bool = True,
    ) -> float:
        """Do one iteration.

        Parameters
        ----------
        update_probe : bool
            Whether the probe is refined too.
        part : int
            0 or 1: over one of the halves; -1: over everything.
        of_frames : FrameParameters, optional
            What refines positions and OPR weights too.
        update_object : bool
            Whether the object is.

        Returns
        -------
        float
            Loss at the held-out pixels before the iteration; nan where there are none, and over a
            half, which is not to be compared with the other.
        """
        scan, model = self.scan, self.scan.model
        self._renew_transfer(update_probe)
        moments = self.moments if self._moments_are_due else None
        updates = torch.zeros_like(in_double(self.object))
        illumination = torch.zeros_like(updates[0].real)
        probe_change = torch.zeros_like(in_double(model.probe.data))
        exposure = torch.zeros_like(probe_change.real[:, 0])
        held_out, lowered = MeanLoss(), MeanLoss()
        refines_frames = of_frames is not None and of_frames.are_due
        self._moves_along = self._joined or refines_frames
        for batch in scan.of(self.frames[part]).batches:
            patches = scan.extract(self.object, batch)
            measured = model.measured(batch)
            correction = scan.correction(batch, patches, measured, self.of_modulus)
            losses = losses_of_pixels(self._lowered, correction.predicted, measured)
            lowered.add(losses, correction.seen)
            if scan.options.validation.held_out > 0 and part < 0:
                if self.of_modulus:
                    losses = losses_of_pixels(self.loss_function, correction.predicted, measured)
                held_out.add(losses, scan.held_out(batch))
            updates += scan.back_project(correction, batch)
            if self._illuminations[part] is None:
                illumination = illumination + scan.illumination(correction, batch)
            if moments is not None:
                moments.accumulate(correction, measured, batch)
            if of_frames is not None and refines_frames:
                of_frames.accumulate(cast(ExitWaveCorrection, correction), patches, batch)
            if update_probe:
                probe_change += correction.probe_change(model, batch, patches)
                weights = in_double(model.weights(batch).square())
                power = in_double(squared_modulus(patches[:, 0]))
                exposure += torch.einsum("jk,jhw->khw", weights, power)
        known = self._illuminations[part]
        illumination = summed(illumination).to(self.object.real.dtype) if known is None else known
        self._illuminations[part], loss = illumination, lowered.value
        if self._is_taken_back(loss):
            if of_frames is not None:
                of_frames.restart()
            return held_out.value
        update = object_update(Canvas(summed(updates), illumination), self.options.regularization)
        update = update.to(self.object.dtype)
        if self.transfer is not None:
            update = self.transfer.divide(update, self.object)
        update = self._watched(update, loss, part)
        self.n_iterated += 1
        self.n_done += 1
        length = min(self._step, self.options.short_step) if update_probe else self._step
        new = self.object + length * update
        if moments is not None:
            phase = moments.phase(moments.lacking(self.frames[part]), illumination)
            turn = torch.polar(torch.ones_like(phase), phase)
            new, self._last_object = turn * new, turn * self._last_object
            self._losses = [math.inf] * len(self.frames)
        if update_object:
            self.object, self._last_object = self._ahead(new, self._last_object), new
        if update_probe:
            self._update_probe(length, summed(probe_change), summed(exposure))
        if of_frames is not None and refines_frames:
            of_frames.take(self.frames[part])
            self._illuminations = [None] * len(self.frames)
        return held_out.value

    @torch.no_grad()
    def swept(self) -> Tensor:
        """The (n_slices, H, W) object after sweeps: updates by one part of the frames after the
        other, each time of frames that are drawn anew.

        Updates by everything settle in traps, as fringes with the period of the scan, that one
        part at a time does not.
        """
        object_, frames = self.object, self.scan.frames
        generator = torch.Generator(device="cpu").manual_seed(0)
        for _ in range(self.options.sweeps):
            order = torch.randperm(len(frames), generator=generator, device="cpu")
            for part in order.to(frames.device).tensor_split(min(PARTS, len(frames))):
                object_ = object_ + self.scan.of(frames[part]).update(object_)
        return object_

    def take(self, object_: Tensor) -> None:
        """Go on from another (n_slices, H, W) object, without momentum."""
        self.go_back(self.state()._replace(object=object_))
        self.lower(self.of_modulus)

    def join(self, of_modulus: bool) -> None:
        """Begin to refine the probe."""
        self._joined = True
        if self.scan.model.is_one_product:
            self._first_divided = self.n_iterated
        self.lower(of_modulus)

    def lower(self, of_modulus: bool) -> None:
        """Go on with updates that lower the difference of the moduli, or the loss."""
        self.of_modulus = of_modulus
        modulus = build_loss_function(LossFunctions.MSE_SQRT)
        self._lowered = modulus if of_modulus else self.loss_function
        self._losses, self._n_rises = [math.inf] * len(self.frames), 0
        self._calm = (math.inf, self.state())
        self._first_loss: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "transfer": None if self.transfer is None else self.transfer.state_dict(),
            "moments": None if self.moments is None else self.moments.intensity,
            "calm": self._calm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lower(state["of_modulus"])
        super().load_state_dict(state)
        transfer, intensity, (loss, of_calm) = (state[k] for k in ("transfer", "moments", "calm"))
        self.transfer = None if transfer is None else ContrastTransfer(self.scan, **transfer)
        self.moments = None if intensity is None else FirstMoments(self.scan, intensity)
        self._calm = loss, State(*of_calm)
        self._illuminations = [None] * len(self.frames)

    def _renew_transfer(self, refines_probe: bool) -> None:
        """Divide by the contrast transfer of the present probe, once it is nearly found."""
        if self._first_divided is None or not refines_probe:
            return
        n_since = self.n_iterated - self._first_divided
        if n_since >= 0 and n_since % self.options.transfer_stride == 0:
            self.transfer = ContrastTransfer(self.scan, self.options.joint_transfer_floor)
            self._step = min(self._step, self.options.short_step)

    def state(self) -> State:
        """What the iterations have found, to ``go_back`` to."""
        return State(self.object, self.displacement, self.scan.model.refined())

    def go_back(self, state: State) -> None:
        """Go back to what the iterations had found, without momentum."""
        self.object = self._last_object = state.object
        self.displacement, self.n_done = state.displacement, 0
        self.scan.model.go_back(state.refined)
        self._last_probe = self.scan.model.probe.data
        self._illuminations = [None] * len(self.frames)

    def _is_taken_back(self, loss: float) -> bool:
        """Go back to where the loss was lowest if steps blow it up.

        From there on they are not divided, and shorter. Divided steps for a known probe are watched
        one by one.
        """
        if not (self._moves_along or self.of_modulus or self.transfer is None):
            return False
        lowest, state = self._calm
        if self.of_modulus:
            highest = self.options.largest_rise * lowest
        elif self._moves_along:
            highest = lowest + self.options.held_out_rise  # Of a likelihood, which has no zero.
        else:
            highest = self._first_loss = self._first_loss or loss
        if loss <= highest:
            if loss < lowest:
                self._calm = (loss, self.state())
            return False
        self.go_back(state)
        if self.transfer is None:
            self._step = self.options.shortening * min(self._step, self.options.short_step)
        self.lower(of_modulus=True)
        self.transfer = self._first_divided = None
        self.n_iterated += 1
        return True

    @property
    def _moments_are_due(self) -> bool:
        n_since = self.n_iterated - self.options.first_moment_iteration
        return 0 <= n_since < self.options.moment_iterations

    def _watched(self, update: Tensor, loss: float, part: int) -> Tensor:
        """The object's update. Where the loss has risen, momentum starts anew, and a divided update
        is taken back: the object is the one before it, the update what is to be tried again. Where
        probe or positions move along, a rise does not tell that the object's step was too long."""
        if not loss > self._losses[part]:
            self._losses[part], self._n_rises = loss, 0
            self._before = (self.object, update)
            return update
        if self.transfer is None or self.of_modulus or self._moves_along:
            self._losses[part] = loss
        else:
            self.object, update = self._before
            self._step *= self.options.shortening
            self._n_rises += 1
        self._last_object, self._last_probe = self.object, self.scan.model.probe.data
        self.n_done = 0
        return update

    @property
    def converged(self) -> bool:
        """Whether no step along a divided update lowers the loss any more."""
        return self._n_rises >= self.options.most_rises

    def _update_probe(self, length: float, change: Tensor, exposure: Tensor) -> None:
        """Take a step of the probe from its summed change and (n_opr_modes, h, w) exposure."""
        probe = self.scan.model.probe
        most = exposure.amax(dim=(-2, -1), keepdim=True)
        weight = exposure + self.options.regularization * most + torch.finfo(exposure.dtype).tiny
        step = (length * change / weight[:, None]).to(probe.data.dtype)
        if self.scan.model.is_far_field:
            gain = self.options.pupil_phase_gain
            step[0] = with_longer_phase_steps(step[0], probe.data[0], gain)
        new = probe.data + step
        probe.set_data(self._ahead(new, self._last_probe))
        self._last_probe = new
        self._constrain_probe()
        self._illuminations = [None] * len(self.frames)

    def _constrain_probe(self) -> None:
        """Apply the probe's constraints whose plans have them in this iteration."""
        probe = self.scan.model.probe
        if probe.options.support_constraint.is_enabled_on_this_epoch(self.n_iterated - 1):
            probe.constrain_support()
        if probe.options.center_constraint.is_enabled_on_this_epoch(self.n_iterated - 1):
            distance = centre(probe)
            self.displacement = self.displacement + distance
            self.object, self._last_object = (
                moved(object_, distance) for object_ in (self.object, self._last_object)
            )
            self._last_probe = moved(self._last_probe.flatten(0, 1), distance).view_as(probe.data)

    def _ahead(self, new: Tensor, last: Tensor) -> Tensor:
        momentum = min(self.n_done / (self.n_done + 3), self.options.momentum)
        return new + momentum * (new - last)


def with_longer_phase_steps(step: Tensor, probe: Tensor, gain: float) -> Tensor:
    """A step of the probe that turns the phase of its Fourier transform ``gain`` times as far.

    Parameters
    ----------
    step, probe : Tensor
        (n_modes, h, w) complex.
    gain : float
        Length of the phase's step, relative to all else.
    """
    pupil = torch.fft.fft2(probe)
    power = pupil.abs().square()
    turn = (torch.fft.fft2(step) * pupil.conj()).imag / power.clamp(min=DARK_PUPIL * power.max())
    return step + torch.fft.ifft2((gain - 1) * 1j * turn * pupil)
