"""Bars at the bottom of a terminal."""

import io
import os
import re
import signal
import subprocess
import sys

import pytest

from ptychi_neural.runs.progress import TIMES, Bar, Progress, say, telling
from ptychi_neural.runs.screen import Screen, screen_of_terminal
from small_runs import RUN

pty = pytest.importorskip("pty")

ERASED = "\x1b[2K"
"""Erases the line of the cursor."""


@pytest.fixture
def told(monkeypatch, capsys):
    """What is written to a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return lambda: capsys.readouterr().err


def lines_of(text):
    return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[\d*;?\d*\w", "", text))]


def one_epoch(message=None):
    outer = Bar(total=2, bar_format="epoch {n_fmt}/{total_fmt} |{bar:30}| " + TIMES)
    with outer:
        for _ in Bar(range(3), desc="projections", leave=False):
            if message is not None:
                say(message)
        outer.set_postfix_str("loss 3.2", refresh=False)
        outer.update()


def test_inner_bars_are_below_and_vanish_and_outer_ones_stay(told):
    with telling(Progress(screen=Screen())):
        one_epoch("a message")
        one_epoch()
    lines = lines_of(told())
    _, outer, inner, *_ = lines[lines.index("a message") :]
    assert outer.startswith("epoch 0/2 ━")
    assert inner.startswith("projections 0/3 ━")
    left = re.compile(r"epoch 1/2 [━╺╸]{30} 00:00 gone, \d\d:\d\d left, loss 3\.2")
    assert sum(left.fullmatch(line) is not None for line in lines) == 2
    assert left.fullmatch(lines[-2])
    assert lines[-1] == ""


def test_a_message_stands_above_the_bars_as_it_is(told):
    message = "[/a] " + "/no/break" * 20
    with telling(Progress(screen=Screen())):
        one_epoch(message)
    assert told().count(f"{ERASED}{message}\n") == 3


@pytest.mark.parametrize("width", [20, 40, 60])
def test_narrow_terminals_have_bars_and_texts(told, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with telling(Progress(screen=Screen())):
        one_epoch()
    lines = lines_of(told())
    assert max(map(len, lines)) <= width
    assert " ".join(lines).rstrip().endswith("loss 3.2")


def test_an_error_leaves_no_bar_behind(told):
    stderr = sys.stderr

    def begin_and_fail():
        Bar(total=3).display()
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), telling(Progress(screen=Screen())):
        begin_and_fail()
    assert sys.stderr is stderr


def test_a_terminal_that_has_gone_ends_nothing(told, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    with telling(Progress(screen=Screen())):
        one_epoch("a message")


@pytest.mark.parametrize(("kind", "has_bars"), [("xterm", True), ("dumb", False)])
def test_bars_are_where_lines_can_be_drawn_again(monkeypatch, kind, has_bars):
    monkeypatch.setenv("TERM", kind)
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert (screen_of_terminal() is not None) == has_bars


def test_a_command_on_a_terminal_draws_bars_and_is_interrupted(tmp_path):
    (tmp_path / "tiny.toml").write_text(RUN.replace("n_iterations = 4", "n_iterations = 4000"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ptychi_neural", "reconstruct", "tiny.toml"]
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm", "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
            if b"projections" in chunk:
                process.send_signal(signal.SIGTERM)
    except OSError:  # Its other end was closed.
        pass
    out, _ = process.communicate(timeout=100)
    os.close(ours)
    assert process.returncode == 130
    assert "results/tiny" in out
    assert "\x1b" not in out
    text = shown.decode()
    assert f"{ERASED}Finishing the batch" in text
    assert "Stopped early: interrupted" in lines_of(text)
    assert (tmp_path / "results" / "tiny" / "product.h5").is_file()
