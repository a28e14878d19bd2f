"""Coarse phase that the first moments of the patterns tell of."""

import numpy as np
import torch
from ptychi.api.task import PtychographyTask

import ptychi_neural.api as napi
from ptychi_neural.projections.first_moments import FirstMoments


def on_raster(object_of, n=13, step=4, size=24):
    """The physics of patterns on a raster, starting from an empty object, and the true object.

    It is in double precision, with a defocused probe; ``object_of`` gives the object at (y, x)
    relative to the side of the canvas.
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    probe = np.exp(-(x**2 + y**2) / 40) * np.exp(0.03j * (x**2 + y**2))
    side = (n - 1) * step + size + 4
    corners = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    corners = corners * step + 2
    row, column = np.mgrid[:side, :side]
    object_ = object_of(row / side, column / side)
    waves = np.stack([probe * object_[i : i + size, j : j + size] for i, j in corners])
    options = napi.NeuralPtychographyOptions()
    reconstructor = options.reconstructor_options
    reconstructor.default_dtype = "float64"
    reconstructor.default_device = "cpu"
    reconstructor.validation.held_out = 0
    options.probe_options.optimizable = False
    where = corners - corners.mean(axis=0)
    task = PtychographyTask(
        options,
        diffraction_data=np.fft.fftshift(np.abs(np.fft.fft2(waves)) ** 2, axes=(1, 2)),
        object_data=np.ones((1, side, side), dtype=complex),
        probe_data=probe[None, None],
        probe_position_x_px=where[:, 1],
        probe_position_y_px=where[:, 0],
    )
    return task.reconstructor.scan, object_


def moments_of_a_flat_object(scan):
    moments = FirstMoments(scan)
    correction = scan.correction(scan.frames, scan.start_patches(scan.frames))
    measured = scan.model.measured(scan.frames)
    moments.accumulate(correction, measured, scan.frames)
    lacking = moments.lacking(scan.frames)
    return moments, lacking.detach(), scan.illumination(correction, scan.frames)


def test_moments_tell_the_slope_of_the_phase():
    scan, _ = on_raster(lambda y, x: np.exp(1j * (9 * y - 5 * x)))
    _, lacking, illumination = moments_of_a_flat_object(scan)
    side = len(illumination)
    bright = illumination > 0.5 * illumination.max()
    slope = (lacking[0] / illumination)[bright]
    torch.testing.assert_close(slope.real, torch.full_like(slope.real, 9 / side), rtol=1e-2, atol=0)
    torch.testing.assert_close(
        slope.imag, torch.full_like(slope.real, -5 / side), rtol=1e-2, atol=0
    )


def test_coarse_phase_is_found_from_the_moments():
    scan, object_ = on_raster(lambda y, x: np.exp(0.5j * np.cos(6 * y) * np.sin(5 * x + 1)))
    moments, lacking, illumination = moments_of_a_flat_object(scan)
    bright = (illumination > 0.5 * illumination.max()).numpy()
    found = moments.phase(lacking, illumination).detach().numpy()[bright]
    true = np.angle(object_)[bright]
    assert np.corrcoef(found, true)[0, 1] > 0.97
    slope = np.polyfit(true, found, 1)[0]
    start = scan.options.start
    at_most = start.moment_step / (1 + start.moment_floor)
    assert 0.5 < slope / at_most < 1  # less towards the rim


def test_moments_of_pixels_that_may_not_be_seen_count_as_predicted():
    scan, _ = on_raster(lambda y, x: np.exp(9j * y))
    _, whole, _ = moments_of_a_flat_object(scan)
    scan.model.dataset.valid_pixel_mask = torch.zeros_like(scan.model.dataset.valid_pixel_mask)
    _, blind, _ = moments_of_a_flat_object(scan)
    assert blind.abs().max() < 1e-9 * whole.abs().max()
