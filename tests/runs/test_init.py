"""Run files that ``init`` fills in from a scan."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.init_file import write_run_file
from ptychi_neural.runs.measured import load_measured, section_of
from ptychi_neural.scans import write_diffraction, write_product
from ptychi_neural.scans.shadow_images import find_shadow
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from shadow_scans import shadow_scan

PIXEL_M = 2.5e-7
NEAR = ("data.focus_object_distance_m=-0.1", "data.photon_energy_eV=1e4")


@pytest.mark.parametrize(
    ("changes", "is_transposed", "orientation"),
    [
        ((), False, {}),
        ((), True, {"transpose": True}),
        (NEAR, False, {"flip_y": True, "flip_x": True}),
    ],
)
def test_upside_down_shadows_are_turned_in_the_near_field_alone(
    tmp_path, changes, is_transposed, orientation
):
    """In the far field they are upside down on one side of the focus; frames that are turned then
    give the complex conjugate of the object."""
    frames, positions = shadow_scan(PIXEL_M)
    stored = frames[:, ::-1, ::-1]
    np.save(tmp_path / "frames.npy", stored.swapaxes(1, 2) if is_transposed else stored)
    np.savetxt(tmp_path / "positions.csv", positions, delimiter=",", header="y,x")
    changes = (f"data.pixel_size_m={PIXEL_M}", *changes)
    path, hints = write_run_file(
        tmp_path / "frames.npy", tmp_path / "positions.csv", tmp_path / "run.toml", changes
    )
    data = tomllib.loads(path.read_text())["data"]
    found = {name: data[name] for name in ("transpose", "flip_y", "flip_x") if name in data}
    assert found == orientation
    assert not any("patterns move" in hint for hint in hints)


def call(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


CONE = {"photon_energy_eV": 1e4, "detector_distance_m": 0.03, "detector_pixel_size_m": 1e-6}
"""Detector pixels of 1 um, which shadow images of 0.25 um magnify 4 times: focus at -0.01 m."""


@pytest.mark.parametrize("keys", [{}, {"bin": 2}])
def test_a_look_at_shadow_images_of_a_cone_beam_tells_the_near_field_that_init_writes(
    tmp_path, monkeypatch, keys
):
    monkeypatch.chdir(tmp_path)
    frames, positions = shadow_scan(PIXEL_M)
    np.save("frames.npy", frames)
    np.savetxt("at.csv", positions, delimiter=",", header="y,x")
    changes = [f"--set=data.{name}={value}" for name, value in (CONE | keys).items()]
    output = call("inspect", "frames.npy", "at.csv", *changes)
    facts = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    assert facts["propagation"].split(",")[0].strip() == "near field"
    size_m = float(facts["pixel size"].split()[0])
    assert size_m == pytest.approx(PIXEL_M * keys.get("bin", 1), rel=0.02)
    assert "- patterns move" not in output
    call("init", "frames.npy", "at.csv", *changes, "--output=run.toml")
    with open("run.toml", "rb") as file:
        data = tomllib.load(file)["data"]
    assert data["focus_object_distance_m"] == pytest.approx(-0.01, rel=0.03)
    assert f"focus_object_distance_m = {data['focus_object_distance_m']}" in output


def test_frames_with_the_direct_beam_at_their_corner_tell_no_near_field(tmp_path):
    """Shadow images are looked for in frames whose light is in the middle."""
    frames, positions = shadow_scan(PIXEL_M)
    y, x = np.indices((48, 48)) - 24
    frames = np.random.default_rng(0).poisson(frames * np.exp(-(y**2 + x**2) / 300))
    np.save(tmp_path / "frames.npy", np.fft.ifftshift(frames, axes=(1, 2)))
    np.save(tmp_path / "at.npy", positions)
    files = tmp_path / "frames.npy", tmp_path / "at.npy"
    cone = [f"data.{name}={value}" for name, value in CONE.items()]
    path, hints = write_run_file(*files, tmp_path / "a.toml", cone)
    assert "focus_object_distance_m" not in tomllib.loads(path.read_text())["data"]
    assert any("dc_at_corner = true" in hint for hint in hints)
    path, hints = write_run_file(*files, tmp_path / "b.toml", [*cone, "data.dc_at_corner=true"])
    focus_m = tomllib.loads(path.read_text())["data"]["focus_object_distance_m"]
    assert focus_m == pytest.approx(-0.01, rel=0.03)
    assert not any("dc_at_corner" in hint for hint in hints)


@pytest.mark.parametrize("unit", ["m", "um", "px"])
def test_a_far_field_beam_out_of_focus_stays_in_the_far_field(tmp_path, unit):
    """Its patterns are shadow images, too, but the beam fits the field of view."""
    raster = Raster(n_y=12, n_x=12)
    scan = simulate(SimulationOptions(seed=4, frame_shape=(32, 32), scan=raster)).scan
    frames = scan.patterns.astype(np.uint32)
    assert find_shadow(frames, None, scan.positions_px) is not None
    scale = {"m": scan.pixel_size_m, "um": 1e6 * scan.pixel_size_m, "px": 1.0}[unit]
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "at.npy", scan.positions_px * scale)
    detector_m = scan.wavelength_m * scan.detector_distance_m / (32 * scan.pixel_size_m)
    geometry = {
        "wavelength_m": scan.wavelength_m,
        "detector_distance_m": scan.detector_distance_m,
        "detector_pixel_size_m": detector_m,
        "position_units": f'"{unit}"',
    }
    changes = [f"data.{name}={value}" for name, value in geometry.items()]
    path, hints = write_run_file(
        tmp_path / "frames.npy", tmp_path / "at.npy", tmp_path / "run.toml", changes
    )
    assert hints == []
    data = tomllib.loads(path.read_text())["data"]
    assert set(data) == {"folder", "diffraction", "product", *geometry}


@pytest.mark.parametrize("unit", ["um", "px"])
def test_the_near_field_is_found_in_any_unit_of_positions(tmp_path, unit):
    frames, positions = shadow_scan(PIXEL_M)
    np.save(tmp_path / "frames.npy", frames)
    keys = CONE | {"position_units": f'"{unit}"'}
    if unit == "px":
        keys["pixel_size_m"] = PIXEL_M / 2
    np.save(tmp_path / "at.npy", positions * 1e6 if unit == "um" else 2 * positions / PIXEL_M)
    path, _ = write_run_file(
        *(tmp_path / "frames.npy", tmp_path / "at.npy", tmp_path / "run.toml"),
        [f"data.{name}={value}" for name, value in keys.items()],
    )
    data = tomllib.loads(path.read_text())["data"]
    assert data["focus_object_distance_m"] == pytest.approx(-0.01, rel=0.03)


@pytest.mark.parametrize(
    ("side", "bin", "crop"),
    [(33, 1, [32, 32]), (36, 2, None), (38, 2, [36, 36]), (32, 5, [30, 30])],
)
def test_binned_sides_are_even(tmp_path, monkeypatch, side, bin, crop):
    monkeypatch.chdir(tmp_path)
    np.save("frames.npy", np.random.default_rng(0).poisson(30.0, (9, side, side)))
    np.savetxt("at.csv", np.random.default_rng(1).random((9, 2)) * 1e-7, delimiter=",")
    keys = [f"--set=data.bin={bin}", "--set=data.pixel_size_m=1e-8"]
    call("init", "frames.npy", "at.csv", *keys, "--output=run.toml")
    text = (tmp_path / "run.toml").read_text()
    assert tomllib.loads(text)["data"].get("crop") == crop
    assert ("sides have to be even" in text) == (crop is not None)
    scan, _ = load_measured(section_of(tmp_path / "run.toml", None, []))
    assert scan.patterns.shape[1] % 2 == 0


def test_odd_sides_after_binning_are_told_with_a_crop_in_stored_pixels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("frames.npy", np.random.default_rng(0).poisson(30.0, (9, 40, 40)))
    np.savetxt("at.csv", np.random.default_rng(1).random((9, 2)) * 1e-7, delimiter=",")
    (tmp_path / "run.toml").write_text(
        '[data]\ndiffraction = "frames.npy"\nproduct = "at.csv"\n'
        "pixel_size_m = 1e-8\nbin = 2\ncrop = [38, 38]\n"
    )
    assert "odd sides after bin = 2" in (output := call("inspect", "run.toml"))
    assert "set crop = [36, 36]" in output


@pytest.mark.parametrize(("path", "output"), [("new.yaml", None), ("scan.h5", "scan.yml")])
def test_run_files_are_written_as_toml(path, output):
    output = None if output is None else Path(output)
    with pytest.raises(ValueError, match=r"written as TOML; let the name end with \.toml"):
        write_run_file(Path(path), None, output, [])


def test_a_run_has_the_name_of_its_scan(tmp_path, monkeypatch, simulated):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "S012"
    folder.mkdir()
    write_diffraction(folder / "diffraction.h5", simulated.scan.patterns)
    write_product(folder / "product.h5", simulated.scan)
    assert "S012.toml" in call("init", "S012/diffraction.h5")
    assert (tmp_path / "S012.toml").exists()
    monkeypatch.chdir(folder)
    call("init", "diffraction.h5")
    assert (folder / "S012.toml").exists()
