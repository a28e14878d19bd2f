"""A task that runs: its progress is told, and a signal to stop lets it finish its batch."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from ptychi.api.task import PtychographyTask
from ptychi.data_structures.parameter_group import PtychographyParameterGroup
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.physics.ranks import StoppedTogether, summed_numbers
from ptychi_neural.runs.progress import TIMES, Bar, say, tell

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""Signals that end a run early: Ctrl-C, the end of a batch job, a terminal that is closed."""

SOON_S = 10
"""Seconds within which an epoch is ended before a run stops."""


class _Stop(StoppedTogether):
    """Raised after the batch in which a run was told to stop."""


def run_attended(task: PtychographyTask, show_progress: bool = True) -> bool:
    """Run all epochs of a task's options, or those that are left of a run that goes on.

    The first Ctrl-C ends the run after the current batch, the second at once, as
    ``KeyboardInterrupt``; see ``interruptible``.

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
    n_epochs = reconstructor.n_epochs
    if isinstance(reconstructor, NeuralReconstructor) and reconstructor.is_under_way:
        n_epochs -= reconstructor.current_epoch
    with (
        _progress_told(reconstructor, show_progress),
        _stop_on_interrupt(reconstructor),
        after(reconstructor, "run_post_update_hooks", lambda: _check_positions(reconstructor)),
    ):
        try:
            task.run(n_epochs)
        except _Stop:
            return True
    if isinstance(reconstructor, NeuralReconstructor):
        _tell_of_vain_epochs(reconstructor)
    return False


def _tell_of_vain_epochs(reconstructor: NeuralReconstructor) -> None:
    """Tell where the result is not what the last epoch left, and what to do about it."""
    if reconstructor.network_was_tried_in_vain:
        say(
            "The network predicted the held-out pixels no better than the initial reconstruction, "
            "which is the result. num_epochs = 0 leaves the network out."
        )
    if reconstructor.judge.is_scattered:
        say(
            "The epochs scattered the object: the result is the last that predicted the counts. "
            "Lower reconstructor_options.generator.step_size, and the step sizes of probe and "
            "positions; or hold pixels out (validation.held_out)."
        )


def _check_positions(reconstructor: IterativeReconstructor) -> None:
    """End a run of pty-chi's engines whose positions have left the object.

    pty-chi would enlarge the object to where they are, beyond all memory.

    Raises
    ------
    FloatingPointError
        If positions are not finite, or further from the middle than the object is wide.
    """
    group = reconstructor.parameter_group
    assert isinstance(group, PtychographyParameterGroup)
    if isinstance(reconstructor, NeuralReconstructor) or not group.probe_positions.optimizable:
        return
    furthest = float(group.probe_positions.data.abs().max())
    if not furthest <= max(group.object.lateral_shape):  # type: ignore[arg-type]
        what = f"moved {furthest:.3g} pixels away" if np.isfinite(furthest) else "became NaN"
        raise FloatingPointError(
            f"The positions {what} in epoch {reconstructor.current_epoch}. Likely "
            "cause: a step size of object, probe or positions that is too large."
        )


@contextmanager
def _progress_told(reconstructor: IterativeReconstructor, show: bool) -> Iterator[None]:
    """Show our bar in the place of pty-chi's, which does not tell the loss, and tell events."""
    before = reconstructor.pbar
    bar = Bar(
        total=reconstructor.n_epochs,
        initial=reconstructor.current_epoch,
        disable=not show,
        bar_format="epoch {n_fmt}/{total_fmt} |{bar:30}| " + TIMES,
    )

    def report_loss() -> None:
        table = reconstructor.loss_tracker.table
        loss = table.loss.iloc[-1]
        bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        n_done = int(table.epoch.iloc[-1]) + 1
        tell("epoch", epoch=n_done, num_epochs=reconstructor.n_epochs, loss=loss)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss} in epoch {n_done - 1}. Likely causes: a step size that "
                "is too large, or data that are not counts."
            )

    reconstructor.pbar = bar
    try:
        with bar, after(reconstructor.loss_tracker, "conclude_epoch", report_loss):
            if not isinstance(reconstructor, NeuralReconstructor):
                yield
                return
            with after(reconstructor.judge, "record", _judgement_told(reconstructor)):
                yield
    finally:
        reconstructor.pbar = before


