"""Accelerated projections: the engine's iteration without a network.

In each iteration every pattern's modulus is imposed on its exit wave, the back-projected updates u
are stitched with the probe's intensity w as weight, and the object takes Nesterov's steps:

    d = P^T(w u) / (P^T(w) + eps max),     v' = beta v + d,     O' = O + v' + beta (v' - v).

All patterns are projected at once, as in the difference map (Thibault et al., Ultramicroscopy 109,
338 (2009)); the probe is updated from the same corrections of the exit waves, with the object's
intensity as weight.
"""

import torch
from torch import Tensor

from ptychi_neural.api.options import StartOptions
from ptychi_neural.physics.consistency import Canvas
from ptychi_neural.physics.forward_model import NeuralForwardModel

JOINT_STEP = 0.5
"""Step of object and probe where both are updated: full steps would correct the same error twice,
and their common scale would oscillate."""


class AcceleratedProjections:
    """Projections over the whole scan, with momentum, from the forward model's starting object.

    Parameters
    ----------
    forward_model : NeuralForwardModel
        Operators, probe, positions and data. Its ``start_object`` is what is iterated.
    options : StartOptions
        Momentum and regularisation.
    batch_size : int
        Number of patterns that are projected at a time, to bound the memory.
    """

    def __init__(
        self, forward_model: NeuralForwardModel, options: StartOptions, batch_size: int
    ) -> None:
        self.forward_model = forward_model
        self.options = options
        self.batches = torch.arange(len(forward_model.dataset)).split(batch_size)
        self.velocity = torch.zeros_like(forward_model.start_object)
        self.probe_velocity = torch.zeros_like(forward_model.probe.data)

    @torch.no_grad()
    def iterate(self, update_probe: bool) -> float:
        """One iteration over the whole scan.

        Parameters
        ----------
        update_probe : bool
            Whether the probe is refined too.

        Returns
        -------
        float
            Distance to the measured moduli before the iteration: norm of the exit waves'
            corrections, relative to the norm of the exit waves.
        """
        model = self.forward_model
        start = model.start_object
        updates: Canvas | None = None
        probe_change = torch.zeros_like(model.probe.data[0])
        exposure = torch.zeros_like(probe_change.real[0])
        residual = power = 0.0
        for batch in self.batches:
            positions = model.positions(batch)
            patches = model.start_patches(batch)
            probe, correction = model.exit_wave_correction(batch, patches)
            residual += float(correction.abs().square().sum())
            power += float((probe * patches).abs().square().sum())
            update = model.back_project(probe, correction)
            canvas = model.consistency.accumulate(update, positions)
            updates = canvas if updates is None else updates + canvas
            if update_probe:
                probe_change += (patches.conj() * correction).sum(0)
                exposure += patches[:, 0].abs().square().sum(0)
        assert updates is not None
        damping = self.options.regularization * updates.weight.max()
        length = JOINT_STEP if update_probe else 1.0
        step = length * updates.weighted_patches / (updates.weight + damping)
        model.start_object, self.velocity = self._advance(start, self.velocity, step)
        if update_probe:
            floor = self.options.regularization * exposure.max()
            step = torch.zeros_like(self.probe_velocity)
            step[0] = length * probe_change / (exposure + floor)
            probe, self.probe_velocity = self._advance(model.probe.data, self.probe_velocity, step)
            model.probe.set_data(probe)
        return (residual / power) ** 0.5

    def _advance(self, point: Tensor, velocity: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Nesterov's next point, one step and momentum ahead, and its velocity."""
        momentum = self.options.momentum
        faster = momentum * velocity + step
        return point + faster + momentum * (faster - velocity), faster
