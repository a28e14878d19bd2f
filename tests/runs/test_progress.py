"""What a run tells: bars, lines or events."""

import io
import json
import re
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave
from typer.testing import CliRunner

from ptychi_neural import evaluation
from ptychi_neural.cli import app
from ptychi_neural.runs import attend, progress
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.progress import Bar, Progress, say, tell, telling
from ptychi_neural.runs.tracking import tracker
from small_runs import RUN

FIELDS = {
    "started": {
        *("version", "pid", "reconstructor", "options_class", "num_epochs", "num_patterns"),
        "product_output",
    },
    "iteration": {"iteration", "held_out_loss", "elapsed_s"},
    "validation": {"epoch", "held_out_loss", "elapsed_s"},
    "checkpoint": {"epoch", "path", "elapsed_s"},
    "epoch": {"epoch", "num_epochs", "loss", "elapsed_s"},
    "cancelling": {"signal"},
    "finished": {"epoch", "cancelled", "path", "stopped", "elapsed_s"},
    "error": {"type", "message", "exit_code", "traceback"},
}
"""The fields of each event of a reconstruction, as docs/reliability.md has them."""


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def draw(path, *args, **kwargs):
        imsave(path, np.zeros((4, 4)))

    for figure in ("loss_figure", "reconstruction_figure"):  # They take most of the time.
        monkeypatch.setattr(evaluation, figure, draw)
    path = tmp_path / "tiny.toml"
    path.write_text(RUN.replace("num_epochs = 6", "num_epochs = 2"))
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["reconstruct", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def events_of(result):
    events = [json.loads(line) for line in result.stdout.splitlines()]
    for event in events:
        assert set(event) - {"event"} == FIELDS[event["event"]]
    return events


def test_events_tell_the_course_of_a_reconstruction(run_file):
    events = events_of(call(run_file, "--progress", "json"))
    assert [event["event"] for event in events] == [
        "started",
        *4 * ["iteration", "checkpoint"],
        *8 * ["checkpoint"],  # without either of two splits
        "validation",
        *2 * ["checkpoint", "epoch"],
        "validation",
        "finished",
    ]
    assert events[0]["version"] == 1
    assert events[0]["num_epochs"] == 2
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2]
    assert events[-1] | {"elapsed_s": 0} == {
        "event": "finished",
        "epoch": 2,
        "cancelled": False,
        "path": "results/tiny/product.h5",
        "stopped": None,
        "elapsed_s": 0,
    }


def test_events_tell_that_a_run_was_cancelled(run_file, monkeypatch):
    report = attend._judgement_told

    def cancel(reconstructor):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # A terminal that is closed sends several.
        return report(reconstructor)

    monkeypatch.setattr(attend, "_judgement_told", cancel)
    events = events_of(call(run_file, "--progress", "json", code=130))
    assert [e["signal"] for e in events if e["event"] == "cancelling"] == ["SIGHUP"]
    assert events[-1]["cancelled"] is True
    assert events[-1]["stopped"] == "interrupted"


def test_events_tell_an_error(run_file):
    rpie = ("--set", "engine=rpie", "--set", "object_options.step_size=1e30")
    run_file.write_text(RUN[: RUN.index("[reconstructor_options.start]")])
    events = events_of(call(run_file, *rpie, "--progress", "json", code=1))
    assert events[-1]["type"] == "FloatingPointError"
    assert events[-1]["exit_code"] == 1
    assert "Traceback" in events[-1]["traceback"]
    losses = [event["loss"] for event in events if event["event"] == "epoch"]
    assert losses[-1] is None  # NaN is not JSON.


def test_a_quiet_run_tells_nothing(run_file):
    assert call(run_file, "--quiet").output == ""


