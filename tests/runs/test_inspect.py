"""A look at a scan: likely mistakes are named, and nothing is said of a good one."""

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs import report_scan
from ptychi_neural.runs.configuration import RunFileError, read_keys
from ptychi_neural.runs.run_file import run_of
from ptychi_neural.runs.schema import run_file_schema
from ptychi_neural.runs.suspicions import is_unjittered_raster
from ptychi_neural.scans import select_frames, write_diffraction, write_product, write_scan

the_schema = cache(run_file_schema)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(*arguments, code=0):
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def suspicions(output):
    return [line for line in output.splitlines() if line.startswith("- ")]


def test_nothing_is_suspicious_of_a_good_scan(folder, simulated):
    write_scan(folder / "scan.h5", simulated.scan)
    output = told("scan.h5")
    assert suspicions(output) == []
    assert "(64, 16, 16)" in output
    assert (folder / "scan-inspect.png").stat().st_size > 10_000
    (folder / "S012").mkdir()
    (folder / "scan.h5").rename(folder / "S012" / "diffraction.h5")
    told("S012/diffraction.h5")
    assert (folder / "S012-inspect.png").exists()
    told("S012/diffraction.h5", "--figure", "other.pdf")
    assert (folder / "other.pdf").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.toml", '[data]\ndiffraction = "scan.h5"'),
        ("run.yaml", "data:\n  diffraction: scan.h5"),
        ("run.json", '{"data": {"diffraction": "scan.h5"}}'),
    ],
)
def test_run_files_of_each_language_are_looked_at(folder, simulated, name, text):
    write_scan(folder / "scan.h5", simulated.scan)
    (folder / name).write_text(text)
    assert "(64, 16, 16)" in told(name)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("nothing", "the energy is missing: set photon_energy_eV"),
        ("micrometres", 'position_units = "um"'),
        ("far apart", "overlap"),
        ("raster", "raster without jitter"),
        ("corner", "dc_at_corner = true"),
        ("elsewhere", "centre of the light is at row"),
        ("amplitudes", "not whole numbers"),
        ("line", "no area is spanned by 64 positions"),
    ],
)
def test_mistakes_are_named(folder, simulated, mistake, message):
    scan = simulated.scan
    patterns, positions_m = scan.patterns, scan.positions_px * 1e-8
    if mistake == "micrometres":
        positions_m = positions_m * 1e6
    elif mistake == "far apart":
        positions_m = positions_m * 4
    elif mistake == "raster":
        positions_m = np.indices((8, 8)).reshape(2, -1).T * 2e-8
    elif mistake == "line":
        positions_m = positions_m * [0, 1]
    elif mistake == "corner":
        patterns = np.fft.ifftshift(patterns, axes=(1, 2))
    elif mistake == "elsewhere":
        patterns = np.roll(patterns, (2, 3), axis=(1, 2))
    elif mistake == "amplitudes":
        patterns = np.sqrt(patterns).astype(np.float32)
    with h5py.File(folder / "a.h5", "w") as file:
        file["dp"], (file["v"], file["h"]) = patterns, positions_m.T
    names = "--set=data.datasets={ y = 'v', x = 'h' }"
    output = told("a.h5", names, "--set=data.pixel_size_m=1e-8")
    assert message in output.replace("\n", " ")


def test_the_picture_shows_frames_and_mask_as_they_are_used(folder, simulated, monkeypatch):
    drawn = {}

    def draw(path, *frames, **others):
        drawn.update(zip(("patterns", "valid"), frames))
        drawn.update(others)

    monkeypatch.setattr(report_scan, "inspection_figure", draw)
    scan, bad = simulated.scan, np.zeros((16, 16), bool)
    bad[3, 12] = True
    with h5py.File(folder / "a.h5", "w") as file:
        file["dp"] = np.fft.ifftshift(scan.patterns, axes=(1, 2)).swapaxes(1, 2)
        file["bad_pixels"] = np.fft.ifftshift(bad).T
        file["v"], file["h"] = scan.positions_px.T * 1e-8
    keys = ["datasets={ y = 'v', x = 'h' }", "pixel_size_m=1e-8", "dc_at_corner=true"]
    told("a.h5", *(f"--set=data.{key}" for key in (*keys, "transpose=true")))
    np.testing.assert_array_equal(drawn["patterns"], scan.patterns)
    np.testing.assert_array_equal(drawn["valid"], ~bad)
    assert not drawn["is_probe_known"]


