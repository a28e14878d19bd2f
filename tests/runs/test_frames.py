"""Some frames of a scan, in every command that takes a run file."""

import re
import tomllib

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs import run_scan
from ptychi_neural.scans import read_product, write_scan

FRAMES = "frames = { stop = 40, every = 2 }"
TAKEN = np.arange(0, 40, 2)

RUN = f"""
[data]
diffraction = "scan.h5"
{FRAMES}

[reconstructor_options]
num_epochs = 0
default_device = "cpu"
start = {{ n_iterations = 2 }}
"""


@pytest.fixture
def run_file(tmp_path, monkeypatch, simulated):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "scan.h5", simulated.scan)
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path / "run.toml"


@pytest.fixture
def loaded(monkeypatch):
    """Numbers of the frames of each measured scan that is loaded."""
    numbers = []

    def load_measured(section):
        scan, reference = whole(section)
        numbers.append(scan.frame_indexes.tolist())
        return scan, reference

    whole = run_scan.load_measured
    monkeypatch.setattr(run_scan, "load_measured", load_measured)
    return numbers


def call(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("n", [1, 2])
def test_frames_that_span_no_area_are_reconstructed_and_drawn(run_file, n, recwarn):
    call("reconstruct", run_file, f"--set=data.frames={{ stop = {n} }}", "--output=result")
    written = [str(w.message) for w in recwarn if "could not be written" in str(w.message)]
    assert written == []
    assert (run_file.parent / "result" / "figure.png").exists()


def test_a_reconstruction_is_of_these_frames_and_its_run_file_says_so(run_file, simulated):
    call("reconstruct", run_file)
    product = read_product("results/run/product.h5")
    np.testing.assert_array_equal(product.frame_indexes, TAKEN)
    np.testing.assert_allclose(product.positions_px, simulated.scan.positions_px[TAKEN], atol=1e-6)
    with open("results/run/run.toml", "rb") as file:
        assert tomllib.load(file)["data"]["frames"] == {
            "start": 0,
            "stop": 40,
            "every": 2,
            "numbers": "all",
        }


def test_a_comparison_is_of_these_frames(run_file, loaded):
    call("compare", run_file, "--engines=network-off")
    assert loaded == [TAKEN.tolist()]


def test_a_training_is_on_these_frames(run_file, loaded):
    data = tomllib.loads(RUN)["data"]
    other = data | {"frames": {"window_px": 8.0}}
    contents = tomllib.loads(RUN)
    del contents["data"]
    contents |= {"scans": [{"data": data}], "validation": {"data": other}}
    contents["reconstructor_options"]["num_epochs"] = 1
    contents["reconstructor_options"]["generator"] = {"width": 4}
    run_file.write_text(tomli_w.dumps(contents))
    call("train", run_file)
    in_window = [numbers for numbers in loaded if numbers != TAKEN.tolist()]
    assert len(in_window) < len(loaded)
    assert 4 < len(in_window[0]) < 32


def test_a_look_is_at_these_frames(run_file, simulated):
    output = call("inspect", run_file)
    assert re.search(r"taken: +20 of 64 frames", output)
    assert re.search(r"positions: +20 over", output)
    counts = simulated.scan.patterns[TAKEN].sum(axis=(1, 2))
    assert f"({counts.min():.4g} to {counts.max():.4g})" in output
    assert "check that they belong together" not in output
    whole = call("inspect", "scan.h5")
    assert "taken" not in whole
    assert re.search(
        r"positions: +10 over", call("inspect", "scan.h5", "--set=data.frames.stop=10")
    )


def test_a_run_file_of_a_part_is_written_by_init(run_file):
    call("init", "scan.h5", "--set=data.frames.window_px=8", "--output=part.toml")
    with open("part.toml", "rb") as file:
        assert tomllib.load(file)["data"]["frames"] == {"window_px": 8}
