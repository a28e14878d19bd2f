"""Inference from files, whole or growing."""

import dataclasses
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs import inference
from ptychi_neural.scans import (
    empty_object,
    mean_pattern_probe,
    read_product,
    write_diffraction,
    write_product,
)
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from scan_kinds import DISTANCE_M, KINDS, WAVELENGTH_M, emd
from trained_generators import FRAME, predictor_of, saved


@pytest.fixture(scope="module")
def scan():
    """36 frames of 16x16 at whole pixels."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.0)
    return simulate(SimulationOptions(seed=3, frame_shape=FRAME, scan=raster)).scan


@pytest.fixture(scope="module")
def one_shot(scan, tmp_path_factory):
    return saved(scan, tmp_path_factory.mktemp("g") / "one_shot.safetensors", lifter="log")


@pytest.fixture
def files(scan, tmp_path):
    canvas = empty_object(scan.positions_px, scan.probe.shape)
    planned = dataclasses.replace(scan, object=canvas, name="tiny")
    write_product(tmp_path / "product.h5", planned)
    write_diffraction(tmp_path / "diffraction.h5", scan.patterns)
    return tmp_path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_infer_writes_the_object_and_its_deviation(files, one_shot, scan):
    folder = files / "out"
    arguments = ["infer", one_shot, "--diffraction", files / "diffraction.h5"]
    arguments += ["--product", files / "product.h5", "--output", folder]
    assert "36 frames" in call(*arguments)
    assert {path.name for path in folder.iterdir()} == {
        "product.h5",
        "figure.png",
        "provenance.json",
    }
    product = read_product(folder / "product.h5")
    expected = predictor_of(one_shot).reconstruct(
        scan.patterns, scan.positions_px, scan.probe, product.object.shape[-2:]
    )
    np.testing.assert_allclose(product.object, expected.object, atol=1e-5)
    with h5py.File(folder / "product.h5") as file:
        np.testing.assert_allclose(file["object_std"], expected.standard_deviation, atol=1e-5)
        assert file["object_std"].shape == file["object"].shape[-2:]
    assert "exists" in call(*arguments, code=2)
    call(*arguments, "--overwrite")
    made = (folder / "product.h5").stat().st_mtime_ns
    other = ["--set", "reconstructor_options.num_epochs=3", "--overwrite"]
    assert "reconstructor_options: has no effect here" in call(*arguments, *other, code=2)
    assert (folder / "product.h5").stat().st_mtime_ns == made


WRITER = """
import os, sys, time, h5py, numpy as np
patterns, path, first_result = np.load(sys.argv[1]), *sys.argv[2:]
with h5py.File(path, "w", libver="latest") as file:
    data = file.create_dataset("dp", (0, 16, 16), patterns.dtype, maxshape=(None, 16, 16),
                               chunks=(1, 16, 16))
    file.swmr_mode = True
    file.flush()
    print("ready", flush=True)
    for first in range(0, len(patterns), 6):
        while first == 30 and not os.path.exists(first_result):
            time.sleep(0.05)
        data.resize(first + 6, axis=0)
        file.flush()
        time.sleep(0.1)  # the frames are there, and empty
        data[first:] = patterns[first:first + 6]
        file.flush()
        time.sleep(0.3)
