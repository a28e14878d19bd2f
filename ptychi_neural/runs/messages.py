"""Messages of pty-chi that a user has to read only once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told_once(logger: str = "ptychi.api.task") -> Iterator[None]:
    """Let a logger tell each message once.

    A training or a benchmark builds hundreds of tasks, and pty-chi says of each of them, for
    instance, that there is no GPU.
    """
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        is_first = record.getMessage() not in told
        told.add(record.getMessage())
        return is_first

    filtered = logging.getLogger(logger)
    filtered.addFilter(is_new)
    try:
        yield
    finally:
        filtered.removeFilter(is_new)
