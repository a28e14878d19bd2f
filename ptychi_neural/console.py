"""What all commands share: exit codes, errors in a sentence, options that say how much is told.

Nothing heavy is imported here before a command runs, so that ``--help`` answers at once.
"""

import atexit
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from ptychi_neural.runs.launcher import is_launched, is_silent

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
"""Exit codes."""

IN_SEVERAL_PROCESSES = ("reconstruct", "reconstruct-subprocess", "train", "compare", "infer")
"""Commands that ``torchrun`` may start."""

LAST_S = 10.0
"""Seconds that the first of several processes has to tell what failed."""

OF_FULL_DISKS = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of system errors where there is no room."""

OF_THE_MACHINE = (*OF_FULL_DISKS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EROFS)
"""Numbers of system errors that are no wrong use."""

OF_PATHS = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Numbers of system errors of paths that lead elsewhere."""

OF_MEMORY = ("out of memory", "allocate memory", "Storage size calculation overflowed")
"""Words of torch where there is not enough memory, or could not be."""

MEMORY_ADVICE = (
    "Lower reconstructor_options.batch_size (or generator.width, training.scans_in_memory), crop "
    "or bin the patterns, lower simulation.frame_shape and scan, or set "
    "reconstructor_options.default_device."
)


@dataclass
class Settings:
    """What the options that all commands have say."""

    verbose: bool = False
    quiet: bool = False
    progress: str = "auto"
    track: str | None = None
    log: TextIO | None = None
    events: TextIO | None = None


_settings = Settings()


class Commands(TyperGroup):
    """Commands that have the options of ``Settings`` beside their own."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a signal before or after its work ends it as one in between does."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            complained("Stopped at once.")
            raise typer.Exit(INTERRUPTED) from error

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Find a command, and give it the shared options."""
        global _settings
        if cmd_name not in IN_SEVERAL_PROCESSES and is_launched():
            self.suggest_commands = False  # It would suggest the same one.
            ctx.fail(f"{cmd_name}: runs in one process, start it without torchrun.")
        _settings = Settings()
        ctx.call_on_close(_put_back(sys.stdout))
        command = super().get_command(ctx, cmd_name)
        if command is not None and not any(p.name == "quiet" for p in command.params):
            command.params += _shared_options()
        return command


def _take_note(ctx: Any, param: Any, value: Any) -> Any:
    if param.name == "log" and value is not None:
        value = _opened(value, "a", "--log")
    if param.name == "progress":
        if value not in ("auto", "json"):
            raise typer.BadParameter(f"{value!r} is neither auto nor json.")
        if value == "json":
            tell_events()
    setattr(_settings, param.name, value)
    return value


def tell_events(path: Path | None = None) -> None:
    """Write events to a new file, or to stdout, and then all else to stderr."""
    if path is not None:
        _settings.events = _opened(path, "w", "--event-file")
    elif _settings.events is None:
        _settings.events, sys.stdout = sys.stdout, sys.stderr


def _shared(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Tell warnings and errors only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where an error arose.")
    ] = False,
    log: Annotated[
        str | None, typer.Option("--log", metavar="FILE", help="Append what is told to a file.")
    ] = None,
    progress: Annotated[
        str,
        typer.Option(
            "--progress",
            metavar="auto|json",
            help="json: one JSON object an event on stdout. auto: a bar on a terminal, otherwise "
            "a line every 30 s.",
        ),
    ] = "auto",
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="TOOL:WHERE",
            help="Settings, curves and pictures for tensorboard:FOLDER or mlflow:URI (extras).",
        ),
    ] = None,
) -> None:
    """Hold the options that all commands have."""


def _shared_options() -> list[Any]:
    """The options of ``_shared``, which set ``Settings`` in the place of a command's arguments."""
    holder = typer.Typer(add_completion=False)
    holder.command()(_shared)
    options = [p for p in typer.main.get_command(holder).params if p.name in vars(Settings())]
    for option in options:
        option.expose_value = False
        option.callback = _take_note
    return options


def _put_back(stdout: TextIO) -> Any:
    def put_back() -> None:
        sys.stdout = stdout

    return put_back


