"""A scan's physics from arrays, without a reconstructor: what a trained generator works on."""

import copy
from typing import Any, cast

import torch
from ptychi.api.task import PtychographyTask
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset

from ptychi_neural.engine.checks import check_inside
from ptychi_neural.engine.parameters import with_generator
from ptychi_neural.engine.trained import batch_size_for
from ptychi_neural.generators import Generator
from ptychi_neural.options import NeuralPtychographyOptions, NeuralReconstructorOptions
from ptychi_neural.physics.forward_model import ScanForwardModel
from ptychi_neural.physics.scan_physics import ScanPhysics


class ScanTask(PtychographyTask):
    """pty-chi's data structures of a scan, and its physics, for a generator that is not fitted.

    Parameters
    ----------
    options : NeuralPtychographyOptions
        Device, geometry, loss and start.
    generator : Generator
        The trained generator, which tells how many frames make up a batch.
    **data
        Arrays, as ``PtychographyTask`` takes them.

    Attributes
    ----------
    group : NeuralParameterGroup
        Object, probe, positions, OPR weights, generator and scale.
    scan : ScanPhysics
        The scan, starting from the task's object.

    Raises
    ------
    ValueError
        If data do not fit each other or the generator.
    """

    def __init__(
        self, options: NeuralPtychographyOptions, generator: Generator, **data: Any
    ) -> None:
        self.generator = generator
        super().__init__(options, **data)

    def build_reconstructor(self) -> None:
        """Build the physics in the place of a reconstructor."""
        built: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("object", "probe", "probe_positions", "opr_mode_weights")
        }
        group = PlanarPtychographyParameterGroup(**built)
        dataset: PtychographyDataset = self.dataset  # type: ignore[assignment]
        settings = copy.copy(cast(NeuralReconstructorOptions, self.reconstructor_options))
        self.generator.check_patch_shape(tuple(group.probe.get_spatial_shape()))
        device = torch.get_default_device()
        settings.batch_size = batch_size_for(settings, self.generator, dataset)
        group.object.update_pos_origin_coordinates(group.probe_positions.data)
        check_inside(group)
        dataset.move_attributes_to_device(device)
        generator = self.generator.to(device, torch.get_default_dtype())
        self.group = with_generator(group, generator, settings, dataset)
        model = ScanForwardModel.of(self.group, dataset, self.group.intensity_scale, settings)
        for parameter in self.group.get_all_reconstruct_parameters():
            parameter.requires_grad_(False)
        start = group.object.data.detach().clone()
        self.scan = ScanPhysics(model, settings, model.everything, {None: start})
        self.generator.check_scan(self.scan)
