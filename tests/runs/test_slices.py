"""Slices of thick objects: those of a file, and those that a run file asks for."""

import numpy as np
import pytest

from ptychi_neural.runs.measured import load_measured, section_of
from ptychi_neural.runs.orientations import rank_orientations
from ptychi_neural.runs.run_file import RunFileError, run_of
from ptychi_neural.scans import write_diffraction, write_product
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


@pytest.fixture(params=[1, 3])
def simulated(request, tmp_path):
    """A scan of an object of one slice, or of three at 20 um, in files."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0)
    options = SimulationOptions(
        n_slices=request.param, slice_spacing_m=2e-5, frame_shape=(16, 16), scan=raster
    )
    simulated = simulate(options)
    write_diffraction(tmp_path / "diffraction.h5", simulated.scan.patterns)
    write_product(tmp_path / "product.h5", simulated.truth)
    return simulated.truth


def loaded(tmp_path, *changes):
    path = tmp_path / "diffraction.h5"
    return load_measured(section_of(path, None, [f"data.{change}" for change in changes]))[0]


def test_a_run_file_asks_for_slices(simulated, tmp_path):
    scan = loaded(tmp_path, "n_slices=2", "slice_spacing_m=1e-5")
    assert scan.object.shape == (2, *simulated.object.shape[1:])
    np.testing.assert_allclose(scan.object[0], simulated.object.prod(axis=0))
    assert (scan.object[1] == 1).all()
    np.testing.assert_array_equal(scan.slice_spacings_m, [1e-5])
    scan = loaded(tmp_path, "n_slices=1")
    np.testing.assert_allclose(scan.object, simulated.object.prod(axis=0)[None])
    assert scan.slice_spacings_m is None


def test_slices_of_the_file_stay_where_nothing_else_is_asked_for(simulated, tmp_path):
    n_slices = len(simulated.object)
    scan = loaded(tmp_path)
    np.testing.assert_array_equal(scan.object, simulated.object)
    if n_slices == 1:
        with pytest.raises(ValueError, match=r"slice_spacing_m.*one slice; set data\.n_slices"):
            loaded(tmp_path, "slice_spacing_m=1e-5")
    else:
        scan = loaded(tmp_path, "slice_spacing_m=1e-5")
        np.testing.assert_array_equal(scan.object, simulated.object)
        np.testing.assert_array_equal(scan.slice_spacings_m, [1e-5, 1e-5])


def test_slices_without_a_distance_or_beyond_memory_are_refused(simulated, tmp_path):
    with pytest.raises(RunFileError, match=r"data\.n_slices = 2: give slice_spacing_m"):
        loaded(tmp_path, "n_slices=2")
    with pytest.raises(ValueError, match=r"data\.n_slices: .*take a few"):
        loaded(tmp_path, "n_slices=1000000000", "slice_spacing_m=1e-5")


def test_an_object_on_another_grid_keeps_its_number_of_slices(simulated, tmp_path):
    n_slices = len(simulated.object)
    for change in ("crop=[12, 12]", "bin=2", "flip_positions_x=true"):
        scan = loaded(tmp_path, change)
        assert len(scan.object) == n_slices
        assert (scan.object == 1).all()
    run = run_of(tmp_path / "diffraction.h5", None, [])
    best, *_ = rank_orientations(run, n_iterations=2)
    assert np.isfinite(best.deviance)