def _opened(path: str | Path, mode: str, option: str) -> TextIO:
    try:
        return open(os.devnull if is_silent() else path, mode, encoding="utf-8", buffering=1)  # type: ignore[return-value]
    except OSError as error:
        raise typer.BadParameter(f"{option}: {path} cannot be written: {error.strerror}.") from None


def told(message: str) -> None:
    """Tell what a command has come to, on stdout and in the log, unless it is to be quiet."""
    if not _settings.quiet:
        typer.echo(message)
    _logged(message)


def complained(message: str) -> None:
    """Tell an error or a warning, on stderr and in the log."""
    print(message, file=sys.stderr, flush=True)  # typer.echo would write among the bars.
    _logged(message)


def concluded(stopped: str | None, unsaved: Sequence[str] = ()) -> None:
    """Tell what a result lacks.

    Parameters
    ----------
    stopped : str, optional
        What ended the command early: ``"interrupted"``, ``"patience"``, or what failed.
    unsaved : sequence of str
        Parts of the result that could not be written.

    Raises
    ------
    typer.Exit
        With ``INTERRUPTED``, or with ``FAILED`` if something failed or is lacking.
    """
    if unsaved:
        complained(f"Incomplete, without {', '.join(unsaved)}.")
    if stopped is not None:
        complained(f"Stopped early: {stopped}")
    if stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)
    if unsaved or stopped not in (None, "patience"):
        raise typer.Exit(FAILED)


def _logged(message: str) -> None:
    if _settings.log is not None:
        with suppress(OSError, ValueError):
            _settings.log.write(f"{message}\n")


@contextmanager
def plain_errors(log_level: int = 30) -> Iterator[None]:
    """Run a command: tell errors in a sentence each, with an exit code, and warnings on a line.

    Parameters
    ----------
    log_level : int
        Level from which stderr has what Python's loggers tell.

    Raises
    ------
    typer.Exit
        With ``WRONG_USE`` where a user can mend the error, ``FAILED`` where the machine or the
        reconstruction failed, ``INTERRUPTED`` where a signal ended the command.
    """
    import logging
    import warnings

    def one_line(message: Warning | str, *args: object, **kwargs: object) -> None:
        complained(f"warning: {message}")

    assert logging.lastResort is not None  # It writes to what is sys.stderr then, above the bars.
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[logging.lastResort])
    if log_level != logging.WARNING:
        logging.getLogger().setLevel(log_level)
        logging.lastResort.setLevel(log_level)
    logging.getLogger("ptychi.reconstructors.ad_general").setLevel(logging.ERROR)  # release note
    to_log = None
    if _settings.log is not None:
        to_log = logging.StreamHandler(_settings.log)
        to_log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
        logging.getLogger().addHandler(to_log)
    with warnings.catch_warnings():
        warnings.showwarning = one_line  # type: ignore[assignment]
        warnings.filterwarnings("ignore", module=r"(torch|ptychi|numpy|matplotlib)\.")
        try:
            from ptychi_neural.runs.messages import told_once
            from ptychi_neural.runs.progress import Progress, telling
            from ptychi_neural.runs.screen import screen_of_terminal
            from ptychi_neural.runs.tracking import tracker

            progress = Progress("lines", events=_settings.events, log=_settings.log)
            if _settings.quiet or _settings.events is not None:
                progress.style = "none"
            elif (screen := screen_of_terminal()) is not None:
                progress.style, progress.screen = "bars", screen
            progress.remarks = None if _settings.quiet else set()
            with told_once(), telling(progress):
                try:
                    if _settings.track is not None and not is_silent():
                        progress.tracker = tracker(_settings.track)
                    yield
                except BaseException as error:
                    raise _exit(error) from error
        finally:
            if to_log is not None:
                logging.getLogger().removeHandler(to_log)


def _exit(error: BaseException) -> BaseException:
    """Tell an error with its notes, and make the exit with its code."""
    if isinstance(error, typer.Exit | SystemExit | GeneratorExit):
        return error
    from ptychi_neural.runs.progress import tell

    what, code = described(error)
    if is_silent():
        _end_beside_others(error, what, code)
    message = " ".join([what, *getattr(error, "__notes__", [])])
    if _settings.verbose:
        complained("".join(traceback.format_exception(error)).rstrip())
    complained(message)
    trace = "".join(traceback.format_exception(error)) if code == FAILED else None
    tell("error", type=type(error).__name__, message=message, exit_code=code, traceback=trace)
    return typer.Exit(code)


