"""Checks of what a state from a file holds, before anything goes on from it."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ptychi_neural.counted import MOST
from ptychi_neural.engine.iterations import Iterations
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.state_files import State
from ptychi_neural.projections.accelerated import AcceleratedProjections

STAGES = ("projections", "epoch")
"""What a judgement may follow."""

LOSSES = ("best_loss", "start_loss", "lowest_loss", "gained_loss")
"""What a judge compares losses with."""

BATCHES = ("clusters_of_indices", "batches_of_indices")
"""Where pty-chi's compact and uniform samplers keep their batches."""

SCHEDULED = ("lr", "betas", "momentum")
"""Numbers of an optimiser that a scheduler may change."""

ITERATED = ("all", "alone", "joint", "probe", "last")
"""What the initial reconstruction calls its stages."""

FLAGS = ("is_under_way", "normalization_pending", "object_is_assembled")
"""Names of what is true or false."""


def check_fitted(state: State, reconstructor: NeuralReconstructor) -> None:
    """Check the state of a reconstructor by what the reconstructor itself has.

    Raises
    ------
    ValueError
        Naming what no run has written.
    """
    judge, start, peak = state["judge"], state["start"], state["units"]["peak_amplitude"]
    n_splits, weight = reconstructor.generator.n_splits, start["total_variation"]
    check_whole(
        epoch=state["epoch"],
        lowest_from=judge.get("lowest_from", 0),
        gained_from=judge.get("gained_from", 0),
        patience_from=judge["patience_from"],
        n_splits_done=start.get("n_splits_done", 0),
        n_iterated=start["n_iterated"] or 0,
        **{f"step {i} of the judge": entry[1] for i, entry in enumerate(judge["course"])},
    )
    check_losses(**{name: judge.get(name, 0.0) for name in LOSSES})
    for what, holds in (
        ("stages of the judge", all(stage in STAGES for stage, _, _ in judge["course"])),
        ("losses of the judge", all(_is_number(loss) for _, _, loss in judge["course"])),
        ("splits of the start", set(start["objects"]) <= {None, *range(n_splits)}),
        ("number of splits", start.get("n_splits_done", 0) <= n_splits),
        ("total variation", weight is None or (_is_number(weight) and 0 <= weight < math.inf)),
        ("peak amplitude", peak is None or (peak.numel() == 1 and bool(peak > 0))),
        ("misfit", _is_misfit(judge.get("start_misfit"))),
        ("scattered", isinstance(judge.get("is_scattered", False), bool)),
        *((name, isinstance(state.get(name, False), bool)) for name in FLAGS),
    ):
        _check(holds, what)
    check_table(state["losses"], "losses")
    _check_batches(state["batches"], len(reconstructor.dataset))
    group, latest = reconstructor.parameter_group, reconstructor.latest
    object_ = group.object.data
    for of_start in (*start["objects"].values(), start["unprojected"]):
        check_like(of_start, object_, "start")
    if start.get("under_way") is not None:
        _check_under_way(start["under_way"], reconstructor)
    check_like(state["latest_patches"], None if latest is None else latest.patches, "patches")
    of_run: State = {name: p.data for name, p in group.fitted().items()}
    of_run["generator"] = reconstructor.generator.state_dict()
    left = state["continuation"] or {"last": None, "left": None}
    snapshots = {"best": judge["best"], "last finite": judge.get("last_finite"), **left}
    for what, snapshot in snapshots.items():
        check_like(snapshot, of_run, what)
        if snapshot is not None and what != "left":
            _check(set(snapshot["generator"]) == set(of_run["generator"]), f"{what}: generator")


def _check_under_way(left: State, reconstructor: NeuralReconstructor) -> None:
    """Check the state of iterations that are to go on, by that of others that have not begun."""
    judge, split = reconstructor.judge, left["split"]
    check_whole(split=split or 0)
    _check((split or 0) < reconstructor.generator.n_splits, "split of the iterations")
    scan = reconstructor.scan.without(split)
    projections = AcceleratedProjections(scan, judge.loss_function, None, None)
    own = Iterations(scan, projections, judge, tqdm(disable=True), lambda split, object_: None)
    unbegun = own.state_dict()
    left.setdefault("_coarse", unbegun["_coarse"])  # Files of format 5 do not have it.
    unbegun["projections"]["frames"] = ()  # They may be seen in halves.
    _check_alike(left, unbegun, "iterations")
    of_projections, n_frames = left["projections"], len(reconstructor.dataset)
    frames, of_frames = of_projections["frames"], left["of_frames"]
    for what, holds in (
        ("number", left["n_done"] <= left["until"] <= left["most"] <= MOST),
        ("stage", left["stage"] in ITERATED),
        ("step", 0 < of_projections["_step"] <= 1),
        ("parts", len(frames) == len(of_projections["_losses"])),
        ("halves", len(frames) == 3 or left["n_of_halves"] == 0),
        ("frames", all(set(some.tolist()) <= set(range(n_frames)) for some in frames)),
        ("refinements", of_frames is None or set(of_frames["due"]) <= set(range(2))),
    ):
        _check(holds, f"{what} of the iterations")


