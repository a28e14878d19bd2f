"""Bars at the bottom of a terminal, drawn with rich; what is told meanwhile stands above them."""

import os
import sys
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

WITHOUT_CURSOR = ("dumb", "unknown")
"""Values of the environment variable TERM of terminals on which nothing can be drawn again."""

LEAST_WIDTH, MOST_WIDTH = 8, 30
"""Widths of a bar in characters; where less has room beside the texts, they are below it."""


class Row(Protocol):
    """What a screen draws on a line: a bar between two texts."""

    n: int
    total: int

    def texts(self) -> Sequence[str]:
        """The texts before and after the bar."""


class Screen:
    """The lines of a terminal on which bars are, the outer ones first."""

    def __init__(self) -> None:
        self._console = _Console(
            stderr=True,
            force_terminal=True,
            force_jupyter=False,
            soft_wrap=True,  # Long paths in messages can be copied.
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._rows: list[Row] = []
        self._live = Live(
            console=self._console,
            get_renderable=lambda: Group(*map(self._drawn, list(self._rows))),
            transient=True,
            redirect_stdout=False,  # It may be a file.
            refresh_per_second=2,
        )

    def show(self, row: Row) -> None:
        """Draw a bar from now on, until it is taken away."""
        if not self._has(row):
            self._rows.append(row)
            self._live.start()
            self._live.refresh()

    def take_away(self, row: Row, leave: bool) -> None:
        """Draw a bar no longer, or leave it above the others as it is."""
        if self._has(row):
            self._rows = [other for other in self._rows if other is not row]
            self._live.refresh()
            if leave:
                self._console.print(self._drawn(row), soft_wrap=False)
            if not self._rows:
                self._live.stop()

    def close(self) -> None:
        """Take all bars away."""
        self._rows = []
        self._live.stop()

    def _has(self, row: Row) -> bool:
        return any(other is row for other in self._rows)  # Those of tqdm are equal by place.

    def _drawn(self, row: Row) -> RenderableType:
        """A row on one line, or on two where the bar has no room beside the texts."""
        before, after = row.texts()
        room = self._console.width - len(before) - 1
        beside = room - len(after) - 1
        is_wide = beside >= LEAST_WIDTH
        width = max(LEAST_WIDTH, min(MOST_WIDTH, beside if is_wide else room))
        line = Table.grid(padding=(0, 1))
        line.add_row(before, ProgressBar(row.total, row.n, width), *([after] * is_wide))
        return line if is_wide else Group(line, after)


class _Console(Console):
    """A console which ends no run when its terminal has gone, and hides no cursor from others."""

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def show_cursor(self, show: bool = True) -> bool:
        return False  # A run that is killed could not bring it back.


def screen_of_terminal() -> Screen | None:
    """A screen on stderr; None where stderr is no terminal, or one that only goes forward."""
    goes_forward = os.environ.get("TERM", "").lower() in WITHOUT_CURSOR
    return Screen() if sys.stderr.isatty() and not goes_forward else None
