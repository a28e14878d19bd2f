"""Steps of the accelerated projections."""

import numpy as np
import torch

import ptychi_neural.api as napi
from ptychi_neural.projections.accelerated import with_longer_phase_steps


def test_only_the_phase_of_the_pupil_takes_longer_steps():
    rng = np.random.default_rng(5)
    gain = napi.StartOptions().pupil_phase_gain
    pupil = np.exp(1j * rng.uniform(-3, 3, (2, 12, 12)))
    change = rng.normal(size=pupil.shape)
    probe, of_amplitude, of_phase = (
        torch.tensor(np.fft.ifft2(x)) for x in (pupil, change * pupil, 1j * change * pupil)
    )
    found = with_longer_phase_steps(of_amplitude + of_phase, probe, gain)
    torch.testing.assert_close(found, of_amplitude + gain * of_phase)
