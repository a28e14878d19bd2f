"""A probe of other optics is told; a true one never is, whatever the sample does to its light."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import ndimage

from ptychi_neural.engine.checks import WIDER, lit_pixels
from ptychi_neural.scans import load_scan, mean_pattern_probe, select_frames
from ptychi_neural.simulation import SimulationOptions, simulate
from small_tasks import default_options, make_task

OBJECTS = [
    {"kind": "dead_leaves"},
    {"kind": "dead_leaves", "phase_range": (-3.1, 3.1)},
    {"kind": "dead_leaves", "amplitude_range": (0.0, 1.0)},
    {"kind": "siemens_star", "amplitude_range": (0.0, 1.0)},
    {"kind": "cells"},
    {"kind": "lines"},
]
PROBES = [
    {"kind": "gaussian"},
    {"kind": "gaussian", "defocus": 0.0, "sigma_px": 3.0},
    {"kind": "zone_plate"},
    {"kind": "aperture"},
]
SCANS = [{"kind": "raster", "n_y": 6, "n_x": 6}, {"kind": "raster", "n_y": 2, "n_x": 2}]


def simulated(seed=0, photons=1e4, **kinds):
    return simulate(SimulationOptions(seed=seed, photons_per_frame=photons, **kinds)).scan


def with_pupil(probe, factor):
    """A probe whose diameter in the pupil is so many times larger, as by another pixel size."""
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=(-2, -1))), axes=(-2, -1))
    h, w = probe.shape[-2:]
    y, x = np.indices((h, w))
    where = (y - h // 2) / factor + h // 2, (x - w // 2) / factor + w // 2
    wide = np.array([[ndimage.map_coordinates(m, where, order=1) for m in modes] for modes in far])
    near = np.fft.ifft2(np.fft.ifftshift(wide, axes=(-2, -1)))
    return np.fft.fftshift(near, axes=(-2, -1)).astype(np.complex64)


def ratio(scan):
    of_probe, of_patterns = lit_pixels(make_task(default_options(0), scan).reconstructor.scan)
    return of_probe / of_patterns


@pytest.mark.parametrize("photons", [1e2, pytest.param(1e5, marks=pytest.mark.slow)])
def test_the_true_probe_is_never_wider_than_the_patterns(photons):
    of_all = []
    for seed, (object_, probe, scan) in enumerate(itertools.product(OBJECTS, PROBES, SCANS)):
        of_all.append(ratio(simulated(seed, photons, object=object_, probe=probe, scan=scan)))
    assert max(of_all) < 1.3
    assert min(of_all) > 0


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["kind"])
def test_a_pupil_of_twice_the_diameter_is_told_once(probe, caplog):
    scan = simulated(probe=probe)
    wrong = dataclasses.replace(scan, probe=with_pupil(scan.probe, 2.0))
    with caplog.at_level("WARNING", logger="ptychi_neural"):
        make_task(default_options(0), wrong)
        told = [r.getMessage() for r in caplog.records]
        assert len([m for m in told if "probe_data: its light" in m and "pixel size" in m]) == 1
        caplog.clear()
        make_task(default_options(0), scan)
        probe = mean_pattern_probe(scan.patterns, scan.valid_pixel_mask)
        make_task(default_options(0), dataclasses.replace(scan, probe=probe))
    assert not caplog.records


def test_a_background_a_mask_and_little_light_raise_no_alarm():
    scan = simulated()
    dark = np.random.default_rng(0).poisson(3, scan.patterns.shape)
    assert ratio(dataclasses.replace(scan, patterns=scan.patterns + dark)) < WIDER
    assert ratio(simulated(photons=2)) < WIDER
    stop = np.hypot(*(np.indices(scan.patterns.shape[1:]) - 15.5)) > 4
    assert ratio(dataclasses.replace(scan, valid_pixel_mask=stop)) < WIDER


@pytest.mark.parametrize("kind", ["siemens_star", "rotavirus"])
def test_the_probes_of_measured_scans_raise_no_alarm(data_folder, kind):
    scan = load_scan(data_folder / kind / "diffraction.h5")
    scan = select_frames(scan, np.arange(0, len(scan.patterns), 8))
    assert 0.1 < ratio(scan) < 1.1
    assert ratio(dataclasses.replace(scan, probe=with_pupil(scan.probe, 0.5))) < WIDER
