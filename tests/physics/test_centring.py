"""A probe that is centred takes the object along: the patterns stay what they are."""

import numpy as np
import pytest
import torch
from ptychi.image_proc import find_center_of_mass

from ptychi_neural.comparison.target import Target
from ptychi_neural.physics.centring import centre, moved
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from small_tasks import default_options, make_task, object_of


@pytest.fixture(scope="module")
def simulated():
    raster = Raster(n_y=9, n_x=9, step_px=3.0)
    return simulate(
        SimulationOptions(seed=0, frame_shape=(24, 24), scan=raster, probe_defocus_error=0.3)
    )


@torch.no_grad()
def test_centring_moves_the_object_along(simulated):
    options = default_options(num_epochs=0)
    options.reconstructor_options.default_dtype = "float64"
    options.probe_options.center_constraint.enabled = True
    task = make_task(options, simulated.truth)
    scan = task.reconstructor.scan
    probe = scan.model.probe
    probe.set_data(torch.roll(probe.data, (2, -1), (-2, -1)))
    before = scan.predict(moved(scan.start, torch.tensor([2.0, -1.0])))
    distance = centre(probe)
    assert distance.numpy() == pytest.approx([-2, 1], abs=0.5)
    inside = np.s_[20:60]  # The periodic object is another at the rim of the scan.

    def change(object_):
        return float((scan.predict(object_) - before)[inside].norm() / before[inside].norm())

    assert change(moved(scan.start, torch.tensor([2.0, -1.0]) + distance)) < 0.05
    assert change(moved(scan.start, torch.tensor([2.0, -1.0]))) > 0.2


@pytest.mark.parametrize("num_epochs", [0, 5])
def test_a_centred_probe_costs_nothing(simulated, num_epochs):
    errors = []
    for centred in (False, True):
        options = default_options(num_epochs=num_epochs)
        options.probe_options.optimizable = True
        options.probe_options.center_constraint.enabled = centred
        task = make_task(options, simulated.scan)
        task.run()
        target = Target(simulated.truth.object, "ground truth")
        errors.append(target.error(object_of(task), simulated.scan, refined=True))
        if centred:
            power = task.reconstructor.model.probe.data[0, 0].abs().square()
            assert find_center_of_mass(power.detach()).numpy() == pytest.approx([12, 12], abs=0.3)
    assert errors[1] < 1.2 * errors[0]
