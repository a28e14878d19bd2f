"""What a run tells while it goes on: bars on a terminal, lines elsewhere, or events as JSON.

A command chooses with ``telling``: its bars are drawn with rich. Without it, as in notebooks, they
are those of tqdm, and no events are told.
"""

import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

import tqdm

from ptychi_neural.runs.screen import Screen
from ptychi_neural.runs.tracking import SETTINGS, Tracker

EVENTS_VERSION = 1
"""Version of the events, which changes when a field is renamed or removed."""

LINE_INTERVAL_S = 30.0
"""Shortest time between two lines of progress."""

Style = Literal["bars", "lines", "none"]


@dataclass
class Progress:
    """How a command tells its progress."""

    style: Style = "bars"
    """Bars and lines go to stderr."""

    events: TextIO | None = None
    """Where events go, one JSON object a line."""

    log: TextIO | None = None
    """A file that gets lines and messages, whatever the style."""

    screen: Screen | None = None
    """Where bars are drawn with rich; None: tqdm draws them."""

    tracker: Tracker | None = None
    """What takes the events for another tool, see ``tracking``."""

    remarks: set[str] | None = None
    """What was remarked so far; None: nothing is to be."""

    epochs_apart: int = 1
    """Epochs from one event ``epoch`` to the next; the last epoch is told, too."""

    started: float = field(default_factory=time.monotonic)
    """When the command began, in seconds of the monotonic clock."""

    last_line: float = -math.inf
    """When the last line was written."""

    def line(self, text: str) -> None:
        """Write a line of progress, unless there was one a moment ago."""
        now = time.monotonic()
        if now - self.last_line < LINE_INTERVAL_S:
            return
        self.last_line = now
        for stream in (sys.stderr if self.style == "lines" else None, self.log):
            _write(stream, text)


_present = Progress()


@contextmanager
def telling(progress: Progress) -> Iterator[None]:
    """Let the runs of a block tell their progress in this way."""
    global _present
    before, _present = _present, progress
    try:
        yield
    finally:
        _present = before
        if progress.screen is not None:
            progress.screen.close()


def tell(event: str, **values: Any) -> None:
    """Tell an event, if the command tells events.

    Parameters
    ----------
    event : str
        Its name.
    **values
        What JSON can hold; numbers that are not finite become null.
    """
    if _present.events is None and _present.tracker is None:
        return
    told: dict[str, Any] = {"version": EVENTS_VERSION} if event == "started" else {}
    told |= {name: _finite(value) for name, value in values.items()}
    if _present.tracker is not None:
        _track(event, told)
    if event == "epoch" and _is_passed_over(**values):
        return
    if event not in ("started", "cancelling", "error"):
        told["elapsed_s"] = round(time.monotonic() - _present.started, 3)
    _write(_present.events, json.dumps({"event": event, **told}, allow_nan=False, default=str))


def _is_passed_over(epoch: int, num_epochs: int | None = None, **values: Any) -> bool:
    return epoch % _present.epochs_apart > 0 and epoch != num_epochs


def tell_epochs(apart: int) -> None:
    """Tell one of so many epochs as an event, and the last."""
    _present.epochs_apart = apart


def track_settings(values: dict[str, Any]) -> None:
    """Tell a tracking tool, if there is one, what differs from the defaults."""
    if _present.tracker is not None:
        _track(SETTINGS, values)


def _track(event: str, values: dict[str, Any]) -> None:
    assert _present.tracker is not None
    try:
        _present.tracker(event, values)
    except Exception as error:  # A tool that does not answer ends no run.
        _present.tracker = None
        say(f"warning: nothing is tracked any more: {error}")


def say(message: str) -> None:
    """Write a message to stderr, without disturbing a bar, and to the log."""
    with suppress(OSError, ValueError, RuntimeError):  # In the middle of another write.
        tqdm.tqdm.write(message, file=sys.stderr)
    _write(_present.log, message)


def remark(message: str) -> None:
    """Say once in a command what is no warning, unless it is to be quiet."""
    if _present.remarks is not None and message not in _present.remarks:
        _present.remarks.add(message)
        say(message)


@contextmanager
def what_fails_is_said(what: str, unsaved: list[str]) -> Iterator[None]:
    """Let a picture that cannot be drawn keep nothing else from its place.

    Parameters
    ----------
    what : str
        The picture, for the message.
    unsaved : list of str
        Takes note of it where it could not be written, as on a full disk.
    """
    try:
        yield
    except Exception as error:
        say(f"warning: {what} could not be drawn: {error}")
        if isinstance(error, OSError):
            unsaved.append(what)


@contextmanager
def written_or_said(what: str, unsaved: list[str]) -> Iterator[None]:
    """Let a file for which the disk has no room keep nothing else from its place.

    Parameters
    ----------
    what : str
        The file, for the message.
    unsaved : list of str
        Takes note of it where it could not be written.
    """
    try:
        yield
    except OSError as error:
        say(f"warning: {what} could not be written: {error}")
        unsaved.append(what)


class Bar(tqdm.tqdm):
    """A bar where bars are shown; elsewhere it writes a line now and then."""

    def __init__(self, *args: Any, disable: bool = False, **kwargs: Any) -> None:
        self.progress = _present
        shown = self.progress.style in ("bars", "lines") or self.progress.log is not None
        unwanted = os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")
        kwargs["disable"] = disable or unwanted or not shown
        if self.progress.style != "bars":
            kwargs |= {"leave": False, "delay": 1e-9}
        if self.progress.style != "bars" or self.progress.screen is not None:
            kwargs["file"] = io.StringIO()
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or write it as a line."""
        if self.progress.screen is not None and not self.disable:
            self.progress.screen.show(self)
        elif self.progress.style == "bars":
            with suppress(OSError, ValueError):  # Nothing to write to ends no run.
                super().display(msg, pos)
        if msg is None and self.n > self.initial:
            self.progress.line(self.as_line())
        return True

    def close(self) -> None:
        """Take the bar away."""
        with suppress(OSError, ValueError):
            super().close()
        if self.progress.screen is not None:
            self.progress.screen.take_away(self, self.leave)

    def texts(self) -> list[str]:
        """Name and count, which stand before the bar, and times and latest values after it."""
        values = self.format_dict
        parts = re.split(r"\|\{bar.*?\}\|", values["bar_format"] or FORMAT)
        return [
            self.format_meter(**values | {"bar_format": part, "ncols": None}).strip()
            for part in parts
        ]

    def as_line(self) -> str:
        """Name, count, time and latest values."""
        return " ".join(" ".join(self.texts()).split())


def bar_of(total: int, name: str) -> Bar:
    """A bar of a number of things."""
    return Bar(total=total, desc=name)


TIMES = "{elapsed} gone, {remaining} left{postfix}"
"""The end of the format of all bars."""

FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar:30}| " + TIMES
"""The format of bars that have none of their own."""


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:
        with suppress(OSError, ValueError, RuntimeError):  # Nothing to write to ends no run.
            stream.write(f"{text}\n")
            stream.flush()


def _finite(value: Any) -> Any:
    is_number = isinstance(value, float) or hasattr(value, "item")
    if not is_number:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
