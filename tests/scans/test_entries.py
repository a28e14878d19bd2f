"""Files of several measurements: all that is read comes from one of them."""

import dataclasses
import warnings

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.scans import load_scan, read_product, write_scan
from ptychi_neural.scans.preparation import Frames, Preparation

FACTOR = {"entry_1": 1.0, "entry_2": 2.0, "entry_10": 3.0}
"""Wavelengths of the entries, by that of the first."""


@pytest.fixture
def scans(simulated):
    """A scan for each entry: other frames, positions, wavelength, probe, mask."""
    scan, found = simulated().scan(), {}
    for i, (name, factor) in enumerate(FACTOR.items()):
        valid = np.ones(scan.patterns.shape[1:], bool)
        valid[i, 3] = False
        some = slice(10 * i, 10 * i + 60)
        found[name] = dataclasses.replace(
            scan,
            patterns=scan.patterns[some],
            positions_px=scan.positions_px[some] + i,
            wavelength_m=factor * scan.wavelength_m,
            pixel_size_m=factor * scan.pixel_size_m,
            probe=(1 + i) * scan.probe,
            valid_pixel_mask=valid,
        )
    return found


@pytest.fixture
def path(scans, tmp_path):
    target = tmp_path / "scans.cxi"
    with h5py.File(target, "w") as file:
        for name, scan in scans.items():
            write_scan(tmp_path / f"{name}.cxi", scan, "cxi")
            with h5py.File(tmp_path / f"{name}.cxi") as source:
                source.copy("entry_1", file, name=name)
            for link in ("data_1/data", "data_1/translation"):  # written for entry_1
                del file[name][link]
            file[name]["data_1/data"] = h5py.SoftLink(f"/{name}/instrument_1/detector_1/data")
    return target


def assert_same(found, scan):
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_array_equal(found.valid_pixel_mask, scan.valid_pixel_mask)
    np.testing.assert_allclose(found.positions_px, scan.positions_px, atol=1e-6)
    np.testing.assert_array_equal(found.probe, scan.probe)
    assert found.wavelength_m == pytest.approx(scan.wavelength_m, rel=1e-9)
    assert found.pixel_size_m == pytest.approx(scan.pixel_size_m, rel=1e-9)


@pytest.mark.parametrize("entry", FACTOR)
def test_an_entry_is_read_with_all_that_belongs_to_it(entry, path, scans):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_scan(path, preparation=Preparation(entry=entry)), scans[entry])


def test_a_dataset_that_is_named_tells_the_entry(path, scans):
    scan = load_scan(path, datasets={"patterns": "entry_10/data_1/data"})
    assert_same(scan, scans["entry_10"])


def test_the_first_entry_is_read_where_none_is_chosen(path, scans):
    with pytest.warns(
        UserWarning, match=r"entry_1 is read, and not entry_2, entry_10; data\.entry"
    ):
        assert_same(load_scan(path), scans["entry_1"])


def test_nothing_is_taken_from_another_entry(path):
    with h5py.File(path, "a") as file:
        del file["entry_1/sample_1"], file["entry_1/image_1"]
    with pytest.raises(ValueError, match="has no positions"):
        read_product(path)


def test_an_entry_that_is_not_there_is_told_with_those_that_are(path, tmp_path):
    with pytest.raises(ValueError, match=r"no entry 'entry_3' .* entry_1, entry_2, entry_10"):
        load_scan(path, preparation=Preparation(entry="entry_3"))
    np.save(tmp_path / "patterns.npy", np.ones((3, 8, 8)))
    with pytest.raises(ValueError, match=r"leave out data\.entry"):
        load_scan(tmp_path / "patterns.npy", preparation=Preparation(entry="entry_1"))


def test_entries_of_raw_data_beside_that_of_cxi_are_not_read(path, scans):
    with h5py.File(path, "a") as file:
        del file["entry_2"], file["entry_10"]
        file["entry/data/data"] = np.ones((5, 4, 4))
        file["entry/instrument/detector/pixel_mask"] = np.ones((32, 32), np.uint32)
    with pytest.warns(UserWarning, match="entry_1 is read, and not entry;"):
        assert_same(load_scan(path), scans["entry_1"])


