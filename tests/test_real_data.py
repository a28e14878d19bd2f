"""The neural engine on measured patterns."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from ptychi.utils import orthogonalize_initial_probe

from ptychi_neural.evaluation import align, contrast, phase_correlation, scanned_area
from ptychi_neural.io import load_scan, select_frames
from ptychi_neural.io.run_file import read_run_file
from ptychi_neural.workflows import build_task

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
N_FRAMES = 160


@pytest.mark.slow
def test_the_siemens_star_is_found_from_an_analytic_probe_and_the_network_keeps_it(data_folder):
    """Frames in the middle of the scan, against a longer LSQML reconstruction of all frames.

    Few frames pin the probe down less: 0.948 with 80, 0.983 with these, 0.992 with all 516.

    Correlation and contrast both, because neither loss nor amplitude error tells a flat object.
    """
    run = read_run_file(CONFIGS / "siemens_star.toml", data_folder)
    folder = run.data.folder
    scan = load_scan(folder / run.data.diffraction, folder / run.data.product)
    scan = select_frames(scan, np.sort(np.argsort(np.hypot(*scan.positions_px.T))[:N_FRAMES]))
    probe = torch.zeros(1, run.data.n_probe_modes, *scan.probe.shape[-2:], dtype=torch.complex64)
    probe[:, 0] = torch.from_numpy(scan.probe[:, 0])
    scan = dataclasses.replace(scan, probe=orthogonalize_initial_probe(probe).numpy())
    with h5py.File(folder / run.data.reference) as file:
        reference = file["object"][0]
    area = scanned_area(scan.positions_px, scan.object.shape)
    task = build_task(run.options, scan)

    def correlation_and_contrast():
        object_ = task.get_data_to_cpu("object", as_numpy=True)[0]
        object_ = align(object_, reference, ramp=True, shift=True, mask=area).aligned
        correlation = phase_correlation(object_, reference, area)
        return correlation, contrast(object_, reference, area).phase

    task.run(0)
    by_projections, _ = correlation_and_contrast()
    task.run(2)
    correlation, phase_contrast = correlation_and_contrast()
    assert by_projections > 0.95
    assert correlation > by_projections - 0.005
    assert 0.8 < phase_contrast < 1.25
