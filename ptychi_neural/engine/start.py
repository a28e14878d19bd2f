"""The start: an initial reconstruction of everything, and one without each split of the pixels."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from ptychi.api.enums import LossFunctions
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.physics.centring import moved
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.contrast_transfer import ContrastTransfer, first_divided_iteration
from ptychi_neural.projections.frame_parameters import FrameParameters
from ptychi_neural.projections.halves import interleaved_halves
from ptychi_neural.projections.total_variation import denoised

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartObserver:
    """Who follows the initial reconstruction; by default nobody does."""

    bar: Callable[[int, str], tqdm] = lambda length, name: tqdm(range(length), name, disable=True)
    """Makes a progress bar of a length and a name."""

    iterated: Callable[[int | None, Tensor], None] = lambda split, object_: None
    """Looks at the (1, H, W) object after an iteration, with everything or without a split."""

    started: Callable[[Tensor], None] = lambda object_: None
    """Takes the (1, H, W) object that the generator starts from."""


class Start:
    """The objects from which the generator starts, and how they are found.

    Parameters
    ----------
    judge : HeldOutJudge
        Tells how well held-out pixels are predicted.
    total_variation : float, optional
        Weight of total variation; None: chosen by the judge.
    observer : StartObserver, optional
        Follows the iterations.
    """

    def __init__(
        self,
        judge: HeldOutJudge,
        total_variation: float | None,
        observer: StartObserver | None = None,
    ) -> None:
        self.judge = judge
        self.observer = observer or StartObserver()
        self.total_variation = total_variation
        self.objects: dict[int | None, Tensor] = {}
        """(n_slices, H, W) objects to start from: of everything (None), and without each split."""
        self.unprojected: Tensor | None = None
        """(n_slices, H, W) object from which the iterations began; None before them."""
        self.splits_done = False
        """Whether there are objects without each split."""
        self.n_iterated: int | None = None
        """Number of iterations after which held-out pixels ended them; None if they did not."""
        self._transfer: ContrastTransfer | None = None

    def begin_from(self, object_: Tensor) -> None:
        """Let the generator start from this (n_slices, H, W) object."""
        self.objects = {None: object_}

    def make(self, scan: ScanPhysics, with_splits: bool) -> None:
        """Reconstruct once: everything, then without each split, with the probe found by then."""
        if scan.options.start.n_iterations == 0:
            return
        if self.unprojected is None:
            self.unprojected = scan.start
            self.reconstruct(scan)
        if with_splits and not self.splits_done and scan.pixels is not None:
            if scan.pixels.n_splits == 1:
                return
            self.splits_done = True
            for split in range(scan.pixels.n_splits):
                self.reconstruct(scan.starting_from(self.unprojected).without(split))

    def reconstruct(self, scan: ScanPhysics) -> None:
        """Reconstruct from the scan's start; what is found becomes the generator's start.

        Parameters
        ----------
        scan : ScanPhysics
            The scan, or the scan without a split, whose pixels are not seen then.
        """
        options, split, probe = scan.options.start, scan.split, scan.model.probe
        halves = None
        if options.alternate_halves and not probe.optimizable:
            halves = interleaved_halves(scan.model.positions(scan.frames))
        projections = self._projections(scan, halves)
        n_iterations = self.n_iterations(scan, split)
        of_frames = FrameParameters(scan) if split is None else None
        # While the probe is found, the held-out pixels tell of the probe more than of the noise.
        n_unwatched = first_divided_iteration(scan) or 0
        n_of_halves = 0 if halves is None else int(options.share_of_halves * n_iterations)
        without = "" if split is None else f" without split {split + 1}"
        bar = self.observer.bar(n_iterations, f"projections{without}")
        lowest, best = math.inf, (0, projections.state())
        try:
            for iteration in bar:
                before = (iteration, projections.state())
                if of_frames is not None:
                    of_frames.begin(iteration, projections.object)
                loss = projections.iterate(
                    update_probe=split is None and probe.optimization_enabled(iteration),
                    part=iteration % 2 if iteration < n_of_halves else -1,
                    of_frames=of_frames,
                )
                if not math.isnan(loss):
                    bar.set_postfix_str(self._progress(scan, loss))
                if split is None:
                    self.judge.record("projections", iteration, loss)
                self.observer.iterated(split, projections.object)
                if loss < lowest or iteration == n_unwatched:
                    lowest, best = loss, before
                elif (
                    split is None
                    and iteration > n_unwatched
                    and self._has_risen(scan, loss, lowest, iteration - best[0])
                ):
                    self.n_iterated, state = best
                    projections.go_back(state)
                    break
                if projections.converged:
                    logger.info("Projection %d: no step lowers the loss.", iteration + 1)
                    break
        finally:
            if split is None:
                if self.unprojected is not None and projections.displacement.any():
                    self.unprojected = moved(self.unprojected, projections.displacement)
                if self.total_variation is None:
                    self.total_variation = self._best_total_variation(scan, projections.object)
                self.begin_from(self.denoised(projections.object))
                self.observer.started(self.objects[None])
            else:
                self.objects[split] = self.denoised(projections.object)

    def halves(self, scan: ScanPhysics) -> list[ScanPhysics]:
        """Either half of the frames, with a start reconstructed from it alone.

        The list is empty where nothing was reconstructed.
        """
        if self.unprojected is None:
            return []
        halves = interleaved_halves(scan.model.positions(scan.frames))
        of_halves = []
        for part, frames in enumerate(halves):
            projections = self._projections(scan.starting_from(self.unprojected), halves)
            bar = self.observer.bar(self.n_iterations(scan), f"projections of half {part + 1}")
            for _ in bar:
                projections.iterate(update_probe=False, part=part)
            of_halves.append(scan.starting_from(self.denoised(projections.object)).of(frames))
        return of_halves

    def denoised(self, object_: Tensor) -> Tensor:
        """The (1, H, W) object with the weight of total variation that was given or chosen."""
        return denoised(object_, self.total_variation or 0.0)

    def n_iterations(self, scan: ScanPhysics, split: int | None = None) -> int:
        """Number of iterations of everything, or without a split.

        It is the options' number, or that after which the held-out pixels were predicted best if
        they ended the iterations, or one that grows with the root of the counts per object pixel.
        """
        options = scan.options.start
        for n_iterations in (self.n_iterated, options.n_iterations):
            if n_iterations is not None:
                return n_iterations
        patterns = scan.model.dataset.patterns.split(scan.options.batch_size)
        counts = sum(float((some * scan.valid).sum()) for some in patterns)
        n_pixels = float((scan.coverage > 0.5).sum())
        factor, most = options.iterations_per_root_count_undivided, options.most_iterations
        if _transfer_floor(scan, split) is not None:
            factor = options.iterations_per_root_count
            if split is not None:
                most = options.most_split_iterations
        if first_divided_iteration(scan) is not None and split is None:
            return options.joint_iterations
        if scan.model.probe.optimizable and split is not None:
            most = options.most_joint_split_iterations
        n_open = factor * math.sqrt(counts / n_pixels)
        return int(min(max(n_open, options.fewest_iterations), most))

    def _projections(
        self, scan: ScanPhysics, halves: tuple[Tensor, Tensor] | None
    ) -> AcceleratedProjections:
        floor, transfer = _transfer_floor(scan, scan.split), None
        if floor is not None:
            transfer = self._transfer = self._transfer or ContrastTransfer(scan, floor)
        return AcceleratedProjections(scan, self.judge.loss_function, transfer, halves)

    def _best_total_variation(self, scan: ScanPhysics, object_: Tensor) -> float:
        """The weight with which held-out pixels are predicted best; 0 without any."""
        if not self.judge.judges:
            return 0.0
        weights = scan.options.start.total_variation_weights
        return min(weights, key=lambda weight: self.judge.loss(scan, denoised(object_, weight)))

    def _has_risen(self, scan: ScanPhysics, loss: float, lowest: float, n_since: int) -> bool:
        """Whether held-out pixels tell to go back to where they were predicted best, so many
        iterations ago."""
        options = scan.options.start
        if options.n_iterations is not None or not _is_poisson(scan):
            return False
        if loss <= lowest + options.held_out_rise:
            return False
        lowest_deviance = self.judge.deviance(scan, lowest)
        if lowest_deviance <= options.noise_deviance:
            return True
        rise = 2 * (loss - lowest) / lowest_deviance
        return rise > options.relative_rise and n_since >= options.held_out_wait

    def _progress(self, scan: ScanPhysics, loss: float) -> str:
        if not _is_poisson(scan):
            return f"held-out loss {loss:.5g}"
        return f"deviance {self.judge.deviance(scan, loss):.4g} per held-out pixel"

    def move_to(self, device: torch.device) -> None:
        """Move the objects to a device."""
        self.objects = {split: object_.to(device) for split, object_ in self.objects.items()}
        if self.unprojected is not None:
            self.unprojected = self.unprojected.to(device)

    def move_by(self, distance: Tensor) -> None:
        """Move the objects by (2,) pixels, as the probe has moved."""
        self.objects = {split: moved(object_, distance) for split, object_ in self.objects.items()}
        if self.unprojected is not None:
            self.unprojected = moved(self.unprojected, distance)

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            "objects": self.objects,
            "unprojected": self.unprojected,
            "splits_done": self.splits_done,
            "n_iterated": self.n_iterated,
            "total_variation": self.total_variation,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        for name, value in self.state_dict().items():
            setattr(self, name, state.get(name, value))


def _transfer_floor(scan: ScanPhysics, split: int | None) -> float | None:
    """What is added to the contrast transfer by which updates are divided; None: they are not.

    A probe or positions that are refined along would not follow such steps from the beginning; they
    are found by the time that the splits are made. The transfer is not that of several slices, of a
    small detector or of blurred patterns.
    """
    is_joint = split is None and scan.model.refines_probe_or_positions
    if is_joint or not scan.model.writes_down_corrections:
        return None
    return scan.options.start.transfer_floor


def _is_poisson(scan: ScanPhysics) -> bool:
    return scan.options.loss_function == LossFunctions.POISSON
