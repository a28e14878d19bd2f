"""Progressive resolution of pty-chi, with the generator carried from level to level."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.workflows.progressive_resolution import ProgressiveResolutionWorkflow
from torch import Tensor

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.options import NeuralPtychographyOptions


class CoarseToFineWorkflow(ProgressiveResolutionWorkflow):
    """Progressive resolution whose generator goes on with what it has learned one level before.

    Each level crops the patterns to their middle, by a factor of two less than the one before, so
    that frames show the same field of view with finer pixels. Probe and positions go from level to
    level in pty-chi's own workflow; here the generator does, too. What it makes is a factor of the
    object that it starts from, so that each level starts from the given object. That takes a
    generator whose weights serve frames of another size ("Frames of another size" in
    docs/architectures.md). pty-chi has the workflow from version 2.2 on.

    Parameters
    ----------
    task_options : NeuralPtychographyOptions
        Options of the task of full resolution.
    *args, **kwargs
        As for ``ProgressiveResolutionWorkflow``: ``workflow_options`` with the number of levels
        and the epochs of each, data, probe, object and positions.

    Raises
    ------
    TypeError
        If the options are those of another engine.
    ValueError
        When the second level begins, if the generator cannot be used with frames of its size.
    """

    def run(self) -> None:
        """Run all levels, from the coarsest to that of full resolution."""
        if not isinstance(self.task_options, NeuralPtychographyOptions):
            raise TypeError(
                "CoarseToFineWorkflow carries a generator along: give it NeuralPtychographyOptions;"
                " other engines have pty-chi's ProgressiveResolutionWorkflow."
            )
        with TemporaryDirectory() as folder:
            self._folder = Path(folder)
            super().run()

    def _copy_task_options(
        self, task_options: PtychographyTaskOptions | None = None
    ) -> PtychographyTaskOptions:
        options = super()._copy_task_options(task_options)
        if getattr(self, "tasks", None):
            trained = self._folder / f"level_{len(self.tasks)}.safetensors"
            cast(NeuralReconstructor, self.tasks[-1].reconstructor).save_generator(trained)
            neural = cast(NeuralPtychographyOptions, options)
            neural.reconstructor_options.generator.checkpoint = str(trained)
        return options

    def _build_level_data(self, i_level: int, factor: int) -> dict[str, Tensor | None]:
        data = super()._build_level_data(i_level, factor)
        shape = self._target_spatial_shape(self.object_data, factor)
        return data | {"object_data": self._resize_spatial_data(self.object_data, shape)}