def _end_beside_others(error: BaseException, what: str, code: int) -> None:
    """Let other processes know that this silent one ends, and tell what has failed here alone.

    What a user can mend, and what is not finite, comes to all of them alike.
    """
    from ptychi_neural.physics.ranks import RankLostError, leave

    leave()
    if code == FAILED and not isinstance(error, FloatingPointError | RankLostError):
        told = f"error in process {os.environ.get('RANK')}: {what.removeprefix('error: ')}\n"
        (sys.__stderr__ or sys.stderr).write(told)


def described(error: BaseException) -> tuple[str, int]:
    """A sentence on an error, and the exit code that it ends a command with."""
    if isinstance(error, KeyboardInterrupt):
        return "Stopped at once.", INTERRUPTED
    text, kind = str(error), type(error).__name__
    if isinstance(error, MemoryError) or any(words in text for words in OF_MEMORY):
        first = text.splitlines()[0] if text else "no memory left"
        return f"error: out of memory ({first.rstrip('.')}). {MEMORY_ADVICE}", FAILED
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        name = _named_at(error.object, error.start)
        return f"error: {name}: the name is not UTF-8, as which results tell it; rename it.", (
            WRONG_USE
        )
    if isinstance(error, RecursionError):
        return "error: a file is nested too deeply; make it flatter.", WRONG_USE
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop from"):
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), text.split("'")[1])
    if isinstance(error, OSError):
        code = FAILED if error.errno in OF_THE_MACHINE or "errno = 28" in text else WRONG_USE
        if error.filename is not None and error.strerror:  # It is the system's.
            text = f"{error.filename}: {error.strerror.lower()}"
            text += "; check the path." if error.errno in OF_PATHS else "."
            if error.errno in OF_FULL_DISKS:
                text = f"{text[:-1]}; make room, or write elsewhere."
        return f"error: {text}", code
    if isinstance(error, FloatingPointError) or kind == "RankLostError":
        return f"error: {text}", FAILED
    is_missing_extra = isinstance(error, ImportError) and "pip install" in text
    if isinstance(error, ValueError) or is_missing_extra:
        return f"error: {text}", WRONG_USE
    if isinstance(error, NotImplementedError):
        return f"error: {text or 'the engine cannot do this.'}", WRONG_USE
    return f"error: {kind}: {text} (-v shows where it arose)", FAILED


def _named_at(text: str, place: int) -> str:
    """The word or quoted path at a place of a text, with the bytes that are no UTF-8."""
    start = max(text.rfind(mark, 0, place) for mark in "\"'\n") + 1
    stop = min((k for mark in "\"'\n" if (k := text.find(mark, place)) >= 0), default=len(text))
    return text[start:stop].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class _Surviving:
    """A stream of text to which nothing that fails to be written ends a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        atexit.register(self.flush)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError, RuntimeError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, RuntimeError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Write to nowhere from now on, unless the disk may have room again later."""
        if isinstance(error, OSError) and error.errno not in OF_FULL_DISKS:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def prepared() -> Iterator[None]:
    """Run a command as a process of its own.

    Of several that ``torchrun`` has started, those that are silent end after the first has told
    why, for ``torchrun`` ends all as soon as one has failed.
    """
    prepare()
    try:
        yield
    except SystemExit as end:
        if is_silent() and end.code:
            time.sleep(LAST_S)
        raise


def prepare() -> None:
    """Let the log not be the run, and signals to stop be like Ctrl-C, before any command."""
    for number in range(3):  # A file that takes the place of a closed stream would be written to.
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        _Surviving(stream or open(os.devnull, "w"))  # type: ignore[assignment]  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr)
    )
    if is_silent():  # It ends by signals as they are, for it may wait in the middle of a sum.
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        return
    for name in ("SIGTERM", "SIGHUP"):
        signum = getattr(signal, name, None)
        if signum is not None and signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, signal.default_int_handler)
