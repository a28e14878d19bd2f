"""The iterations of the initial reconstruction: how many, of what, and when they end early."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.engine.objective import positions_are_lost
from ptychi_neural.physics.losses import (
    MeanLoss,
    add_losses,
    build_loss_function,
    deviance_of_noise,
    least_loss,
    losses_of_pixels,
)
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.accelerated import AcceleratedProjections, State
from ptychi_neural.projections.frame_parameters import FrameParameters
from ptychi_neural.projections.resumable import Resumable

STUCK = 0.98
"""Ratio of deviances, ``noise_iteration`` iterations apart, from which there is no progress."""

REST_STRIDE = 10
"""Number of iterations over which the change of the coarse object is taken."""

BLOCKS = 4
"""Number of blocks along a frame's side whose means are the coarse object."""

MODEL_EXCESS = 1.2
"""Deviance, in units of what noise makes of it, above which something else is to blame for it."""


class Iterations(Resumable):
    """Iterations of the initial reconstruction, ended early where held-out pixels tell to, and
    going back in the end to where these were predicted best, if that was better by far.

    With everything in view they refine what each frame has of its own, and on request the probe.

    Parameters
    ----------
    scan : ScanPhysics
        The scan.
    projections : AcceleratedProjections
        Does the iterations.
    judge : HeldOutJudge
        Tells how well held-out pixels are predicted.
    bar : tqdm
        Shows the iterations; its length is theirs.
    iterated : callable
        Takes the split and the (n_slices, H, W) object after an iteration, from where all goes on
        as if these had gone to a file and come back.
    """

    KEPT = (
        *("split", "stage", "n_done", "until", "most", "with_probe", "n_of_halves"),
        *("watched_from", "n_settled", "went_back", "errs_alone", "is_last", "loss"),
        *("refined", "_lowest", "_deviance_alone", "_last_deviance", "_may_be_trapped", "_coarse"),
    )

    def __init__(
        self,
        scan: ScanPhysics,
        projections: AcceleratedProjections,
        judge: HeldOutJudge,
        bar: tqdm,
        iterated: Callable[[int | None, Tensor], None],
    ) -> None:
        self.scan, self.projections, self.judge = scan, projections, judge
        self.bar, self._iterated, self.split = bar, iterated, scan.split
        self.of_frames = FrameParameters(scan) if scan.split is None else None
        self.stage = ""
        """What is iterated now, as whoever began it calls it; "probe" leaves the object."""
        self.n_done = self.until = self.most = 0
        """Numbers of iterations: done, to have done in the end, and that up to which more may be
        asked for."""
        self.with_probe = False
        """Whether the probe is refined, where its plan has it."""
        self.refined: list[str] = []
        """Names of what was refined beside the object, as ``NeuralParameterGroup.of_task`` has
        them."""
        self.n_of_halves = 0
        """Number of iterations that see one half of the frames, in turn with the other."""
        self.watched_from = 0
        """Number of iterations from which on a rise of the held-out loss ends them: then all goes
        back to where it was lowest since."""
        self.n_settled = 0
        """Number of iterations after which the defocus is looked for again."""
        self.errs_alone = self.is_last = False
        """Whether the object alone erred by more than the noise; whether what came after it is
        taken only where it is better."""
        self.alone: State | None = None
        """What was found before that."""
        self.went_back = False
        """Whether held-out pixels have told to go back."""
        self.loss = math.nan
        """Loss at the held-out pixels before the latest iteration."""
        self._lowest, self._best = math.inf, (0, projections.state())
        self._deviance_alone = self._last_deviance = math.inf
        self._may_be_trapped = True
        self._coarse = self._coarse_object()

    def begin(self, stage: str, until: int, most: int, with_probe: bool) -> None:
        """Begin a stage, to be ``run``; the attributes of these names tell what is asked for."""
        self.stage, self.until, self.most, self.with_probe = stage, until, most, with_probe
        self._lowest, self._best = math.inf, (self.n_done, self.projections.state())

    def run(self) -> Iterator[int]:
        """Iterate what was begun, or is left of it; yield the number of iterations done, after
        each.

        Raises
        ------
        FloatingPointError
            If an iteration leads nowhere; all is as it was before it.
        """
        scan, projections, probe = self.scan, self.projections, self.scan.model.probe
        while self.n_done < self.until:
            iteration, before = self.n_done, projections.state()
            if self.of_frames is not None:
                self.of_frames.begin(iteration, projections.object)
            update_probe = self.with_probe and probe.optimization_enabled(iteration)
            self._take_note(update_probe)
            self.loss = projections.iterate(
                update_probe=update_probe,
                part=iteration % 2 if iteration < self.n_of_halves else -1,
                of_frames=self.of_frames,
                update_object=self.stage != "probe",
            )
            self._stop_if_lost(before)
            if not math.isnan(self.loss):
                self.bar.set_postfix_str(self._progress(), refresh=False)
            self.bar.update()
            if scan.split is None:
                self.judge.record("projections", iteration, self.loss)
            self.n_done += 1
            if iteration == self.watched_from:
                self._lowest = math.inf
            if self.loss < self._lowest:
                self._lowest, self._best = self.loss, (iteration, before)
            elif iteration > self.watched_from and self._has_risen(iteration - self._best[0]):
                self._go_back()
                return
            is_at_rest = self._is_at_rest(iteration - self._best[0])
            yield self.n_done
            if projections.converged or is_at_rest:
                break
            self._iterated(scan.split, projections.object)
        if self.n_done > self.watched_from + 1 and self._is_above_lowest:
            self._go_back()

    def _take_note(self, update_probe: bool) -> None:
        """Note what an iteration refines beside the object."""
        due = set() if self.of_frames is None else self.of_frames.names_due
        self.refined = sorted({*self.refined, *due, *(["probe"] if update_probe else [])})

    def _stop_if_lost(self, before: State) -> None:
        """Go back to what the iterations had found, and end, where they have lost it."""
        found = self.projections.object, *self.scan.model.refined()
        if all(bool(each.isfinite().all()) for each in found) and not positions_are_lost(self.scan):
            return
        self.projections.go_back(before)
        raise FloatingPointError(
            f"The initial reconstruction became NaN, or positions left the object, in iteration "
            f"{self.n_done}; object, probe and positions are those before it. Likely causes: "
            "options of reconstructor_options.start far from their defaults, or data that are not "
            "counts."
        )

    def errs_alone_by_far(self) -> bool:
        """Run the object alone, and tell whether it errs by more than the noise by then: after some
        iterations, or where it comes no further, where it is left."""
        options = self.scan.options.start
        for n_done in self.run():
            if n_done % options.noise_iteration:
                continue
            before, self._deviance_alone = self._deviance_alone, self.deviance
            is_stuck = self._deviance_alone > STUCK * before and self.excess > MODEL_EXCESS
            is_first = n_done == options.noise_iteration
            if is_stuck or (is_first and self._deviance_alone > options.noise_deviance):
                return True
        return False

    def go_on_while_it_helps(self) -> None:
        """Go on, up to ``most`` iterations, where what is predicted errs by more than the noise and
        comes closer."""
        options, n_since = self.scan.options.start, self.n_done - self.watched_from
        stride = options.noise_iteration
        if self.until >= self.most or n_since < 0 or n_since % stride:
            return
        last, self._last_deviance = self._last_deviance, self.deviance
        if self._last_deviance < STUCK * last and self.excess > MODEL_EXCESS:
            self.until = self.bar.total = max(self.until, min(self.n_done + stride, self.most))

    def sweep_where_it_helps(self) -> None:
        """Leave a trap: every so many iterations, until it does not help, where all counts are
        predicted worse than noise lets them be, by far. To help is to halve what is too much."""
        options, n_since = self.scan.options.start, self.n_done - self.watched_from
        if options.sweeps == 0 or n_since <= 0 or n_since % options.noise_iteration:
            return
        if self._may_be_trapped:
            excess = self._excess(self.projections.object, self.scan.counted)
            self._may_be_trapped = excess >= options.trapped_deviance
        if self._may_be_trapped:
            swept = self.projections.swept()
            self._may_be_trapped = self._excess(swept, self.scan.counted) - 1 < (excess - 1) / 2
            if self._may_be_trapped:
                self.projections.take(swept)

    @property
    def excess(self) -> float:
        """Poisson deviance of held-out pixels or, without any, of all pixels, in units of what
        noise makes of it."""
        scan = self.scan
        pixels = scan.held_out if self.judge.judges else scan.counted
        return self._excess(self.projections.object, pixels)

    @torch.no_grad()
    def _excess(self, object_: Tensor, pixels: Callable[[Tensor, Tensor], Tensor]) -> float:
        scan, deviance, of_noise = self.scan, MeanLoss(), MeanLoss()
        likelihood = build_loss_function(LossFunctions.POISSON)
        for batch in scan.batches:
            predicted, measured = scan.predict(object_, batch), scan.model.measured(batch)
            counted = pixels(batch, measured)
            of_object, of_counts = (
                losses_of_pixels(likelihood, counts, measured) for counts in (predicted, measured)
            )
            deviance.add(2 * (of_object - of_counts), counted)
            of_noise.add(deviance_of_noise(predicted), counted)
        return deviance.value / of_noise.value

    @property
    def errs(self) -> bool:
        """Whether what is predicted errs by more than the noise: at held-out pixels or, without
        any, at all of them."""
        return self.deviance > self.scan.options.start.noise_deviance

    @property
    def deviance(self) -> float:
        """Poisson deviance of held-out pixels before the latest iteration or, without any, that of
        all pixels after it; inf where another loss tells of no noise."""
        if not self._is_poisson:
            return math.inf
        if self.judge.judges and not math.isnan(self.loss):
            return self.judge.deviance(self.scan, self.loss)
        return self._deviance_of_all()

    @torch.no_grad()
    def _deviance_of_all(self) -> float:
        mean, scan, loss_function = MeanLoss(), self.scan, self.judge.loss_function
        add_losses(mean, scan, self.projections.object, loss_function, scan.counted)
        return 2 * (mean.value - least_loss(scan, loss_function, scan.counted))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "best": self._best,
            "alone": self.alone,
            "projections": self.projections.state_dict(),
            "of_frames": None if self.of_frames is None else self.of_frames.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({"refined": [], **state})
        (n_done, best), alone = state["best"], state["alone"]
        self._best, self.alone = (n_done, State(*best)), None if alone is None else State(*alone)
        self.projections.load_state_dict(state["projections"])
        if self.of_frames is not None:
            self.of_frames.load_state_dict(state["of_frames"])
        self.bar.n = self.bar.initial = self.n_done

    def _go_back(self) -> None:
        """Go back to where held-out pixels were predicted best."""
        self.went_back, self.loss = True, self._lowest
        self.n_done, state = self._best
        self.projections.go_back(state)

    @property
    def _is_above_lowest(self) -> bool:
        """Whether the loss at held-out pixels is above its lowest, where these may tell to go
        back."""
        is_above = self.loss > self._lowest + self.scan.options.start.held_out_rise
        return self._is_open and is_above

    @property
    def _is_open(self) -> bool:
        """Whether held-out pixels may end the iterations."""
        scan = self.scan
        is_open = scan.options.start.n_iterations is None and scan.split is None
        return is_open and self._is_poisson and self.judge.judges

    def _has_risen(self, n_since: int) -> bool:
        """Whether held-out pixels tell not to go on: they were predicted best so many iterations
        ago."""
        options = self.scan.options.start
        if not self._is_above_lowest or n_since < options.held_out_wait:
            return False
        lowest_deviance = self.judge.deviance(self.scan, self._lowest)
        if lowest_deviance <= options.noise_deviance:
            return True
        return 2 * (self.loss - self._lowest) / lowest_deviance > options.relative_rise

    def _is_at_rest(self, n_since: int) -> bool:
        """Whether nothing tells to go on: held-out pixels were predicted best so many iterations
        ago, and the coarse object, of which these tell little, hardly changes any more."""
        scan, options = self.scan, self.scan.options.start
        is_joint = self.with_probe and scan.model.refines_probe_or_positions
        if self.n_done % REST_STRIDE or not (is_joint and self._is_open):
            return False
        last, self._coarse = self._coarse, self._coarse_object()
        first = max(self.watched_from, options.first_affine_iteration)
        if n_since < options.held_out_wait or self.n_done <= first:
            return False
        light = scan.model.stitching.total_weight(scan.model.positions(scan.model.everything))
        light = self._means(light[None])
        inside = (light > light.square().sum() / light.sum() / 2).expand_as(last)
        now, last = self._coarse[inside], last[inside]
        change = now - last * torch.vdot(last, now) / last.abs().square().sum()
        change = change.norm() / (now - now.mean()).norm()
        return bool(change < options.rest_change)

    def _coarse_object(self) -> Tensor:
        parts = self._means(torch.view_as_real(self.projections.object).movedim(-1, 0))
        return torch.complex(*parts)

    def _means(self, images: Tensor) -> Tensor:
        """Means of (..., H, W) images over blocks of a quarter of the frame."""
        side = min(self.scan.model.dataset.patterns.shape[-2:]) // BLOCKS
        return avg_pool2d(images, max(1, side))

    def _progress(self) -> str:
        if not self._is_poisson:
            return f"held-out loss {self.loss:.5g}"
        return f"deviance {self.judge.deviance(self.scan, self.loss):.4g} per held-out pixel"

    @property
    def _is_poisson(self) -> bool:
        return self.scan.options.loss_function == LossFunctions.POISSON
