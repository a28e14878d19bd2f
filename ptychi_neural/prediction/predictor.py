"""A trained generator from its file: patches, whole scans, streams."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from ptychi.api.enums import LossFunctions

from ptychi_neural.engine.device import without_default_device
from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.engine.scan_task import ScanTask
from ptychi_neural.engine.start import Start
from ptychi_neural.engine.working_units import WorkingUnits
from ptychi_neural.generators.files import load_generator
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.options.choices import StitchWeightings
from ptychi_neural.physics.losses import build_loss_function
from ptychi_neural.physics.ranks import alone, n_ranks
from ptychi_neural.prediction.acceleration import Accelerations, accelerate, lay_out
from ptychi_neural.prediction.deviation import deviation, reprojection_error
from ptychi_neural.prediction.frame_sums import CountedLight, FrameSums
from ptychi_neural.prediction.predicted_object import PredictedObject
from ptychi_neural.prediction.stream import PredictionStream, as_tensor_of_counts
from ptychi_neural.scans import empty_object

BATCH_SIZE = 64
"""Number of frames at a time, where the caller does not say."""

RING_SIZE = 1024
"""Most frames that wait for their positions, where the caller does not say."""


class NeuralPredictor:
    """A trained generator that predicts without being fitted; see ``from_file``.

    Parameters
    ----------
    path : str or Path
        A generator saved with ``save_generator``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, truncated, no generator or of a later format.
    """

    options: NeuralPtychographyOptions
    """Options of the tasks that predict: device, geometry (slice spacings, wavelength, near
    field), whether the probe is refined in the projections before the network (it is not)."""

    def __init__(self, path: str | Path) -> None:
        self.generator, generator, self.metadata = load_generator(path)
        self.options = NeuralPtychographyOptions()
        self.options.probe_options.optimizable = False
        self.options.object_options.remove_object_probe_ambiguity.enabled = False
        settings = self.options.reconstructor_options
        settings.generator = generator
        settings.loss_function = LossFunctions(self.metadata["loss_function"])
        settings.start.load_from_dict(self.metadata["start"])
        settings.start.from_empty = True
        settings.num_epochs = 0
        weighting = self.metadata["consistency"]["stitch_weighting"]
        settings.consistency.stitch_weighting = StitchWeightings(weighting)
        settings.validation.held_out = 0.0
        if not torch.cuda.is_available():
            lay_out(self.generator)

    @classmethod
    def from_file(cls, path: str | Path) -> "NeuralPredictor":
        """Load a generator that ``task.reconstructor.save_generator`` saved."""
        return cls(path)

    def predict(
        self, patterns: ArrayLike, batch_size: int = BATCH_SIZE
    ) -> NDArray[np.complexfloating]:
        """Predict the patch under each pattern, with neither probe nor positions.

        Parameters
        ----------
        patterns : array_like
            (n, h, w) counts, DC at the image centre.
        batch_size : int
            Frames at a time.

        Returns
        -------
        ndarray
            (n, n_slices, h, w) patches of an object that is 1 + 0i where it is empty.

        Raises
        ------
        ValueError
            If the generator needs more than patterns, or patterns of another size, or the
            patterns are not counts.
        """
        counts = as_tensor_of_counts(patterns)
        self.generator.check_patch_shape(counts.shape[1:])
        device = next(self.generator.parameters()).device
        with torch.no_grad():
            patches = [
                self.generator.patches(batch.to(device)).cpu() for batch in counts.split(batch_size)
            ]
        return torch.cat(patches).numpy()

    def reconstruct(
        self,
        patterns: ArrayLike,
        positions: ArrayLike,
        probe: ArrayLike,
        object_shape: tuple[int, int] | None = None,
        **task_data: Any,
    ) -> PredictedObject:
        """Predict the object of a whole scan: an initial reconstruction, then the generator, once.

        Of several processes of ``torchrun`` each predicts its own frames, and all get the object.
        They all have to ask for the standard deviation, too.

        Parameters
        ----------
        patterns : array_like
            (n, h, w) counts, DC at the image centre.
        positions : array_like
            (n, 2) positions in object pixels, (y, x); 0, 0 is the object's centre.
        probe : array_like
            (n_opr_modes, n_modes, h, w) probe, of any power.
        object_shape : tuple of int, optional
            (H, W) of the object. None: as large as the positions need.
        **task_data
            ``valid_pixel_mask``, ``opr_mode_weights_data`` as ``PtychographyTask`` takes them.

        Returns
        -------
        PredictedObject
            Object, weight, and the re-projection error of every frame; the disagreement of its
            parts is computed when its ``standard_deviation`` is asked for.

        Raises
        ------
        ValueError
            If data do not fit each other or the generator.
        """
        where = np.asarray(positions, dtype=np.float64)
        task = self._task(np.asarray(patterns), where, np.asarray(probe), object_shape, **task_data)
        # A stream has neither OPR modes nor a detector that is smaller than the probe.
        as_streamed = np.shape(probe)[0] == 1 and np.shape(probe)[-2:] == np.shape(patterns)[-2:]
        if as_streamed and self._why_not_frame_by_frame() is None:
            return self._added_up(task, np.asarray(probe))
        settings = task.scan.options
        units = WorkingUnits(task.group)
        judge = HeldOutJudge(settings.validation, build_loss_function(settings.loss_function))
        start = Start(judge, settings.start.total_variation)
        with torch.no_grad(), without_default_device():
            start.begin_from(torch.ones_like(task.scan.start))
            scan = task.scan.starting_from(start.objects[None])
            units.enter()
            units.fit_scale(scan)
            start.make(scan, n_splits=0)
            scan = scan.starting_from(start.objects[None])
            object_ = self.generator(scan)
            units.leave()
            scan = scan.starting_from(scan.start)  # A new view: the probe has another scale.
            weight = scan.model.stitching.total_weight(scan.model.positions(scan.frames))
            error = reprojection_error(scan, object_)

        def computed_deviation() -> NDArray[np.floating]:
            with without_default_device():
                found = deviation(self.generator, scan, start)
            return found.float().numpy(force=True)

        return PredictedObject(
            object=object_.numpy(force=True),
            weight=weight.numpy(force=True),
            reprojection_error=error.numpy(force=True),
            probe=task.get_data("probe").numpy(force=True),
            compute_deviation=computed_deviation,
        )

    def stream(
        self,
        probe: ArrayLike,
        object_shape: tuple[int, int],
        *,
        batch_size: int = BATCH_SIZE,
        valid_pixel_mask: ArrayLike | None = None,
        ring_size: int = RING_SIZE,
    ) -> PredictionStream:
        """Predict while frames arrive, in any order, with gaps and duplicates.

        The probe's power is trusted: were it estimated from the frames, the first to arrive would
        decide. ``reconstruct`` returns a probe at the right power, and so does ``rescaled_probe``.
        With that probe, and as many frames at a time, the object is that of ``reconstruct``, bit
        for bit.

        Parameters
        ----------
        probe : array_like
            (1, n_modes, h, w) probe at the intensity of the measured counts.
        object_shape : tuple of int
            (H, W) of the canvas, which all positions that will come must fit into
            (``ptychi_neural.scans.empty_object`` gives one from the planned positions).
        batch_size : int
            Frames that are predicted at a time, which bound the memory.
        valid_pixel_mask : array_like, optional
            (h, w) True where the detector works.
        ring_size : int
            Most frames that wait for their positions, where these come by themselves.

        Returns
        -------
        PredictionStream
            Takes frames with ``add``, or ``add_patterns`` and ``add_positions``; ``current`` is the
            object at any time.

        Raises
        ------
        ValueError
            If a frame's share in the object depends on other frames, so that it cannot be added
            up, or probe and generator do not fit each other.
        """
        problem = self._why_not_frame_by_frame()
        if problem is not None:
            raise ValueError(
                f"stream: frames cannot be added up one by one, as {problem}. Use reconstruct with "
                "all frames, or a generator for which they can, trained with start.n_iterations = "
                "0: a one-shot one, or an unrolled one of generator.unrolled.n_iterations = 1."
            )
        if n_ranks() > 1:
            raise ValueError("stream: runs in one process; start without torchrun.")
        if ring_size < 1:
            raise ValueError(f"stream: ring_size must be at least 1, got {ring_size}.")
        batch = self._batch(np.asarray(probe), object_shape, valid_pixel_mask, batch_size)
        return PredictionStream(batch, ring_size)

    def accelerate(
        self,
        probe: ArrayLike,
        object_shape: tuple[int, int],
        wanted: Collection[Accelerations],
        batch_size: int = BATCH_SIZE,
    ) -> list[Accelerations]:
        """Let the networks of this predictor work faster from now on, as far as they then do.

        What fails or is no faster is left out with one warning. Call it before ``stream``.

        Parameters
        ----------
        probe : array_like
            (1, n_modes, h, w) probe of the scans that will come.
        object_shape : tuple of int
            (H, W) of their canvas.
        wanted : collection of Accelerations
            What to try.
        batch_size : int
            Frames that are predicted at a time.

        Returns
        -------
        list of Accelerations
            What has made a batch faster.
        """
        scan = self._batch(np.asarray(probe), object_shape, None, batch_size).scan
        with torch.no_grad(), without_default_device():
            return accelerate(self.generator.networks_at_work, lambda: self.generator(scan), wanted)

    def rescaled_probe(
        self,
        probe: ArrayLike,
        object_shape: tuple[int, int],
        mean_counts: float,
        valid_pixel_mask: ArrayLike | None = None,
    ) -> NDArray[np.complexfloating]:
        """The probe at the power at which an empty object gives the measured counts.

        Parameters
        ----------
        probe : array_like
            (1, n_modes, h, w) probe, of any power.
        object_shape : tuple of int
            (H, W) of the canvas.
        mean_counts : float
            Mean over the frames of the counts in the valid pixels.
        valid_pixel_mask : array_like, optional
            (h, w) True where the detector works.
        """
        probe = np.asarray(probe)
        batch = self._batch(probe, object_shape, valid_pixel_mask, BATCH_SIZE)
        return _at_counts(probe, batch, mean_counts)

    @torch.no_grad()
    def _added_up(self, task: ScanTask, probe: NDArray[np.generic]) -> PredictedObject:
        """Predict a whole scan as a stream does, whose frames add up."""
        model, shape = task.scan.model, tuple(task.scan.start.shape[-2:])
        unscaled = self._batch(probe, shape, None, BATCH_SIZE)
        unscaled.scan.valid.copy_(task.scan.valid)
        counts = CountedLight()
        own = model.own(task.scan.frames)
        for frames in own.split(BATCH_SIZE):
            counts.add(model.measured(frames), task.scan.valid)
        probe = _at_counts(probe, unscaled, counts.mean)
        in_unit = np.sqrt(task.group.intensity_scale.count_unit) * probe
        task.group.probe.set_data(torch.from_numpy(in_unit).to(task.group.probe.data))
        batch = self._batch(probe, shape, None, BATCH_SIZE)
        batch.scan.valid.copy_(task.scan.valid)
        sums = FrameSums(batch)
        with alone():
            sums.add(model.dataset.patterns, model.probe_positions.data[own])
        sums.add_other_ranks()
        with alone():
            object_ = sums.object()
        return PredictedObject(
            object=object_.numpy(force=True),
            weight=sums.total.weight.float().numpy(force=True),
            reprojection_error=reprojection_error(task.scan, object_).numpy(force=True),
            probe=task.get_data("probe").numpy(force=True),
            compute_deviation=lambda: sums.deviation(sums.total).float().numpy(force=True),
        )

    def _why_not_frame_by_frame(self) -> str | None:
        return self.generator.why_not_frame_by_frame(self.options.reconstructor_options.start)

    def _batch(
        self,
        probe: NDArray[np.generic],
        object_shape: tuple[int, ...],
        valid_pixel_mask: ArrayLike | None,
        batch_size: int,
    ) -> ScanTask:
        """A task of blank frames, the first of them at position 0, 0."""
        if probe.ndim != 4 or len(probe) != 1:
            raise ValueError(
                f"stream: the probe must have the shape (1, n_modes, h, w), got {probe.shape}; OPR "
                "modes have weights for each frame: use reconstruct."
            )
        spread = np.linspace(0, 1, batch_size)[:, None] * np.ones(2)
        blank = np.ones((batch_size, *probe.shape[-2:]), dtype=np.float32)
        height, width = object_shape
        mask = {"valid_pixel_mask": valid_pixel_mask}
        with alone():  # Each of several processes has all of it.
            return self._task(blank, spread, probe, (height, width), **mask)

    def _task(
        self,
        patterns: NDArray[np.generic],
        positions: NDArray[np.float64],
        probe: NDArray[np.generic],
        object_shape: tuple[int, int] | None,
        **task_data: Any,
    ) -> ScanTask:
        if object_shape is None:
            object_shape = empty_object(positions, probe.shape).shape[-2:]
        return ScanTask(
            self.options,
            self.generator,
            diffraction_data=patterns,
            object_data=np.ones((self.generator.n_slices, *object_shape), dtype=np.complex64),
            probe_data=probe,
            probe_position_x_px=positions[:, 1],
            probe_position_y_px=positions[:, 0],
            **task_data,
        )


@torch.no_grad()
def _at_counts(
    probe: NDArray[np.generic], batch: ScanTask, mean_counts: float
) -> NDArray[np.complexfloating]:
    """The (1, n_modes, h, w) probe of a batch at the power of the mean counts of a frame.

    Of an empty object, every frame has the counts of the first, whose position is 0, 0.
    """
    scan = batch.scan
    predicted = scan.predict(torch.ones_like(scan.start), scan.frames[:1])
    expected = float(torch.where(scan.valid, predicted[0], 0.0).sum(dtype=torch.float64))
    if not (expected > 0 and mean_counts > 0):
        raise ValueError(
            f"the valid pixels have {mean_counts:g} counts in a frame on average, and {expected:g} "
            "are those of the probe: check patterns, probe and mask."
        )
    scaled = probe * np.sqrt(mean_counts / expected)
    return scaled.astype(np.result_type(probe.dtype, np.complex64))