def _judgement_told(reconstructor: NeuralReconstructor) -> Callable[[], None]:
    """Make the action that tells the latest held-out loss: of an iteration, or after an epoch."""

    def report() -> None:
        stage, step, loss = reconstructor.judge.course[-1]
        if stage == "projections":
            tell("iteration", iteration=step + 1, held_out_loss=loss)
        else:
            tell("validation", epoch=step, held_out_loss=loss)

    return report


@contextmanager
def _stop_on_interrupt(reconstructor: IterativeReconstructor) -> Iterator[None]:
    """End the run after the batch in which it was told to stop.

    An epoch of the neural engine that ends soon is ended first: between two epochs its state can
    be saved.
    """
    with interruptible("the batch") as interrupted:
        epoch_began: float | None = None

        def stop() -> None:
            ends_soon = epoch_began is not None and _ends_soon(reconstructor, epoch_began)
            n_interrupted, n_ending = summed_numbers(interrupted(), ends_soon)
            if n_interrupted and not n_ending:
                raise _Stop  # A signal to one of several processes is one to all.

        def begin_epoch() -> None:
            nonlocal epoch_began
            stop()
            epoch_began = time.monotonic()

        def end_epoch() -> None:
            nonlocal epoch_began
            epoch_began = None

        with (
            after(reconstructor, "run_post_update_hooks", stop),
            after(reconstructor, "run_pre_epoch_hooks", begin_epoch),
            after(reconstructor, "run_post_epoch_hooks", end_epoch),
        ):
            yield


def _ends_soon(reconstructor: IterativeReconstructor, epoch_began: float) -> bool:
    """Whether an epoch of the neural engine ends within ``SOON_S``, if batches take equal times."""
    if not isinstance(reconstructor, NeuralReconstructor) or reconstructor.dataloader is None:
        return False
    n_done = reconstructor.current_minibatch + 1
    n_left = len(reconstructor.dataloader) - n_done
    return n_left * (time.monotonic() - epoch_began) / n_done < SOON_S


def any_interrupted(interrupted: Callable[[], bool]) -> bool:
    """Whether any of several processes was told to stop, all of which have to ask."""
    (n_interrupted,) = summed_numbers(interrupted())
    return n_interrupted > 0


def is_interrupted() -> bool:
    """Whether the present block of ``interruptible`` was interrupted."""
    return bool(_in_force) and _in_force[-1]()


_in_force: list[Callable[[], bool]] = []
"""What tells whether the present block of ``interruptible`` was interrupted."""


@contextmanager
def interruptible(unit: str) -> Iterator[Callable[[], bool]]:
    """Note a signal to stop for whoever asks, so that what was reached can be saved.

    Ctrl-C, SIGTERM and SIGHUP are noted. The second Ctrl-C raises ``KeyboardInterrupt``; the others
    may come several times, as they do when a terminal is closed. Signals that are ignored (as with
    ``nohup``) stay so. A block inside another one shares what is noted.

    Parameters
    ----------
    unit : str
        What is finished first, for the message.

    Yields
    ------
    callable
        It tells whether to stop. Outside the main thread signals are left to others.
    """
    if _in_force:
        yield _in_force[-1]
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    noted: set[int] = set()

    def note(signum: int, frame: FrameType | None) -> None:
        if signum in noted and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not noted:
            tell("cancelling", signal=signal.Signals(signum).name)
            say(f"Finishing {unit}, then saving. Ctrl-C again stops at once and saves nothing.")
        noted.add(signum)

    def interrupted() -> bool:
        return bool(noted)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = [n for n, handler in before.items() if handler not in (None, signal.SIG_IGN)]
    for number in heeded:
        signal.signal(number, note)
    _in_force.append(interrupted)
    try:
        yield interrupted
    finally:
        _in_force.remove(interrupted)
        for number in heeded:
            signal.signal(number, before[number])


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
