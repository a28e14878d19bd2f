"""Messages that a user has to read only once, or that a report repeats."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LOGGERS = ("ptychi.api.task", "ptychi.forward_models", "ptychi_neural.engine.checks")
"""Loggers that say the same of each task of a scan."""


@contextmanager
def told_once() -> Iterator[None]:
    """Let pty-chi, and the engine's checks of a scan, tell each message once.

    A training or a benchmark builds hundreds of tasks and forward models, and pty-chi says of each
    of them, for instance, that there is no GPU or that the scan is in the near field.
    """
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        is_first = record.getMessage() not in told
        told.add(record.getMessage())
        return is_first

    for name in LOGGERS:
        logging.getLogger(name).addFilter(is_new)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(is_new)


@contextmanager
def noted_warnings() -> Iterator[list[str]]:
    """Keep the texts of warnings, which are shown as ever, in a list."""
    notes: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            notes.append(str(message))
            show(message, *args, **kwargs)

        warnings.showwarning = note  # type: ignore[assignment]
        yield notes
