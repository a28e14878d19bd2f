"""The probe's place in its array, which object and probe share: both are moved together."""

import torch
from ptychi.data_structures.probe import Probe
from ptychi.image_proc import find_center_of_mass, fourier_shift
from torch import Tensor


@torch.no_grad()
def centre(probe: Probe) -> Tensor:
    """Let pty-chi centre the probe, as its ``center_constraint`` tells.

    Returns
    -------
    Tensor
        (2,) distance in pixels, (y, x), by which the first mode has moved.
    """
    before = find_center_of_mass(probe.data[0, 0].abs().square())
    probe.center_probe()
    return find_center_of_mass(probe.data[0, 0].abs().square()) - before


def moved(object_: Tensor, distance: Tensor) -> Tensor:
    """A (n_slices, H, W) object that has moved by (2,) pixels, as the probe has, so that the
    patterns stay what they are."""
    return fourier_shift(object_, distance.expand(len(object_), 2))
