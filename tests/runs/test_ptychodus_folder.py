"""The protocol of ptychodus's reconstruction subprocess, in our own command."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ptychi.api import RPIEOptions

from ptychi_neural.runs.configuration import RunFileError
from ptychi_neural.runs.ptychodus_folder import run_of_folder
from ptychi_neural.scans import read_product
from ptychi_neural.simulation import write_simulation
from small_tasks import neural_options

TOML = """
options_class_name = "NeuralPtychographyOptions"

[reconstructor_options]
num_epochs = 2
default_device = "cpu"
start.n_iterations = 2
generator.width = 4
"""


@pytest.fixture
def folder(simulated, tmp_path):
    write_simulation(simulated, tmp_path / "in")
    return tmp_path / "in"


def write(options, path):
    """Write options as ptychodus does: every one of them, with the class of each group."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(options.get_dict()))), encoding="utf-8")


def start(tmp_path, *arguments, **kwargs):
    command = [sys.executable, "-m", "ptychi_neural", "reconstruct-subprocess", *arguments]
    return subprocess.Popen(
        [*command, "-i", "in", "-o", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def ended(process, code, told=None):
    out, _ = process.communicate(told, timeout=300)
    events = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == code, events
    return events


def test_options_are_read_from_the_folder_and_each_event_is_a_line_of_json(folder, tmp_path):
    write(neural_options(), folder / "ptychi_options.yaml")
    events = ended(start(tmp_path), 0)
    assert events[0]["event"] == "started"
    assert events[0]["options_class"] == "NeuralPtychographyOptions"
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2]
    assert events[-1] == events[-1] | {"event": "finished", "epoch": 2, "cancelled": False}
    assert events[-1]["path"] == events[0]["product_output"] == "out/product.h5"
    assert np.abs(read_product(tmp_path / "out" / "product.h5").object - 1).max() > 0.1


def test_a_signal_keeps_the_partial_product(folder, tmp_path):
    (tmp_path / "options.toml").write_text(TOML.replace("n_iterations = 2", "n_iterations = 9999"))
    process = start(tmp_path, "--ptychi-options", "options.toml")
    for line in process.stdout:
        if json.loads(line)["event"] == "iteration":
            process.send_signal(signal.SIGTERM)
            break
    last = ended(process, 130)[-1]
    assert last == last | {"event": "finished", "cancelled": True}
    assert np.abs(read_product(tmp_path / "out" / "product.h5").object - 1).max() > 0.1


def test_options_come_from_standard_input_and_errors_are_events(folder, tmp_path):
    process = start(tmp_path, "--ptychi-options", "-", stdin=subprocess.PIPE)
    (event,) = ended(process, 2, json.dumps({"options_class_name": "MagicOptions"}))
    assert event == event | {"event": "error", "exit_code": 2}
    assert "options_class_name: choose from NeuralPtychographyOptions" in event["message"]


def test_events_partial_products_and_half_of_the_frames_are_as_asked(folder, tmp_path, simulated):
    options = TOML.replace("num_epochs = 2", "num_epochs = 3")
    (tmp_path / "options.toml").write_text(
        options.replace("start.n", "validation.held_out = 0\nstart.n")
    )
    arguments = "--num-sync-epochs 2 --index-filter odd --event-file events.jsonl --log-level 20"
    process = start(
        *(tmp_path, "--ptychi-options", "options.toml", *arguments.split()), stderr=subprocess.PIPE
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert '"event"' not in out
    assert "INFO: " in err
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert events[0]["num_patterns"] == len(simulated.scan.patterns) // 2
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [2, 3]
    products = [event for event in events if event.get("path", "").endswith("product.000002.h5")]
    assert [event["event"] for event in products] == ["checkpoint"]
    partial = read_product(tmp_path / "out" / "product.000002.h5")
    assert np.abs(partial.object - 1).max() > 0.1
    np.testing.assert_array_equal(partial.frame_indexes % 2, 1)


def test_a_memory_map_is_refused_with_the_reason(folder, tmp_path):
    (tmp_path / "options.toml").write_text(TOML)
    process = start(tmp_path, "--ptychi-options", "options.toml", "--mmap-file", "map")
    (event,) = ended(process, 2)
    assert "--mmap-file map: the counts are reconstructed from memory" in event["message"]
    assert not (tmp_path / "map").exists()


def test_the_geometry_is_that_of_the_product(folder):
    options = RPIEOptions()
    options.data_options.wavelength_m = 5e-9
    options.object_options.slice_spacings_m = [1e-6]
    options.reconstructor_options.num_epochs = 7
    write(options, folder / "ptychi_options.yaml")
    run = run_of_folder(folder)
    assert run.engine == "rpie"
    assert run.chosen == {"reconstructor_options.num_epochs"}


def test_what_is_unknown_or_missing_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ptychi_options\.yaml.*--ptychi-options"):
        run_of_folder(folder)
    path = tmp_path / "options.toml"
    path.write_text(TOML.replace("width", "widht"))
    with pytest.raises(RunFileError, match=r"generator\.widht: unknown key; did you mean width\?"):
        run_of_folder(folder, path)
    path.write_text(TOML)
    (folder / "product.h5").unlink()
    with pytest.raises(RunFileError, match=r"data\.product: no file .*product\.h5"):
        run_of_folder(folder, path)
