"""A progress bar for a task that runs, and Ctrl-C that lets it finish its batch."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import tqdm
from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor


class _Stop(Exception):
    """Raised after the batch in which Ctrl-C was pressed."""


def run_attended(task: PtychographyTask, show_progress: bool = True) -> bool:
    """Run all epochs of a task's options.

    The first Ctrl-C ends the run after the current batch, the second at once, as
    ``KeyboardInterrupt``. Outside the main thread Ctrl-C is left to others.

    Parameters
    ----------
    task : PtychographyTask
        A task of any engine. Its state is that of the last batch afterwards.
    show_progress : bool
        Show a bar on stderr with epoch, loss and time left.

    Returns
    -------
    bool
        Whether the run was interrupted.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    """
    reconstructor = task.reconstructor
    assert isinstance(reconstructor, IterativeReconstructor)
    with _progress_bar(reconstructor, show_progress), _stop_on_interrupt(reconstructor):
        try:
            task.run()
        except _Stop:
            return True
    return False


@contextmanager
def _progress_bar(reconstructor: IterativeReconstructor, show: bool) -> Iterator[None]:
    """Show our bar in the place of pty-chi's, which does not tell the loss."""
    before = reconstructor.pbar
    bar = tqdm.tqdm(
        total=reconstructor.n_epochs,
        disable=not show,
        bar_format="epoch {n_fmt}/{total_fmt} |{bar:30}| {elapsed} gone, {remaining} left{postfix}",
    )

    def report_loss() -> None:
        table = reconstructor.loss_tracker.table
        loss = table.loss.iloc[-1]
        bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {int(table.epoch.iloc[-1])}. Likely causes: a "
                "step size that is too large, or data that are not counts."
            )

    reconstructor.pbar = bar
    try:
        with bar, after(reconstructor.loss_tracker, "conclude_epoch", report_loss):
            yield
    finally:
        reconstructor.pbar = before


@contextmanager
def _stop_on_interrupt(reconstructor: IterativeReconstructor) -> Iterator[None]:
    """End the run after the batch in which Ctrl-C is pressed."""
    with interruptible("the batch") as interrupted:

        def stop() -> None:
            if interrupted():
                raise _Stop

        with after(reconstructor, "run_post_update_hooks", stop):
            yield


@contextmanager
def interruptible(unit: str) -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C for whoever asks, and let the second raise ``KeyboardInterrupt``.

    Parameters
    ----------
    unit : str
        What is finished after the first Ctrl-C, for the message.

    Yields
    ------
    callable
        It tells whether Ctrl-C was pressed. Outside the main thread Ctrl-C is left to others.
    """
    pressed = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        message = f"Finishing {unit}, then saving. Ctrl-C again stops at once and saves nothing."
        tqdm.tqdm.write(message, file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def after(owner: Any, method_name: str, action: Callable[[], None]) -> Iterator[None]:
    """Call an action whenever a method of an instance has run; several actions keep their order."""
    method, followed_already = getattr(owner, method_name), method_name in vars(owner)

    def followed(*args: Any, **kwargs: Any) -> None:
        method(*args, **kwargs)
        action()

    setattr(owner, method_name, followed)
    try:
        yield
    finally:
        if followed_already:
            setattr(owner, method_name, method)
        else:
            delattr(owner, method_name)
