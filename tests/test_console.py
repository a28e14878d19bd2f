"""What all commands share: exit codes, errors, and streams that nothing can be written to."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ptychi_neural import console
from ptychi_neural.cli import app
from ptychi_neural.console import described
from ptychi_neural.physics.ranks import RankLostError

QUICK = """
import sys
sys.argv[0] = "ptychi-neural"  # Nothing heavy is imported then.
from ptychi_neural.console import prepare
prepare()
import typer
for number in range(20_000):
    typer.echo(f"line {number}")
    print(f"line {number}", file=sys.stderr)
open("done", "w").write("done")
"""


def test_a_signal_after_the_work_ends_a_command_as_one_in_between_does(monkeypatch, tmp_path):
    def interrupted(message):
        raise KeyboardInterrupt

    monkeypatch.setattr("ptychi_neural.cli.told", interrupted)
    result = CliRunner().invoke(app, ["init", str(tmp_path / "run.toml")])
    assert result.exit_code == 130
    assert "Stopped at once." in result.output


@pytest.mark.parametrize(
    "streams",
    [
        "| head -1",
        "2>&1 | head -1",
        "2>&1 >/dev/null | head -1",
        ">/dev/full 2>/dev/full",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "2>&-",
    ],
)
def test_nothing_that_cannot_be_written_ends_a_command(tmp_path, streams):
    (tmp_path / "quick.py").write_text(QUICK)
    environment = os.environ | {"PYTHONPATH": str(Path(console.__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} quick.py {streams}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "done"
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr  # "Exception ignored in ..."


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("pixel_size_m: give it"), 2, "error: pixel_size_m: give it"),
        (FileNotFoundError("x.h5 does not exist"), 2, "error: x.h5 does not exist"),
        (
            FileNotFoundError(2, "No such file or directory", "run.toml"),
            2,
            "error: run.toml: no such",
        ),
        (
            IsADirectoryError(21, "Is a directory", "."),
            2,
            "error: .: is a directory; check the path.",
        ),
        (RuntimeError("Symlink loop from '/a/b'"), 2, "error: /a/b: too many levels of symbolic"),
        (OSError(28, "No space left on device", "x.h5"), 1, "x.h5: no space left on device; make"),
        (PermissionError(13, "Permission denied", "a.h5"), 2, "error: a.h5: permission denied."),
        (RankLostError("Another process has ended."), 1, "error: Another process has ended."),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (OSError("write failed: errno = 28, no space"), 1, "errno = 28"),
        (FloatingPointError("The loss became nan"), 1, "The loss became nan"),
        (MemoryError(), 1, "batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "batch_size"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9]"), 1, "batch_size"),
        (RuntimeError("a singular matrix"), 1, "RuntimeError: a singular matrix (-v shows"),
        (KeyError("entry"), 1, "KeyError: 'entry' (-v shows"),
        (NotImplementedError(), 2, "cannot do this"),
        (
            UnicodeEncodeError(
                "utf-8", 'folder = "/a/b\udcff"\n', 14, 15, "surrogates not allowed"
            ),
            2,
            "error: /a/b\\xff: the name is not UTF-8",
        ),
        (RecursionError("maximum recursion depth"), 2, "nested too deeply"),
        (KeyboardInterrupt(), 130, "Stopped at once"),
    ],
)
def test_each_error_is_a_sentence_with_an_exit_code(error, code, text, monkeypatch):
    sentence, found = described(error)
    assert found == code
    assert text in sentence

    def fail(*arguments):
        raise error

    monkeypatch.setattr("ptychi_neural.runs.report_scan.report", fail)
    result = CliRunner().invoke(app, ["inspect", "x"])
    assert result.exit_code == code
    assert text in result.output
    assert "Traceback" not in result.output
    assert (
        "Traceback (most recent call last)"
        in CliRunner().invoke(app, ["inspect", "x", "-v"]).output
    )


def test_every_command_has_the_options_that_say_how_much_is_told():
    commands = typer.main.get_command(app)
    names = commands.list_commands(None)
    assert "reconstruct" in names
    for name in names:
        shown = CliRunner().invoke(app, [name, "--help"]).output
        for option in ("--quiet", "--verbose", "--log", "--progress"):
            assert option in shown, name
    assert CliRunner().invoke(app, ["inspect", "x", "--progress", "xml"]).exit_code == 2
    assert CliRunner().invoke(app, ["inspect", "x", "--log", "/proc/none/x"]).exit_code == 2


def test_signals_to_stop_are_like_control_c_outside_of_runs(monkeypatch):
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    streams = sys.stdin, sys.stdout, sys.stderr
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        console.prepare()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def test_an_error_is_an_event_where_events_are_told(tmp_path, monkeypatch):
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "none.h5"), "--progress", "json"])
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    event = json.loads(line)
    assert (event["event"], event["type"], event["exit_code"]) == ("error", "FileNotFoundError", 2)
    assert event["traceback"] is None
    assert "none.h5" in event["message"]
    assert "none.h5" in result.stderr


def test_a_log_has_what_is_told_and_grows(tmp_path):
    log = tmp_path / "log.txt"
    for _ in range(2):
        CliRunner().invoke(app, ["inspect", str(tmp_path / "none.h5"), "--log", str(log)])
    assert log.read_text().count("none.h5") == 2


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_log_on_a_full_disk_does_not_end_a_command(monkeypatch, tmp_path):
    monkeypatch.setattr(console, "_opened", lambda *arguments: Full())
    result = CliRunner().invoke(app, ["init", str(tmp_path / "run.toml"), "--log", "x"])
    assert result.exit_code == 0