"""


def test_infer_follows_a_growing_file(files, one_shot, scan):
    np.save(files / "patterns.npy", scan.patterns)
    growing = files / "growing.h5"
    paths = [str(path) for path in (files / "patterns.npy", growing, files / "followed")]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *paths],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout.readline() == "ready\n"
        output = call(
            *("infer", one_shot, "--diffraction", growing, "--product", files / "product.h5"),
            *("--output", files / "followed", "--follow", "--every", 0.1, "--timeout", 3),
            *("--page", 0),
        )
    assert "36 frames" in output
    assert "The scan is shown at http://127.0.0.1:" in output
    whole_folder = files / "whole"
    call(
        *("infer", one_shot, "--diffraction", files / "diffraction.h5"),
        *("--product", files / "product.h5", "--output", whole_folder),
    )
    followed = read_product(files / "followed" / "product.h5")
    np.testing.assert_array_equal(followed.object, read_product(whole_folder / "product.h5").object)
    with h5py.File(files / "followed" / "product.h5") as file:
        n_frames = file["reprojection_error"][:, 0]
    assert len(n_frames) > 1
    assert n_frames[-1] == 36


def test_a_followed_scan_is_repaired_as_a_whole_one_is(files, one_shot, scan):
    patterns = scan.patterns.astype(np.float32)
    patterns[:, 8, 9] = 100 * patterns.max()
    patterns[:, 3] = 2.0**32 - 1
    patterns[2] *= 1000
    with h5py.File(files / "spoilt.h5", "w") as file:
        file["dp"] = patterns
    common = ("infer", one_shot, "--diffraction", files / "spoilt.h5")
    common += ("--product", files / "product.h5", "--output")
    call(*common, files / "whole")
    call(*common, files / "followed", "--follow", "--every", 0.1, "--timeout", 0.3)
    whole, followed = (read_product(files / name / "product.h5") for name in ("whole", "followed"))
    assert len(whole.positions_px) == len(followed.positions_px) == 35
    np.testing.assert_array_equal(followed.object, whole.object)


def test_following_a_file_without_frames_ends_with_an_error(files, one_shot):
    with h5py.File(files / "empty.h5", "w", libver="latest") as file:
        file.create_dataset("dp", (0, 16, 16), "u2", maxshape=(None, 16, 16))
    start = time.monotonic()
    output = call(
        *("infer", one_shot, "--diffraction", files / "empty.h5", "--follow", "--timeout", 0.3),
        *("--product", files / "product.h5", "--output", files / "out"),
        code=2,
    )
    assert "no frame with a position" in output
    assert time.monotonic() - start < 20
    assert not (files / "out").exists()


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr(inference, "prediction_figure", lambda *a, **k: None)


@pytest.fixture(scope="module")
def centred(scan):
    """The same scan with a geometry, the middle of its positions at 0, 0, no object and probe."""
    positions_px = scan.positions_px - scan.positions_px.min(axis=0) - 5.0
    return dataclasses.replace(
        scan,
        positions_px=positions_px,
        object=empty_object(positions_px, scan.probe.shape),
        probe=mean_pattern_probe(scan.patterns),
        pixel_size_m=1e-8,
        wavelength_m=WAVELENGTH_M,
        detector_distance_m=DISTANCE_M,
    )


@pytest.fixture(scope="module")
def expected(centred, one_shot):
    return predictor_of(one_shot).reconstruct(
        *(centred.patterns, centred.positions_px, centred.probe, centred.object.shape[-2:])
    )


def predicted(one_shot, folder, arguments, *more):
    """The object that ``infer`` predicts for files of a folder."""
    files = [folder / name for name in arguments if not name.startswith("--")]
    keys = [argument for argument in arguments if argument.startswith("--")]
    named = [v for pair in zip(("--diffraction", "--product"), files) for v in pair]
    call("infer", one_shot, *named, *keys, *more, "--output", folder / "out", "--overwrite")
    return read_product(folder / "out" / "product.h5").object


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_scans_of_every_format_are_predicted_alike(kind, centred, expected, one_shot, tmp_path):
    if kind is emd:  # its raster has steps of 4 pixels
        spread = 2 * centred.positions_px
        centred = dataclasses.replace(
            centred, positions_px=spread, object=empty_object(spread, centred.probe.shape)
        )
        expected = predictor_of(one_shot).reconstruct(
            centred.patterns, spread, centred.probe, centred.object.shape[-2:]
        )
    found = predicted(one_shot, tmp_path, kind(tmp_path, centred))
    np.testing.assert_allclose(found, expected.object, atol=1e-4)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("more", [(), ("--follow", "--every=0.1", "--timeout=0.3")])
def test_keys_of_data_undo_how_frames_are_stored(more, centred, expected, one_shot, tmp_path):
    stored = np.zeros((36, 24, 28), np.uint16)  # transposed, off the centre, with a dark current
    stored[:, 2:18, 5:21] = np.swapaxes(centred.patterns, 1, 2)
    stored += 7
    bad = np.zeros((24, 28), np.uint8)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["group/frames"], file["group/bad"] = stored, bad
        file["group/at"] = centred.positions_px * 1e-8 * 1e6
        file["group/probe"] = centred.probe
    names = {"patterns": "frames", "mask": "bad", "y": "at", "x": "at", "probe": "probe"}
    names = ", ".join(f'{key} = "group/{name}"' for key, name in names.items())
    keys = {
        **{"datasets": f"{{ {names} }}", "crop": "[16, 16]", "center": "[10, 13]"},
        **{"transpose": "true", "background": 7, "pixel_size_m": 1e-8},
        **{"position_units": '"um"', "wavelength_m": WAVELENGTH_M},
    }
    arguments = ["scan.h5", *(f"--set=data.{key}={value}" for key, value in keys.items())]
    found = predicted(one_shot, tmp_path, arguments, *more)
    np.testing.assert_allclose(found, expected.object, atol=1e-4)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("more", [(), ("--follow", "--every=0.1", "--timeout=0.3")])
def test_some_frames_are_predicted_as_a_scan_of_their_own(more, files, scan, one_shot):
    arguments = ["diffraction.h5", "product.h5", "--set=data.frames={ start = 3, every = 2 }"]
    found = predicted(one_shot, files, arguments, *more)
    canvas = empty_object(scan.positions_px, scan.probe.shape).shape[-2:]
    expected = predictor_of(one_shot).reconstruct(
        *(scan.patterns[3::2], scan.positions_px[3::2], scan.probe, canvas)
    )
    np.testing.assert_allclose(found, expected.object, atol=1e-4)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_file_names_the_scan_and_a_near_field_stays_one(centred, one_shot, tmp_path):
    planned = dataclasses.replace(centred, free_space_propagation_distance_m=1e-3)
    write_product(tmp_path / "product.h5", planned)
    write_diffraction(tmp_path / "diffraction.h5", centred.patterns)
    (tmp_path / "run.toml").write_text('[data]\ndiffraction = "diffraction.h5"\n')
    found = predicted(one_shot, tmp_path, ["run.toml"])
    predictor = predictor_of(one_shot)
    data = predictor.options.data_options
    data.free_space_propagation_distance_m, data.wavelength_m = 1e-3, WAVELENGTH_M
    data.fft_shift = False
    predictor.options.object_options.pixel_size_m = 1e-8
    expected = predictor.reconstruct(
        *(centred.patterns, centred.positions_px, centred.probe, centred.object.shape[-2:])
    )
    np.testing.assert_allclose(found, expected.object, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("dark_counts=1", "data.dark_counts needs all frames"),
        ("saturated_counts=1e6", "data.saturated_counts needs all frames"),
        ("crop=[40, 40]", "does not lie in the stored frames"),
    ],
)
def test_what_a_followed_scan_cannot_have_is_refused(files, one_shot, key, message):
    output = call(
        *("infer", one_shot, "--diffraction", files / "diffraction.h5", "--follow"),
        *(f"--set=data.{key}", "--output", files / "out"),
        code=2,
    )
    assert message in output.replace("\n", " ")


def test_a_figure_for_which_the_disk_has_no_room_is_told_and_the_product_is_kept(
    files, one_shot, tmp_path, monkeypatch
):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference, "prediction_figure", full)
    arguments = ["infer", one_shot, "--diffraction", files / "diffraction.h5"]
    output = call(*arguments, "--output", tmp_path / "full", code=1)
    assert "Incomplete, without figure.png." in output
    assert read_product(tmp_path / "full" / "product.h5").object.any()
