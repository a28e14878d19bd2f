"""The judge: detector pixels that nothing else sees tell which state of a run is the best."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ptychi_neural.engine.snapshot import Snapshot
from ptychi_neural.options import ValidationOptions
from ptychi_neural.physics.losses import MeanLoss, add_losses, least_loss
from ptychi_neural.physics.scan_physics import ScanPhysics


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
        """The last finite state where no pixel is held out."""
        self.best_loss = math.inf
        self.patience_from = 0
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
        if not object_.isfinite().all():
            return
        if not self.judges:
            state = snapshot()
            self.last_finite = state if state.is_finite else self.last_finite
            return
        loss = self.loss(scan, object_)
        self.record("epoch", n_epochs, loss)
        if math.isfinite(loss) and (self.best is None or loss < self.best_loss):
            self.best_loss, self.patience_from = loss, epoch
            self.best = snapshot()

    def forget(self) -> None:
        """Forget all candidates: what comes is judged anew."""
        self.best = self.last_finite = None

    def is_out_of_patience(self, epoch: int) -> bool:
        """Whether the pixels have not been predicted better for as long as patience lasts."""
        patience = self.options.patience or math.inf
        return self.best is not None and epoch - self.patience_from >= patience

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
            "best_loss": self.best_loss,
            "patience_from": self.patience_from,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self.course = [(stage, step, loss) for stage, step, loss in state["course"]]
        self.best = Snapshot.from_state_dict(state["best"])
        self.last_finite = Snapshot.from_state_dict(state.get("last_finite"))
        self.best_loss = state["best_loss"]
        self.patience_from = state["patience_from"]