def test_two_names_of_one_entry_are_no_two_scans(path):
    with h5py.File(path, "a") as file:
        del file["entry_2"], file["entry_10"]
        file["entry"] = h5py.SoftLink("/entry_1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_scan(path)


def test_nexus_files_have_entries_too(scans, tmp_path):
    with h5py.File(tmp_path / "scans.nxs", "w") as file:
        for i, scan in enumerate(scans.values()):
            file[f"entry{i}/data/data"] = scan.patterns
            beam = file.create_group(f"entry{i}/instrument/beam")
            beam["incident_wavelength"] = scan.wavelength_m
            detector = file.create_group(f"entry{i}/instrument/detector")
            detector["distance"] = scan.detector_distance_m
            detector["x_pixel_size"] = scan.wavelength_m * 2.0 / (32 * scan.pixel_size_m)
            detector["pixel_mask"] = (~scan.valid_pixel_mask).astype(np.uint32)
    scan = scans["entry_2"]
    np.save(tmp_path / "at.npy", scan.positions_px * scan.pixel_size_m)
    keys = Preparation(entry="entry1")
    found = load_scan(tmp_path / "scans.nxs", tmp_path / "at.npy", preparation=keys)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_array_equal(found.valid_pixel_mask, scan.valid_pixel_mask)
    assert found.pixel_size_m == pytest.approx(scan.pixel_size_m, rel=1e-9)


def test_init_writes_the_entry_that_is_chosen(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["init", str(path), "--set", "data.entry=entry_2", "--output", "run.toml"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert read_run_file(tmp_path / "run.toml").data.entry == "entry_2"
    assert "2.8e-10 m" in (tmp_path / "run.toml").read_text()


@pytest.mark.parametrize("frames", [None, slice(7, 43), slice(5, 90, 17)])
def test_frames_along_the_axes_of_a_raster_are_those_of_a_stack(frames, scans, tmp_path):
    """NXcxi_ptycho stores the frames of a raster so."""
    scan = dataclasses.replace(scans["entry_1"], name="a")
    write_scan(tmp_path / "a.cxi", scan, "cxi")
    with h5py.File(tmp_path / "a.cxi", "a") as file:
        moves = file["entry_1/sample_1/geometry_1/translation"][()]
        for name, array in (
            ("instrument_1/detector_1/data", scan.patterns.reshape(6, 10, 32, 32)),
            ("sample_1/geometry_1/translation", moves.reshape(6, 10, 3)),
        ):
            del file[f"entry_1/{name}"]
            file[f"entry_1/{name}"] = array
    found = load_scan(tmp_path / "a.cxi", frames=frames)
    rows = frames or slice(None)
    np.testing.assert_array_equal(found.patterns, scan.patterns[rows])
    np.testing.assert_allclose(found.positions_px, scan.positions_px[rows], atol=1e-6)
    some = Preparation(frames=Frames(start=3, stop=29))
    found = load_scan(tmp_path / "a.cxi", preparation=some)
    np.testing.assert_array_equal(found.patterns, scan.patterns[3:29])


def test_named_arrays_along_the_axes_of_a_raster_are_read_row_by_row(scans, tmp_path):
    scan = scans["entry_1"]
    y, x = (scan.positions_px.T * scan.pixel_size_m).reshape(2, 6, 10)
    arrays = {"frames": scan.patterns.reshape(6, 10, 32, 32), "y": y, "x": x}
    np.savez(tmp_path / "a.npz", **arrays)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.update(arrays)
    for name in ("a.npz", "a.h5"):
        datasets = {"patterns": "frames", "y": "y", "x": "x"}
        found = load_scan(tmp_path / name, datasets=datasets, pixel_size_m=scan.pixel_size_m)
        np.testing.assert_array_equal(found.patterns, scan.patterns)
        moved = np.diff(found.positions_px, axis=0) - np.diff(scan.positions_px, axis=0)
        assert np.abs(moved).max() < 1e-6


def test_stacks_of_a_master_follow_each_other_by_their_numbers(scans, tmp_path):
    scan = scans["entry_1"]
    with h5py.File(tmp_path / "a_master.h5", "w") as file:
        for i, part in enumerate(np.array_split(scan.patterns, 12)):
            file[f"entry/data/data_{i + 1}"] = part  # data_10 comes after data_9
    np.save(tmp_path / "at.npy", scan.positions_px * scan.pixel_size_m)
    found = load_scan(tmp_path / "a_master.h5", tmp_path / "at.npy", pixel_size_m=1e-8)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
