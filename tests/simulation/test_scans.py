"""Simulated scan positions."""

import numpy as np
import pytest

from ptychi_neural import simulation as sim


@pytest.mark.parametrize(
    "scan",
    [
        sim.Raster(n_y=4, n_x=5, step_px=3, jitter_px=1),
        sim.FermatSpiral(n=50, step_px=3),
        sim.Concentric(n_rings=4, step_px=3, n_first_ring=5),
        sim.Line(n=9, step_px=2, angle_deg=30),
    ],
)
def test_scans_are_centred(scan):
    positions = scan.build(0)
    np.testing.assert_allclose(positions.min(axis=0), -positions.max(axis=0), atol=1e-9)


def test_a_raster_is_y_first_and_x_fast():
    positions = sim.Raster(n_y=2, n_x=3, step_px=4, jitter_px=0).build(0)
    expected = [[-2, -4], [-2, 0], [-2, 4], [2, -4], [2, 0], [2, 4]]
    np.testing.assert_array_equal(positions, expected)


def test_jitter_stays_within_its_limit():
    moved = sim.Raster(n_y=30, n_x=30, step_px=4, jitter_px=1).build(0)
    moved -= sim.Raster(n_y=30, n_x=30, step_px=4, jitter_px=0).build(0)
    extent = np.ptp(moved, axis=0)
    assert ((extent > 1.9) & (extent <= 2)).all()


def test_a_fermat_spiral_gives_each_point_its_share_of_the_area():
    positions = sim.FermatSpiral(n=2000, step_px=3).build(0)
    inside = np.hypot(*positions.T) < 45
    assert inside.sum() == pytest.approx(np.pi * 45**2 / 9, rel=0.02)


def test_rings_have_equal_spacing_and_more_points_outwards():
    rings = sim.Concentric(n_rings=3, step_px=2, n_first_ring=6)
    radius = np.hypot(*rings.build(0).T)
    np.testing.assert_allclose(np.sort(radius), np.repeat([0, 2, 4, 6], [1, 6, 12, 18]), atol=1e-9)


def test_a_line_runs_from_the_x_axis_towards_the_y_axis():
    positions = sim.Line(n=3, step_px=2, angle_deg=90).build(0)
    np.testing.assert_allclose(positions, [[-2, 0], [0, 0], [2, 0]], atol=1e-12)