def test_counts_are_those_without_gap_markers_and_background(folder, simulated):
    patterns = simulated.scan.patterns.astype(np.uint32) + 2
    patterns[:, 0] = 2**32 - 1
    write_product(folder / "product.h5", simulated.scan)
    write_diffraction(folder / "diffraction.h5", patterns)
    output = told("diffraction.h5", "--set=data.background=1.5")
    counts = (simulated.scan.patterns[:, 1:] + 0.5).sum(axis=(1, 2))
    assert f"{counts.mean():.4g} ({counts.min():.4g} to {counts.max():.4g})" in output
    assert "not whole numbers" not in output


@pytest.mark.parametrize(("kept", "n_told"), [(slice(0, 40), 1), (slice(None, None, 2), 0)])
def test_fewer_positions_than_frames_are_told_unless_their_numbers_tell_why(
    folder, simulated, kept, n_told
):
    write_diffraction(folder / "diffraction.h5", simulated.scan.patterns)
    write_product(folder / "product.h5", select_frames(simulated.scan, kept))
    found = [line for line in suspicions(told("diffraction.h5")) if "for 64 frames" in line]
    assert len(found) == n_told


def test_what_keeps_a_scan_from_being_reconstructed_is_told(folder, simulated):
    np.save(folder / "a.npy", simulated.scan.patterns)
    assert "It cannot be reconstructed yet" in told("a.npy")
    assert "nothing.h5" in told("nothing.h5", code=2)


def test_what_no_file_tells_is_not_reckoned_with(folder, simulated):
    y_px, x_px = simulated.scan.positions_px.T
    np.savez("a.npz", diff3d=simulated.scan.patterns, ycoords=4 * y_px, xcoords=4 * x_px)
    output = told("a.npz")
    assert "unknown without a probe" in output  # the guessed one's focus is narrower than a beam
    assert "do not overlap" not in output
    assert "the pixel size of the object is missing" in output
    assert not re.search(r"\bum\b", output)


def test_a_product_alone_is_told_too(folder, simulated):
    write_product(folder / "product.h5", simulated.scan)
    assert "overlap" in told("product.h5")
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("results", "name the file of patterns"),
        ("train.toml", "which ptychi-neural train takes"),
        ("state.safetensors", "holds no generator"),
        ("none.safetensors", "does not exist"),
    ],
)
def test_what_is_no_scan_is_told_with_what_takes_it(folder, path, message):
    (folder / "results").mkdir()
    (folder / "train.toml").write_text("[[scans]]\nsimulation = {}\n", encoding="utf-8")
    save_file({"a": np.ones(1)}, folder / "state.safetensors", metadata={"ptychi_neural": "{}"})
    done = CliRunner().invoke(app, ["inspect", path])
    assert done.exit_code == 2
    assert message in done.output


def test_generators_and_trainings_are_told(folder):
    (folder / "training").mkdir()
    (folder / "training" / "provenance.json").write_text('{"seed": 7, "epochs": 4}')
    assert re.search(r"seed: +7\n", told("training"))
    description = {
        "generator": {"architecture": "cnn", "width": 8},
        **{"patch_shape": [32, 16], "n_slices": 1, "loss_function": "poisson"},
        "scans": [{"pixel_size_m": size_m} for size_m in (1e-8, 2e-8, 1.0)],
    }
    metadata = {"ptychi_neural": json.dumps(description)}
    save_file({"a": np.ones(1)}, folder / "generator.safetensors", metadata=metadata)
    output = told("generator.safetensors")
    assert re.search(r"architecture: +cnn\n", output)
    assert "3 scans of pixel size 1e-08 m, 2e-08 m, unknown" in output
    assert "(32, 16) pixels" in output


def test_changes_without_effect_and_files_that_are_no_run_files_are_refused(folder, simulated):
    write_product(folder / "product.h5", simulated.scan)
    write_diffraction(folder / "diffraction.h5", simulated.scan.patterns)
    change = ["--set", "probe_options.optimizable=true"]
    for command in ("inspect", "init"):
        done = CliRunner().invoke(app, [command, "diffraction.h5", *change])
        assert done.exit_code == 2
        assert "probe_options: has no effect here: --set takes keys of [data]" in done.output
    with pytest.raises(RunFileError, match="init writes a run file"):
        read_keys(folder / "diffraction.h5")


def test_turned_and_jittered_rasters_are_told_apart():
    raster = np.indices((7, 9)).reshape(2, -1).T * 3.0
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    rng = np.random.default_rng(0)
    assert is_unjittered_raster(raster @ turn)
    assert not is_unjittered_raster((raster + rng.normal(0, 0.3, raster.shape)) @ turn)


