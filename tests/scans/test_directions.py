"""Directions of translations in CXI files, by a simulation in coordinates of the laboratory."""

import h5py
import numpy as np
import pytest
from scipy import constants, ndimage

from ptychi_neural.runs.report_scan import report
from ptychi_neural.scans import load_scan
from ptychi_neural.scans.preparation import Preparation

SIDE, STEPS, STEP_PX = 32, 9, 4
WAVELENGTH_M, DISTANCE_M, DETECTOR_M = 1e-10, 2.0, 100e-6
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (SIDE * DETECTOR_M)


def at_beam_px():
    """(n, 2) rows (down) and columns (to the right, along the beam) that are lit on the sample."""
    rng = np.random.default_rng(0)
    raster = np.indices((STEPS, STEPS)).reshape(2, -1).T - STEPS // 2
    return STEP_PX * raster + rng.integers(-1, 2, (STEPS**2, 2))


@pytest.fixture(scope="module")
def frames():
    """(n, h, w) counts of a sample that has no symmetry, with a beam off its focus."""
    rng = np.random.default_rng(1)
    height = ndimage.gaussian_filter(rng.normal(size=(96, 96)), 1.5) / 0.19
    sample = np.exp((-0.1 - 0.6j) * height)
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    beam = np.exp(-((y - 1) ** 2 + 1.3 * x**2) / 40 + 0.03j * (y**2 + x**2))
    middle = (96 - SIDE) // 2
    lit = [
        beam * sample[middle + row : middle + row + SIDE, middle + column : middle + column + SIDE]
        for row, column in at_beam_px()
    ]
    waves = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(lit, axes=(1, 2))), axes=(1, 2))
    counts = np.abs(waves) ** 2
    return rng.poisson(3e4 * counts / counts.sum(axis=(1, 2)).mean()).astype(np.uint32)


def written(path, frames, signs=(1, 1)):
    """A CXI file of frames as they are seen along the beam; signs of x and y that it has wrong."""
    lit_m = np.zeros((len(frames), 3))  # x to the left, y up
    lit_m[:, :2] = -PIXEL_M * at_beam_px()[:, ::-1]
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        entry = file.create_group("entry_1")
        entry["data_1/data"] = frames
        entry["sample_1/geometry_1/translation"] = -lit_m * [*signs, 1]  # that of the sample
        entry["instrument_1/source_1/energy"] = constants.h * constants.c / WAVELENGTH_M
        detector = entry.create_group("instrument_1/detector_1")
        detector["distance"] = DISTANCE_M
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR_M
    return path


@pytest.mark.parametrize(
    ("signs", "keys"),
    [
        ((1, 1), {}),
        ((-1, 1), {"flip_positions_x": True}),
        ((1, -1), {"flip_positions_y": True}),
        ((-1, -1), {"flip_positions_y": True, "flip_positions_x": True}),
        ((-1, -1), {"rotate_positions_deg": 180}),
    ],
)
def test_positions_are_those_of_the_beam_along_rows_and_columns(tmp_path, frames, signs, keys):
    path = written(tmp_path / "scan.cxi", frames, signs)
    positions_px = load_scan(path, preparation=Preparation(**keys)).positions_px
    expected = at_beam_px() - (at_beam_px().max(axis=0) + at_beam_px().min(axis=0)) / 2
    np.testing.assert_allclose(positions_px, expected, atol=1e-9)


def test_positions_are_exchanged_then_flipped_then_turned():
    keys = {"transpose_positions": True, "flip_positions_y": True, "rotate_positions_deg": 90}
    y, x = Preparation(**keys).turn_of_positions @ [2.0, 3.0]
    # (2, 3) to (3, 2) to (-3, 2), which a quarter turn from x to -y brings to (-2, -3).
    np.testing.assert_allclose((y, x), (-2, -3), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signs", "best"),
    [
        ((-1, -1), {"nothing (as stored)", "flip_y = true, flip_x = true"}),
        ((-1, 1), {"flip_x = true", "flip_y = true"}),
    ],
)
def test_orientations_of_the_far_field_are_known_up_to_a_half_turn(
    tmp_path, monkeypatch, frames, signs, best
):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "scan.cxi", frames, signs)
    *_, told = "\n".join(report(path, None, None, [], orientations=True)).partition("deviance:\n")
    lines = told.splitlines()
    names, losses = zip(*((line[:48].strip(), float(line[48:58])) for line in lines[:8]))
    assert set(names[:2]) == best
    assert losses[1] < losses[2] / 10
    assert "half turn (both flips) fit alike" in lines[8]