def _check_alike(saved: Any, own: Any, what: str) -> None:
    """Check that nested values are of the same kinds, and whole numbers not negative.

    What is None on either side, or empty before the first iteration, is not compared.
    """
    if isinstance(own, Tensor) and own.numel() > 0:
        check_like(saved, own, what)
    elif isinstance(own, Mapping) and saved is not None:
        _check(isinstance(saved, Mapping) and set(saved) == set(own), what)
        for name, value in saved.items():
            _check_alike(value, own[name], f"{what}: {name.strip('_')}")
    elif isinstance(own, list | tuple) and saved is not None:
        _check(isinstance(saved, list | tuple), what)
        for i, (value, like) in enumerate(zip(saved, own)):
            _check_alike(value, like, f"{what} {i}")
    elif isinstance(own, bool | str):
        _check(type(saved) is type(own), what)
    elif isinstance(own, int) and saved is not None:
        check_whole(**{what: saved})
    elif isinstance(own, float):
        _check(_is_number(saved), what)


def check_training(state: State, network: Mapping[str, Tensor], scans: Collection[str]) -> None:
    """Check the state of a training on many scans.

    Parameters
    ----------
    state : State
        As ``MultiscanTrainingWorkflow.save_state`` writes it.
    network : mapping
        Tensors of the generator.
    scans : collection of str
        Names of those that are trained on.

    Raises
    ------
    ValueError
        Naming what no training has written.
    """
    table, best_epoch, seconds = state["table"], state["best_epoch"], state["seconds"]
    check_whole(epoch=state["epoch"], best_epoch=best_epoch)
    check_table(table, "table")
    check_losses(best_score=state["best_score"])
    _check(state["epoch"] == (table["epoch"] or [0])[-1], "number of epochs")
    _check(best_epoch <= state["epoch"], "best epoch")
    _check(_is_number(seconds) and 0 <= seconds < math.inf, "number of seconds")
    losses = state["losses"]
    _check(set(losses) <= set(scans) and all(map(_is_number, losses.values())), "losses of scans")
    check_like(state["best"] or None, network, "best generator")


def check_whole(**numbers: Any) -> None:
    """Check that numbers are whole, from 0 on."""
    for name, number in numbers.items():
        if type(number) is not int or number < 0:
            raise ValueError(f"is damaged: {name.replace('_', ' ')} is {number!r}.")


def check_losses(**losses: Any) -> None:
    """Check that losses which others are compared with are numbers; infinite before the first."""
    for name, loss in losses.items():
        if not _is_number(loss) or math.isnan(loss):
            raise ValueError(f"is damaged: {name.replace('_', ' ')} is {loss!r}.")


def check_table(table: Mapping[str, Any], what: str) -> None:
    """Check that the columns of a table are numbers, as many in each, and its epochs ascend."""
    columns = list(table.values())
    whole = all(isinstance(column, list) and all(map(_is_number, column)) for column in columns)
    _check(whole and len({len(column) for column in columns}) <= 1, what)
    epochs = table["epoch"]
    _check(all(one < other for one, other in zip([-1, *epochs], epochs)), f"epochs of the {what}")


def check_steps(state: State, own: State, what: str) -> None:
    """Check the numbers of an optimiser and its scheduler by the state of its own."""
    for group, ours in zip(_groups(state), _groups(own), strict=True):
        rate = group["lr"]
        _check(_is_number(rate) and 0 <= rate < math.inf, f"step size of {what}")
        varied = SCHEDULED if "scheduler" in own else ("lr",)
        for name in set(ours) - set(varied):
            _check(
                _listed(group[name]) == _listed(ours[name]), f"{name} of the optimiser of {what}"
            )
    _check(not any(map(math.isnan, _numbers(state))), f"optimiser of {what}")
    of_tensors = state.get("optimizer", {}).get("state", {})
    known = {number for group in _groups(own) for number in group["params"]}
    _check(set(of_tensors) <= known, f"optimiser of {what}")
    for of_tensor in of_tensors.values():
        _check(bool(torch.as_tensor(of_tensor.get("step", 0)) >= 0), f"number of steps of {what}")


def _groups(state: State) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = state.get("optimizer", {}).get("param_groups", [])
    return groups


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_like(saved: Any, own: Any, what: str) -> None:
    """Check that nested tensors have the names, shapes and kinds of others, or of some of them.

    What is None on either side, as before the first run, is not compared.
    """
    if saved is None or own is None:
        return
    if isinstance(own, Tensor):
        alike = isinstance(saved, Tensor) and saved.shape == own.shape
        _check(alike and saved.is_complex() == own.is_complex(), what)
    elif isinstance(own, Mapping):
        _check(isinstance(saved, Mapping) and set(saved) <= set(own), what)
        for name, value in saved.items():
            check_like(value, own[name], f"{what}: {name}")


def _check_batches(batches: Mapping[str, list[Tensor]], n_frames: int) -> None:
    """Check that every frame is in one batch."""
    _check(set(batches) <= set(BATCHES), "batches")
    for of_kind in batches.values():
        frames = torch.cat([torch.as_tensor(batch) for batch in of_kind]).tolist()
        _check(sorted(frames) == list(range(n_frames)), "batches")


def _numbers(value: Any) -> list[float]:
    """All numbers in nested dictionaries and sequences, beside tensors."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if _is_number(value) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_misfit(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value < math.inf)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"is damaged: {what} cannot be what a run has written.")
