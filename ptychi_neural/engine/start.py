"""The start: an initial reconstruction of everything, and one without each split of the pixels."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.engine.iterations import STUCK, Iterations
from ptychi_neural.engine.judge import HeldOutJudge
from ptychi_neural.physics.centring import moved
from ptychi_neural.physics.ranks import left_on_failure, summed_numbers
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.projections.accelerated import AcceleratedProjections
from ptychi_neural.projections.contrast_transfer import (
    ContrastTransfer,
    first_divided_iteration,
    seeks_defocus,
)
from ptychi_neural.projections.defocus import find_defocus
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
        self.n_splits_done = 0
        """Number of splits without which there was a reconstruction."""
        self.n_iterated: int | None = None
        """Number of iterations after which held-out pixels ended them; None if they did not."""
        self.settled: list[str] = []
        """Names of what the iterations of everything have found beside the object, and epochs leave
        as it is."""
        self._transfer: ContrastTransfer | None = None
        self.under_way: Iterations | None = None
        """The iterations of the reconstruction that is made now."""
        self.left: dict[str, Any] | None = None
        """State of the iterations that were under way in the file from which all goes on."""

    def begin_from(self, object_: Tensor) -> None:
        """Let the generator start from this (n_slices, H, W) object."""
        self.objects = {None: object_}

    def make(self, scan: ScanPhysics, n_splits: int) -> None:
        """Reconstruct once: everything, then without so many splits, with the probe found by then.

        A scan whose pixels are not split has no more than the first.
        """
        if scan.options.start.n_iterations == 0:
            return
        is_left = self.left is not None and self.left["split"] is None
        if self.unprojected is None or is_left:
            self.unprojected = scan.start if self.unprojected is None else self.unprojected
            self.reconstruct(scan)
        if scan.pixels is None or scan.pixels.n_splits == 1:
            return
        self._transfer = None  # As after a run that has gone on from a file.
        while self.n_splits_done < n_splits:
            self.reconstruct(scan.starting_from(self.unprojected).without(self.n_splits_done))

    def reconstruct(self, scan: ScanPhysics) -> None:
        """Reconstruct from the scan's start, or from where a file left it; what is found becomes
        the generator's start.

        Parameters
        ----------
        scan : ScanPhysics
            The scan, or the scan without a split, whose pixels are not seen then.
        """
        split = scan.split
        iterations = self.under_way = self._begun(scan)
        projections, bar = iterations.projections, iterations.bar
        try:
            with left_on_failure():
                if seeks_defocus(scan):
                    self._iterate_in_turn(iterations)
                    self._transfer = None  # It was that of the probe as it was.
                else:
                    self._iterate(iterations)
        finally:
            self.under_way = None
            bar.close()
            if split is None:
                self._settle(scan, iterations.refined)
                if self.unprojected is not None and projections.displacement.any():
                    self.unprojected = moved(self.unprojected, projections.displacement)
                if self.total_variation is None:
                    _, self.total_variation = self._best_denoised(scan, projections.object)
                self.begin_from(self.denoised(projections.object))
                self.observer.started(self.objects[None])
            else:
                self.objects[split] = self.denoised(projections.object)
                self.n_splits_done = split + 1

    @torch.no_grad()
    def _settle(self, scan: ScanPhysics, refined: list[str]) -> None:
        """Leave what was refined beside the object to no epoch; its modes are orthogonal then.

        The scale is left where nothing was refined, too: the object has taken it up.
        """
        if refined and scan.options.start.refine_in_epochs:
            return
        self.settled = ["intensity_scale", *refined]
        probe = scan.model.probe
        if "probe" in refined and probe.options.orthogonalize_incoherent_modes.enabled:
            probe.constrain_incoherent_modes_orthogonality()

    def _begun(self, scan: ScanPhysics) -> Iterations:
        """The iterations of a scan, begun or as a file left them."""
        options, split, left = scan.options.start, scan.split, self.left
        self.left = halves = None
        if left is not None:
            n_iterations = left["until"]
            projections = AcceleratedProjections(scan, self.judge.loss_function, None, None)
        else:
            if options.alternate_halves and not scan.model.probe.optimizable:
                halves = interleaved_halves(scan.model.positions(scan.frames))
            if seeks_defocus(scan) and not _refines_opr_modes(scan):
                self._find_defocus(scan)
            projections = self._projections(scan, halves)
            n_iterations = self.n_iterations(scan, split)
        without = "" if split is None else f" without split {split + 1}"
        bar = self.observer.bar(n_iterations, f"projections{without}")
        iterations = Iterations(scan, projections, self.judge, bar, self._iterated)
        if left is not None:
            iterations.load_state_dict(left)
        elif seeks_defocus(scan):
            n_alone = self._n_alone(scan)
            iterations.begin("alone", n_alone, most=n_alone, with_probe=False)
        else:
            if halves is not None:
                iterations.n_of_halves = int(options.share_of_halves * n_iterations)
            # While the probe or positions are found, held-out pixels tell of these.
            iterations.watched_from = first_divided_iteration(scan) or 0
            if scan.model.probe_positions.optimizable:
                iterations.watched_from += options.first_position_iteration + options.held_out_wait
            is_open = options.n_iterations is None and scan.model.refines_probe_or_positions
            most = n_iterations + options.joint_iterations * (is_open and split is None)
            iterations.begin("all", n_iterations, most, with_probe=split is None)
        return iterations

    def _iterated(self, split: int | None, object_: Tensor) -> None:
        self.pause()
        self.observer.iterated(split, object_)

    def pause(self) -> None:
        """Do nothing, between two iterations, where whoever wants to can save the state."""

    def _iterate(self, iterations: Iterations) -> None:
        """Iterate; the probe is refined from the first iteration on, where its plan has it."""
        scan = iterations.scan
        for _ in iterations.run():
            iterations.sweep_where_it_helps()
            iterations.go_on_while_it_helps()
        if scan.split is None and iterations.went_back:
            self.n_iterated = iterations.n_done

    def _iterate_in_turn(self, iterations: Iterations) -> None:
        """Iterate with the probe as it is, then refine it too.

        The object alone comes quickly, with the Poisson likelihood. Where it errs by more than the
        noise after some iterations, or comes no further, and where positions or the beam's shape
        wait for the probe, the probe joins early and as long as that takes; elsewhere late. Where
        others waited, the defocus is looked for once they are nearly found. What moduli have
        brought to the noise has its last differences from the likelihood, too: the probe first,
        then everything, which is taken only where held-out pixels are predicted far better: the
        likelihood follows what is not noise of counts, as a background.
        """
        scan, projections = iterations.scan, iterations.projections
        is_open = scan.options.start.n_iterations is None
        if iterations.stage == "alone":
            iterations.errs_alone = iterations.errs_alone_by_far() or iterations.errs
            self._begin_joint(iterations, is_open)
        if iterations.stage == "joint":
            for n_done in iterations.run():
                if n_done == iterations.n_settled and _waits_for_probe(scan):
                    self._find_defocus(scan)
                    projections.go_back(projections.state())
                    projections.join(projections.of_modulus)
                    iterations.watched_from = n_done + scan.options.start.held_out_wait
                iterations.sweep_where_it_helps()
                iterations.go_on_while_it_helps()
            if iterations.errs_alone and is_open and not iterations.errs:
                projections.join(of_modulus=False)
                self._begin_last("probe", iterations, scan.options.start.noise_iteration)
        if iterations.stage == "probe":
            for _ in iterations.run():
                pass
            self._begin_last("last", iterations, scan.options.start.last_joint_iterations)
        if iterations.stage == "last":
            for _ in iterations.run():
                iterations.go_on_while_it_helps()
        if iterations.is_last and self.judge.judges:
            joint, alone = projections.state(), iterations.alone
            assert alone is not None
            loss, _ = self._best_denoised(scan, joint.object)
            projections.go_back(alone)
            most, _ = self._best_denoised(scan, alone.object)
            if iterations.stage == "last":
                most -= (1 - STUCK) * self.judge.deviance(scan, most) / 2
            if loss < most:
                projections.go_back(joint)

    def _begin_joint(self, iterations: Iterations, is_open: bool) -> None:
        """Begin to refine the probe along with the object."""
        options, errs = iterations.scan.options.start, iterations.errs_alone
        iterations.alone = iterations.projections.state()
        iterations.is_last = not errs and not _waits_for_probe(iterations.scan)
        until = most = self.n_iterations(iterations.scan)
        if not iterations.is_last and is_open:
            until = iterations.n_done + options.joint_iterations
            most = until + options.joint_iterations
        iterations.bar.total = until
        iterations.projections.join(of_modulus=errs)
        iterations.n_settled = iterations.n_done + options.held_out_wait
        iterations.watched_from = iterations.n_settled
        iterations.begin("joint", until, most, with_probe=True)

    @staticmethod
    def _begin_last(stage: str, iterations: Iterations, n_iterations: int) -> None:
        """Begin to take the last differences from the likelihood."""
        n_before = iterations.n_done
        iterations.is_last, iterations.alone = True, iterations.projections.state()
        iterations.watched_from = n_before
        iterations.bar.total = until = n_before + n_iterations
        most = n_before + iterations.scan.options.start.joint_iterations
        iterations.begin(stage, until, most, with_probe=True)

    def _find_defocus(self, scan: ScanPhysics) -> None:
        bar = self.observer.bar(1, "defocus")
        found = find_defocus(scan, self.judge.loss_function, bar)
        logger.info("Defocus: the probe's phase was changed by %.2f radians rms.", found)

    def halves(self, scan: ScanPhysics) -> list[ScanPhysics]:
        """Either half of the frames, with a start reconstructed from it alone.

        The list is empty where nothing was reconstructed, or there is one frame.
        """
        if self.unprojected is None or len(scan.frames) < 2:
            return []
        self._transfer = None  # As after a run that has gone on from a file.
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
        if split is None and seeks_defocus(scan):
            if _waits_for_probe(scan):
                return options.first_probe_iteration + options.joint_iterations
            return self._n_alone(scan) + options.last_joint_iterations
        if split is None and first_divided_iteration(scan) is not None:
            return options.joint_iterations
        most = options.most_iterations
        if split is not None and _transfer_floor(scan, split) is not None:
            most = options.most_split_iterations
        if split is not None and scan.model.probe.optimizable:
            most = options.most_joint_split_iterations
        return self._n_open(scan, split, most)

    def _n_alone(self, scan: ScanPhysics) -> int:
        """Number of iterations before the probe is refined too."""
        options = scan.options.start
        n_alone = options.first_probe_iteration
        if not _waits_for_probe(scan):
            n_alone = self._n_open(scan, None, options.most_iterations)
        return n_alone if options.n_iterations is None else min(n_alone, options.n_iterations // 2)

    def _n_open(self, scan: ScanPhysics, split: int | None, most: int) -> int:
        """Number of iterations that counts per object pixel ask for."""
        options = scan.options.start
        patterns = scan.model.dataset.patterns.split(scan.options.batch_size)
        (counts,) = summed_numbers(sum(float((some * scan.valid).sum()) for some in patterns))
        n_pixels = float((scan.coverage > 0.5).sum())
        factor = options.iterations_per_root_count_undivided
        if _transfer_floor(scan, split) is not None:
            factor = options.iterations_per_root_count
        n_open = factor * math.sqrt(counts / n_pixels)
        return int(min(max(n_open, options.fewest_iterations), most))

    def _projections(
        self, scan: ScanPhysics, halves: tuple[Tensor, Tensor] | None
    ) -> AcceleratedProjections:
        floor, transfer = _transfer_floor(scan, scan.split), None
        if floor is not None:
            transfer = self._transfer = self._transfer or ContrastTransfer(scan, floor)
        return AcceleratedProjections(scan, self.judge.loss_function, transfer, halves)

    def _best_denoised(self, scan: ScanPhysics, object_: Tensor) -> tuple[float, float]:
        """Loss at the held-out pixels, and weight of total variation, given or with which they are
        predicted best; 0 without any pixels."""
        if not self.judge.judges:
            return math.nan, self.total_variation or 0.0
        weights: Sequence[float] = scan.options.start.total_variation_weights
        if self.total_variation is not None:
            weights = (self.total_variation,)
        return min((self.judge.loss(scan, denoised(object_, w)), w) for w in weights)

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
            "n_splits_done": self.n_splits_done,
            "n_iterated": self.n_iterated,
            "settled": self.settled,
            "total_variation": self.total_variation,
            "under_way": None if self.under_way is None else self.under_way.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        own = self.state_dict()
        del own["under_way"]
        for name, value in own.items():
            setattr(self, name, state.get(name, value))
        self.left = state.get("under_way")
        if "n_splits_done" not in state:  # Earlier files tell by their objects.
            self.n_splits_done = len(self.objects.keys() - {None})


def _transfer_floor(scan: ScanPhysics, split: int | None) -> float | None:
    """What is added to the contrast transfer by which updates are divided; None: they are not.

    A probe whose defocus was not looked for would not follow such steps from the beginning; it is
    found by the time that the splits are made. The transfer is not that of several slices, of a
    small detector or of blurred patterns.
    """
    is_sought = split is None and scan.model.probe.optimizable and not seeks_defocus(scan)
    if is_sought or not scan.model.is_one_product:
        return None
    return scan.options.start.transfer_floor


def _waits_for_probe(scan: ScanPhysics) -> bool:
    """Whether positions or the beam's shape are refined along with the probe, or the object comes
    slowly because updates are not divided."""
    model = scan.model
    return bool(
        model.probe_positions.optimizable or _refines_opr_modes(scan) or not model.is_one_product
    )


def _refines_opr_modes(scan: ScanPhysics) -> bool:
    model = scan.model
    return bool(model.opr_mode_weights.optimizable and model.probe.n_opr_modes > 1)