def test_the_log_has_lines_and_what_the_command_came_to(run_file, tmp_path):
    call(run_file, "--quiet", "--log", "log.txt")
    log = (tmp_path / "log.txt").read_text()
    assert re.search(r"^defocus \d/\d+ 00:00 gone, \d\d:\d\d left$", log, re.MULTILINE)
    assert "results/tiny: 2 epochs" in log
    assert "\r" not in log


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_30_seconds_at_most(clock, capsys):
    with telling(Progress("lines")):
        for _ in range(3):
            with Bar(
                total=100, bar_format="epoch {n_fmt}/{total_fmt} |{bar:30}| " + progress.TIMES
            ) as bar:
                for _ in range(100):
                    bar.n += 1
                    bar.set_postfix_str("loss 3.2", refresh=False)
                    bar.display()
                    clock[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10  # in 300 s
    assert lines[0].startswith("epoch 1/100 00:00 gone, ")
    assert lines[0].endswith("left, loss 3.2")
    assert not any("\r" in line or "|" in line for line in lines)


@pytest.mark.parametrize("style", ["bars", "lines"])
def test_tqdm_disable_is_respected(monkeypatch, capsys, style):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with telling(Progress(style)), Bar(total=3) as bar:
        assert bar.disable
        bar.update()
    assert capsys.readouterr().err == ""


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_what_cannot_be_told_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    for style in ("bars", "lines", "none"):
        with telling(Progress(style, events=Broken(), log=Broken())):
            with Bar(total=3) as bar:
                bar.update()
                bar.refresh()
            say("a message")
            tell("epoch", epoch=1, loss=float("nan"))


def test_a_signal_in_the_midst_of_a_write_ends_nothing():
    class Interrupted(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    with telling(Progress("lines", events=Interrupted())), interruptible("the batch") as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop()


def test_blocks_inside_each_other_share_what_is_noted_and_put_handlers_back():
    before = {signum: signal.getsignal(signum) for signum in attend.SIGNALS}
    with interruptible("the run") as outer:
        with interruptible("the batch") as inner:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert inner()
        assert outer()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {signum: signal.getsignal(signum) for signum in attend.SIGNALS} == before
    with interruptible("the next run") as stop:
        assert not stop()


def test_curves_are_tracked_for_tensorboard(run_file, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = events_of(
        call(run_file, "--track", f"tensorboard:{tmp_path / 'curves'}", "--progress", "json")
    )
    curves = EventAccumulator(str(tmp_path / "curves"))
    curves.Reload()
    losses = {event["epoch"]: event["loss"] for event in told if event["event"] == "epoch"}
    tracked = {point.step: point.value for point in curves.Scalars("loss")}
    assert tracked == pytest.approx(losses)
    assert len(curves.Scalars("projections/held_out_loss")) == 4
    assert curves.Scalars("held_out_loss")
    assert {"figure", "loss"} <= set(curves.Tags()["images"])
    (settings,) = curves.Tensors("settings/text_summary")
    assert (
        "reconstructor_options.generator.width | 4" in settings.tensor_proto.string_val[0].decode()
    )


def test_a_tool_that_fails_ends_no_run(monkeypatch, capsys):
    def fails(event, values):
        raise ConnectionError("no server")

    with telling(Progress("none", tracker=fails)):
        tell("epoch", epoch=1, loss=0.5)
        tell("epoch", epoch=2, loss=0.4)
    assert capsys.readouterr().err.count("no server") == 1


def test_settings_curves_and_pictures_go_to_mlflow(monkeypatch, tmp_path):
    calls = []
    module = types.ModuleType("mlflow")
    module.set_tracking_uri = lambda uri: calls.append(uri)
    module.set_experiment = lambda name: calls.append(name)
    module.start_run = lambda: calls.append("run")
    module.log_metric = lambda name, value, step: calls.append((name, value, step))
    module.log_param = lambda name, value: calls.append((name, value))
    module.set_tag = lambda name, value: calls.append((name, value))
    module.log_artifact = lambda path: calls.append(path)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    take = tracker("mlflow:sqlite:///runs.db")
    take("started", {"pid": 1})
    take(
        "settings",
        {"generator.width": 4, "output.folder": "results/S7", "scans": list(range(1000))},
    )
    take("epoch", {"epoch": 3, "num_epochs": 9, "loss": 0.5})
    take("validation", {"epoch": 3, "held_out_loss": None})
    (tmp_path / "figure.png").touch()
    take("finished", {"path": str(tmp_path / "product.h5"), "epoch": 3})
    assert calls[:4] == ["sqlite:///runs.db", "ptychi-neural", "run", ("generator.width", "4")]
    assert len(calls[5][1]) == 500
    assert calls[6] == ("mlflow.runName", "S7")
    assert calls[7:] == [("loss", 0.5, 3), str(tmp_path / "figure.png")]


def test_a_run_is_in_the_database_of_mlflow(run_file, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    call(run_file, "--track", f"mlflow:sqlite:///{tmp_path / 'runs.db'}")
    try:
        (run,) = mlflow.search_runs(experiment_names=["ptychi-neural"], output_format="list")
        kept = mlflow.MlflowClient().list_artifacts(run.info.run_id)
    finally:
        mlflow.end_run()
    assert run.data.params["reconstructor_options.generator.width"] == "4"
    assert run.info.run_name == Path(run.data.params["output.folder"]).name
    assert {"loss", "held_out_loss", "projections/held_out_loss"} <= set(run.data.metrics)
    assert {"figure.png", "loss.png"} <= {file.path for file in kept}


def test_a_tool_that_does_not_answer_is_refused_before_the_run(monkeypatch, run_file):
    def fails(uri):
        raise ConnectionError("no server")

    module = types.ModuleType("mlflow")
    module.set_tracking_uri = fails
    monkeypatch.setitem(sys.modules, "mlflow", module)
    output = call(run_file, "--track", "mlflow:http://nowhere", code=2).output
    assert "--track mlflow:http://nowhere: it cannot be written to" in output


@pytest.mark.parametrize("where", ["wandb", "tensorboard", "tensorboard:"])
def test_other_destinations_are_refused(run_file, where):
    assert "write tensorboard:FOLDER" in call(run_file, "--track", where, code=2).output
