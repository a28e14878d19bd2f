"""Prediction in several processes, each of which has the patterns of its own frames."""

import numpy as np
import pytest

from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from several_ranks import errors_on_ranks, on_ranks
from trained_generators import FRAME, options_of, predictor_of, saved


@pytest.fixture(scope="module")
def scan():
    """36 frames of 16x16."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.5)
    return simulate(SimulationOptions(seed=4, frame_shape=FRAME, scan=raster)).scan


def predicted(path, scan):
    found = predictor_of(path).reconstruct(
        scan.patterns, scan.positions_px, scan.probe, scan.object.shape[-2:]
    )
    names = ("object", "weight", "reprojection_error", "probe", "standard_deviation")
    return {name: getattr(found, name) for name in names}


@pytest.mark.parametrize("architecture", ["hybrid_uno", "unrolled"])
def test_three_processes_predict_the_same_bits_frame_by_frame(scan, architecture, tmp_path):
    path = saved(scan, tmp_path / "generator.safetensors", architecture=architecture)
    alone = predicted(path, scan)
    for found in on_ranks(3, predicted, path, scan):
        for name, expected in alone.items():
            np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_two_processes_predict_after_an_initial_reconstruction_as_one(scan, tmp_path):
    options = options_of(architecture="unrolled")
    options.reconstructor_options.start.n_iterations = 10
    path = saved(scan, tmp_path / "generator.safetensors", options=options)
    alone = predicted(path, scan)
    for found in on_ranks(2, predicted, path, scan):
        for name, expected in alone.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-4, rtol=1e-3, err_msg=name)


def streamed(path, scan):
    predictor_of(path).stream(scan.probe, scan.object.shape[-2:])


def test_a_stream_in_several_processes_is_refused(scan, tmp_path):
    path = saved(scan, tmp_path / "generator.safetensors")

    def stream():
        predicted(path, scan)  # joins the other processes
        streamed(path, scan)

    for error in errors_on_ranks(2, stream):
        assert "stream: runs in one process" in str(error)
