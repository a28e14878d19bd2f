"""The judge: detector pixels that nothing else sees tell which state of a run is the best."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ptychi_neural.engine.misfit import is_far_worse, misfit_of_object
from ptychi_neural.engine.snapshot import Snapshot
from ptychi_neural.options import ValidationOptions
from ptychi_neural.physics.losses import MeanLoss, add_losses, least_loss
from ptychi_neural.physics.scan_physics import ScanPhysics

TRIED_SPLITS = 2
"""Splits of the pixels that a network is tried with: one is predicted from the other, and back."""


class HeldOutJudge:
    """Keeps the state that predicts the held-out pixels best, and tells when to stop.

    Parameters
    ----------
    options : ValidationOptions
        Share of held-out pixels, and patience.
    loss_function : torch.nn.Module
        Loss of (predicted, measured) counts.
    """

    def __init__(self, options: ValidationOptions, loss_function: torch.nn.Module) -> None:
        self.options = options
        self.loss_function = loss_function
        self.course: list[tuple[str, int, float]] = []
        self.best: Snapshot | None = None
        self.last_finite: Snapshot | None = None
        """The last finite state where no pixel is held out, of those that are not scattered."""
        self.start_misfit: float | None = None
        """Misfit of the initial reconstruction where no pixel is held out."""
        self.is_scattered = False
        """Whether the object judged last predicts the counts far worse than that one."""
        self.best_loss = math.inf
        self.start_loss = self.lowest_loss = math.inf
        """Losses of the initial reconstruction, and of the best that the network has made of it."""
        self.gained_loss = math.inf
        """The loss beside which a loss has to be a gain worth a run's time; -inf where there was no
        initial reconstruction to gain on."""
        self.patience_from = self.lowest_from = self.gained_from = 0
        self._least_loss: float | None = None

    @property
    def judges(self) -> bool:
        """Whether any pixels are held out."""
        return self.options.held_out > 0

    def loss(self, scan: ScanPhysics, object_: Tensor) -> float:
        """Mean loss of an object at the held-out pixels; nan where there are none."""
        mean = MeanLoss()
        add_losses(mean, scan, object_, self.loss_function, scan.held_out)
        return mean.value

    def deviance(self, scan: ScanPhysics, loss: float) -> float:
        """Poisson deviance per held-out pixel, of a mean loss that is the Poisson likelihood's.

        It is twice what the loss exceeds that of the measured counts themselves by: about 1 where
        only noise is left at more than a few counts per pixel, whatever the dose.
        """
        if self._least_loss is None:
            self._least_loss = least_loss(scan, self.loss_function, scan.held_out)
        return 2 * (loss - self._least_loss)

    def record(self, stage: str, step: int, loss: float) -> None:
        """Take note of a loss in the course of the run."""
        self.course.append((stage, step, loss))

    def judge(
        self,
        scan: ScanPhysics,
        object_: Tensor,
        n_epochs: int,
        epoch: int,
        snapshot: Callable[[], Snapshot],
    ) -> None:
        """Judge an object, and keep the state if it is the best. One that is not finite never is.

        Parameters
        ----------
        scan : ScanPhysics
            The scan.
        object_ : Tensor
            (n_slices, H, W) object.
        n_epochs : int
            Number of epochs after which it was made.
        epoch : int
            The present epoch, from which patience counts.
        snapshot : callable
            Copies the state.
        """
        if not self.judges:
            self._watch(scan, object_, snapshot)
            return
        if not object_.isfinite().all():
            return
        loss = self.loss(scan, object_)
        self.record("epoch", n_epochs, loss)
        if loss < self.lowest_loss:
            self.lowest_loss, self.lowest_from = loss, epoch
        if math.isfinite(loss) and (self.best is None or loss < self.best_loss):
            self.best_loss, self.patience_from = loss, epoch
            self.best = snapshot()
        if loss < self.gained_loss - self.options.least_gain * (self.start_loss - loss):
            self.gained_loss, self.gained_from = loss, epoch

    def _watch(self, scan: ScanPhysics, object_: Tensor, snapshot: Callable[[], Snapshot]) -> None:
        """Keep the last state without held-out pixels, but for one that has lost the object."""
        if self.start_misfit is not None:
            misfit = misfit_of_object(scan, object_)
            self.is_scattered = is_far_worse(misfit, self.start_misfit)
        state = snapshot()
        if not self.is_scattered and object_.isfinite().all() and state.is_finite:
            self.last_finite = state

    def forget(self) -> None:
        """Forget all candidates: what comes is judged anew."""
        self.best = self.last_finite = self.start_misfit = None
        self.is_scattered = False

    def n_first_splits(self, n_splits: int) -> int:
        """Of so many splits, the number that have a start when the first epoch begins."""
        is_tried = None not in (self.options.patience, self.options.trial_epochs) and self.judges
        return min(TRIED_SPLITS, n_splits) if is_tried else n_splits

    def take_as_start(self, scan: ScanPhysics, epoch: int) -> None:
        """Take the best by now for the initial reconstruction, which the network has to beat."""
        self.start_loss, self.lowest_loss, self.lowest_from = self.best_loss, math.inf, epoch
        is_made = scan.options.start.n_iterations != 0
        self.gained_loss, self.gained_from = self.best_loss if is_made else -math.inf, epoch
        if not self.judges:
            self.start_misfit = misfit_of_object(scan, scan.start)

    @property
    def start_is_beaten(self) -> bool:
        """Whether anything predicts the pixels better than the initial reconstruction."""
        return self.best_loss < self.start_loss

    def begin(self, epoch: int) -> None:
        """Begin to count, from the present epoch, those without a gain."""
        self.patience_from = self.gained_from = epoch

    def is_out_of_patience(self, epoch: int, on_trial: bool) -> bool:
        """Whether the pixels have not been predicted better for as long as patience lasts, or
        hardly better beside all that the network has gained on the initial reconstruction.

        On trial that may still be better, while the network gains on it.
        """
        options, limits = self.options, [(self.patience_from, self.options.patience)]
        if on_trial:
            limits = [(self.lowest_from, options.trial_epochs)]
        elif self._gains_count:
            limits.append((self.gained_from, options.trial_epochs))
        ended = (most is not None and epoch - since >= most for since, most in limits)
        return self.best is not None and any(ended)

    @property
    def _gains_count(self) -> bool:
        asked = self.options.least_gain > 0 and self.options.patience is not None
        return asked and self.start_is_beaten and self.gained_loss > -math.inf

    @property
    def table(self) -> pd.DataFrame:
        """Held-out losses: columns ``stage`` (projections or epoch), ``step`` and ``loss``, which
        is nan where no pixel is held out."""
        return pd.DataFrame(self.course, columns=["stage", "step", "loss"])

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            "course": [list(entry) for entry in self.course],
            "best": None if self.best is None else self.best.state_dict(),
            "last_finite": None if self.last_finite is None else self.last_finite.state_dict(),
            "start_misfit": self.start_misfit,
            "is_scattered": self.is_scattered,
            "best_loss": self.best_loss,
            "start_loss": self.start_loss,
            "lowest_loss": self.lowest_loss,
            "gained_loss": self.gained_loss,
            "gained_from": self.gained_from,
            "lowest_from": self.lowest_from,
            "patience_from": self.patience_from,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.course = [(stage, step, loss) for stage, step, loss in state["course"]]
        self.best = Snapshot.from_state_dict(state["best"])
        self.last_finite = Snapshot.from_state_dict(state.get("last_finite"))
        self.start_misfit = state.get("start_misfit")
        self.is_scattered = state.get("is_scattered", False)
        self.best_loss = state["best_loss"]
        self.start_loss = state.get("start_loss", math.inf)
        self.lowest_loss = state.get("lowest_loss", math.inf)
        self.lowest_from = state.get("lowest_from", 0)
        self.patience_from = state["patience_from"]
        self.gained_loss = state.get("gained_loss", -math.inf)
        self.gained_from = state.get("gained_from", self.patience_from)
