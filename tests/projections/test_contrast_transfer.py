"""The contrast transfer of a probe against waves on a flat object."""

import numpy as np
import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.projections.contrast_transfer import ContrastTransfer, responses
from ptychi_neural.simulation import Raster, SimulationOptions, simulate


def flat_scan():
    """The physics of a scan that starts from an empty object, and its probe."""
    simulated = simulate(SimulationOptions(seed=0, scan=Raster(n_y=10, n_x=10)))
    options = napi.NeuralPtychographyOptions()
    options.reconstructor_options.default_device = "cpu"
    options.reconstructor_options.validation.held_out = 0
    task = build_task(options, simulated.scan)
    return task.reconstructor.scan, simulated.scan.probe


def test_contrast_transfer_is_that_of_a_wave_and_its_twin():
    """A wave's image in the likelihood's step is half itself and half its twin, which adds in
    amplitude and subtracts in phase."""
    scan, probes = flat_scan()
    amplitude, phase = ContrastTransfer(scan, floor=0.1).response
    assert torch.allclose(amplitude + phase, torch.ones_like(phase))
    assert amplitude[0] > 0.999
    probe = probes[0, 0]
    size = probe.shape[-1]
    pattern = np.fft.fft2(probe)
    for periods in (1, 2, 3, 4, 6, 8):
        wave = np.exp(2j * np.pi * np.arange(size) * periods / size)
        shares = []
        for turned in (wave[None, :], wave[:, None]):
            one, other = np.fft.fft2(probe * turned), np.fft.fft2(probe * turned.conj())
            twin = (one * other).conj() * pattern**2 / np.abs(pattern) ** 2
            shares.append((1 - twin.sum().real / (np.abs(one) ** 2).sum()) / 2)
        assert float(phase[2 * periods]) == pytest.approx(np.mean(shares), abs=0.03)


@pytest.mark.parametrize("periods", [3, 6])
def test_an_update_takes_as_much_of_a_contrast_as_its_transfer_tells(periods):
    scan, _ = flat_scan()
    height, width = scan.start.shape[-2:]
    frequency = periods / 32
    told = responses(scan, torch.tensor([frequency]))[:, 0]
    window = ContrastTransfer(scan, floor=0.1).window
    wave = window * torch.cos(2 * torch.pi * frequency * torch.arange(width)).expand(height, -1)
    flat = torch.ones_like(scan.start)
    taken = []
    for contrast in (0.01 + 0j, 0.01j):
        scan.model.dataset.patterns = scan.predict(flat * (1 + contrast * wave)).detach()
        update = scan.object_update(scan.accumulated_update(flat)) / contrast
        taken.append(((update[0].real * wave).sum() / wave.square().sum()).detach())
    assert (torch.stack(taken) - told).abs().max() < 0.06
