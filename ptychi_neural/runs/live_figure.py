"""A picture of a reconstruction under way, drawn every few seconds for a viewer that reloads."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural import evaluation
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.runs.attend import after
from ptychi_neural.runs.pictures import shown_area
from ptychi_neural.runs.progress import remark
from ptychi_neural.runs.run_scan import reconstructed
from ptychi_neural.scans import Scan

DRAWING_SHARE = 0.05
"""Largest share of the time that drawing takes: a picture that takes longer is drawn less often."""


@contextmanager
def live_figure(
    tasks: Sequence[PtychographyTask], scan: Scan, path: Path, every_s: float
) -> Iterator[None]:
    """Draw object, probe and loss of the task that runs, every so many seconds, until the block
    ends; then the picture is removed.

    Parameters
    ----------
    tasks : sequence of PtychographyTask
        Tasks of any engines, one of which runs at a time.
    scan : Scan
        Their scan.
    path : Path
        The picture, which is replaced whole.
    every_s : float
        Seconds from one picture to the next.
    """
    remark(f"{path} shows the object every {every_s:g} s while it is found.")
    due = 0.0

    def look_at(task: PtychographyTask) -> Callable[[], None]:
        def look() -> None:
            nonlocal due
            began = time.monotonic()
            if began < due:
                return
            due = began + every_s
            try:
                _draw(task, scan, path)
            except Exception as error:  # A picture never ends a run.
                warnings.warn(f"{path} could not be drawn: {error}", stacklevel=2)
                due = np.inf
            else:
                now = time.monotonic()
                due = max(due, now + (now - began) / DRAWING_SHARE)

        return look

    with ExitStack() as followed:
        for task in tasks:
            reconstructor, look = task.reconstructor, look_at(task)
            assert isinstance(reconstructor, IterativeReconstructor)
            followed.enter_context(after(reconstructor.loss_tracker, "conclude_epoch", look))
            if isinstance(reconstructor, NeuralReconstructor):
                followed.enter_context(after(reconstructor, "run_post_projection_hooks", look))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _draw(task: PtychographyTask, scan: Scan, path: Path) -> None:
    reconstructor = task.reconstructor
    assert isinstance(reconstructor, IterativeReconstructor)
    table = reconstructor.loss_tracker.table[["epoch", "loss"]].dropna()
    losses = [(int(epoch) + 1, float(loss)) for epoch, loss in table.itertuples(index=False)]
    so_far = reconstructed(scan, task, "under way")
    evaluation.reconstruction_figure(
        path,
        so_far.object,
        so_far.probe,
        losses,
        title=f"{scan.name}, {time.strftime('%H:%M:%S')}",
        pixel_size_m=scan.known_pixel_size_m,
        mask=shown_area(so_far),
        overwrite=True,
    )
