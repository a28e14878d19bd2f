"""Accelerated projections: the engine's iteration without a network.

In each iteration every pattern's modulus is imposed on its exit wave, the back-projected patches
are stitched with the probe's intensity as weight, and the object carries momentum:

    v <- beta v + stitch(o + u) - O,      O <- O + v.

This is an accelerated variant of the extended difference-map family of set projections (Thibault
et al., Ultramicroscopy 109, 338 (2009)), with all patterns projected at once.
"""

import torch

from ptychi_neural.api.options import StartOptions
from ptychi_neural.physics.consistency import Canvas
from ptychi_neural.physics.forward_model import NeuralForwardModel


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
            Root mean square change of the object, relative to its root mean square.
        """
        model = self.forward_model
        start = model.start_object
        total: Canvas | None = None
        probe_change = torch.zeros_like(model.probe.data[0])
        exposure = torch.zeros_like(probe_change.real[0])
        for batch in self.batches:
            positions = model.probe_positions.tensor[batch]
            patches = model.start_patches(batch)
            probe, correction = model.exit_wave_correction(batch, patches)
            patches_new = patches + model.back_project(probe, correction)
            canvas = model.consistency.accumulate(patches_new, positions)
            total = canvas if total is None else total + canvas
            if update_probe:
                probe_change += (patches.conj() * correction).sum(0)
                exposure += patches[:, 0].abs().square().sum(0)
        assert total is not None
        self.velocity = self.options.momentum * self.velocity + total.object(start) - start
        model.start_object = start + self.velocity
        if update_probe:
            floor = self.options.regularization * exposure.max()
            self.probe_velocity *= self.options.momentum
            self.probe_velocity[0] += probe_change / (exposure + floor)
            model.probe.set_data(model.probe.data + self.probe_velocity)
        return float(self.velocity.abs().square().mean() / start.abs().square().mean()) ** 0.5