@pytest.mark.slow
def test_the_orientation_of_a_measured_near_field_scan_wins(data_folder):
    from ptychi_neural.runs.orientations import rank_orientations

    path = data_folder / "near_field" / "PETRAIII_P25_Near_Field_Ptycho.cxi"
    turned = ["data.focus_object_distance_m=-3.65e-3"]
    ranked = rank_orientations(run_of(path, None, turned))
    assert ranked[0][:3] == (False, False, False)
    assert ranked[1].loss > 10


WITHOUT_TORCH = """
import sys
from ptychi_neural.cli import app
assert not app(standalone_mode=False)
assert not {"torch", "ptychi", "pandas"} & sys.modules.keys()
"""


def test_a_look_at_a_file_and_a_run_file_for_it_import_no_engine(folder, simulated):
    write_scan(folder / "scan.cxi", simulated.scan, format="cxi")
    for command in ("inspect", "init"):
        code = f"import sys; sys.argv = ['ptychi-neural', '{command}', 'scan.cxi']" + WITHOUT_TORCH
        subprocess.run([sys.executable, "-c", code], check=True)
    assert (folder / "scan-inspect.png").exists()
    assert (folder / "scan.toml").exists()


def test_the_module_imports_no_engine_either(folder, simulated):
    write_scan(folder / "scan.cxi", simulated.scan, format="cxi")
    command = [sys.executable, "-X", "importtime", "-m", "ptychi_neural", "inspect", "scan.cxi"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    modules = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert "numpy" in modules
    assert not {"torch", "ptychi", "pandas", "scipy.stats"} & modules


USED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""  # Linux counts to a process what the one that started it had taken: this one takes little.


@pytest.mark.slow
@pytest.mark.parametrize("side", [128, 512])
def test_a_large_file_is_looked_at_quickly_and_in_little_memory(side, folder, simulated):
    scan = simulated.scan
    n = 2**30 // (2 * side**2)
    frame = np.zeros((side, side), np.uint16)
    middle = slice(side // 2 - 8, side // 2 + 8)
    frame[middle, middle] = scan.patterns[0]
    with h5py.File(folder / "large.h5", "w") as file:
        data = file.create_dataset("dp", (n, side, side), np.uint16)
        for start in range(0, n, 1024):
            data[start : start + 1024] = frame
        steps = np.random.default_rng(0).random((2, n)) * 1e-5
        file["y"], file["x"] = steps
    command = [sys.executable, "-m", "ptychi_neural", "inspect", "large.h5"]
    names = ["--set=data.datasets={ y = 'y', x = 'x' }", "--set=data.pixel_size_m=1e-8"]
    asked = subprocess.run(
        [sys.executable, "-c", USED, *command, *names],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, kibibytes = asked.stdout.splitlines()[-1].split()
    assert float(seconds) < 20  # 6 on an idle machine
    assert float(kibibytes) < 2 * 2**20


class TestSchema:
    def validate(self, contents):
        jsonschema = pytest.importorskip("jsonschema")
        schema = the_schema()
        errors = jsonschema.Draft202012Validator(schema).iter_errors(contents)
        return [error.json_path for error in errors]

    @pytest.mark.parametrize("name", ["simulated.toml", "siemens_star.toml", "one_shot_lsqml.toml"])
    def test_run_files_of_the_package_are_valid(self, name):
        assert self.validate(tomllib.loads((CONFIGS / name).read_text())) == []

    @pytest.mark.parametrize(
        ("group", "key", "value"),
        [
            ("data", "crop", [3]),
            ("data", "probe", {"semi_angle_rad": 0.1}),
            ("data", "typo", 1),
            ("reconstructor_options", "num_epochs", "three"),
            ("probe_options", "optimisable", True),
        ],
    )
    def test_mistakes_are_found(self, group, key, value):
        run = {"data": {"diffraction": "a.h5"}}
        assert self.validate(run) == []
        run[group] = run.get(group, {}) | {key: value}
        (place,) = self.validate(run)  # An editor marks the key, or the group of an unknown one.
        is_unknown = key in ("typo", "optimisable")
        assert place == (f"$.{group}" if is_unknown else f"$.{group}.{key}")

    def test_the_command_prints_it(self):
        done = CliRunner().invoke(app, ["schema"])
        assert json.loads(done.output)["title"] == "Run file of ptychi-neural"
