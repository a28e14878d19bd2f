"""Steps of the accelerated projections."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ptychi_neural.api as napi
from ptychi_neural.projections.accelerated import AcceleratedProjections, with_longer_phase_steps
from small_tasks import default_options, make_task


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


@pytest.mark.parametrize("n_slices", [1, 2])
def test_steps_that_blow_up_are_taken_back_and_shortened(simulated, n_slices):
    """Undivided ones, too: two slices and a probe to be found once ended in NaN."""
    options = default_options(num_epochs=0)
    options.probe_options.optimizable = True
    if n_slices == 2:
        options.object_options.slice_spacings_m = [1e-6]
    scan = replace(simulated.scan, object=np.repeat(simulated.scan.object, n_slices, axis=0))
    reconstructor = make_task(options, scan).reconstructor
    reconstructor.begin_run()
    loss_function = reconstructor.judge.loss_function
    projections = AcceleratedProjections(reconstructor.scan, loss_function, None, None)
    for _ in range(4):
        projections.iterate(update_probe=True)
    before = projections.object
    for wrong in (1e3, float("nan")):
        step = projections._step
        projections.object = projections.object * wrong
        projections.iterate(update_probe=True)
        assert projections.object.isfinite().all()
        assert (projections.object - before).norm() < 0.5 * before.norm()
        assert projections._step < step
        projections.iterate(update_probe=True)
