"""Resumable state of a reconstruction, and of what a training goes on from.

It holds what a fit goes on from: generator, probe, positions and scale with their optimisers and
schedulers, the start, the judge, epoch, tables and random state. The data are not in it.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from ptychi.data_structures.base import ReconstructParameter
from ptychi.utils import move_nested_tensors_to_device
from torch.utils.data import DataLoader

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.snapshot import Continuation
from ptychi_neural.engine.state_checks import BATCHES, check_fitted, check_like, check_steps
from ptychi_neural.engine.state_files import State, damage_told, read_state, write_state


def save_training_state(path: str | Path, reconstructor: NeuralReconstructor) -> None:
    """Save the state of a reconstruction between two runs, in the place of an earlier one.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file. It is replaced in one step: whenever the process dies, the file
        is the old or the new one.
    reconstructor : NeuralReconstructor
        ``task.reconstructor``.
    """
    random = reconstructor.surroundings.random_state()
    state = {"scan": reconstructor_state(reconstructor), "random": random}
    write_state(path, "reconstruction", state)


def load_training_state(path: str | Path, reconstructor: NeuralReconstructor) -> None:
    """Take up the state of a reconstruction, so that it goes on as if it had never ended.

    Parameters
    ----------
    path : str or Path
        The file.
    reconstructor : NeuralReconstructor
        ``task.reconstructor`` of a task with the same data and options.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no state of a reconstruction, or that of another scan or other options.
    """
    state = read_state(path, "reconstruction")
    with damage_told(path):
        restore_reconstructor(reconstructor, state["scan"])
        reconstructor.surroundings.restore_random_state(state["random"])


def reconstructor_state(reconstructor: NeuralReconstructor, generator: bool = True) -> State:
    """Give what a reconstructor goes on from; tensors are its own, not copies.

    Parameters
    ----------
    reconstructor : NeuralReconstructor
        The reconstructor.
    generator : bool
        Whether the generator and its optimiser belong to the state.
    """
    group = reconstructor.parameter_group
    parameters = group.fitted()
    loader = _loader(reconstructor)
    sampler = loader.batch_sampler
    continuation, latest = reconstructor.continuation, reconstructor.latest
    state: State = {
        "known_scan": reconstructor.known_scan.state_dict(),
        "epoch": reconstructor.current_epoch,
        "is_under_way": reconstructor.is_under_way,
        "normalization_pending": reconstructor.normalization_pending,
        "object_is_assembled": reconstructor.object_is_assembled,
        "continuation": None if continuation is None else continuation.state_dict(),
        "units": reconstructor.units.state_dict(),
        "judge": reconstructor.judge.state_dict(),
        "start": reconstructor.start.state_dict(),
        "parameters": {name: dict(p.state_dict()) for name, p in parameters.items()},
        "optimizers": {name: optimizer_state(p) for name, p in parameters.items()},
        "latest_patches": None if latest is None else latest.patches,
        "batches": {name: getattr(sampler, name) for name in BATCHES if hasattr(sampler, name)},
        "shuffle": loader.generator.get_state(),
        "losses": reconstructor.loss_tracker.table.to_dict("list"),
    }
    if generator:
        state["generator"] = {
            name: tensor
            for name, tensor in reconstructor.generator.tensors().items()
            if not (reconstructor.normalization_pending and tensor.isnan().any())
        }
        state["optimizers"]["generator"] = optimizer_state(group.generator)
    return state


def restore_reconstructor(reconstructor: NeuralReconstructor, state: State) -> None:
    """Give a newly built reconstructor the state that ``reconstructor_state`` returned.

    Raises
    ------
    ValueError
        If the state is that of another scan or of other options.
    """
    if "known_scan" in state:
        reconstructor.known_scan.check(state["known_scan"])
    else:
        reconstructor.known_scan.check_counts(state["counts"])
    if "attributes" in state:
        state = _from_format_2(state)
    group = reconstructor.parameter_group
    parameters = group.fitted()
    device = group.object.data.device
    try:
        for name, values in state["parameters"].items():
            parameters[name].load_state_dict(values)
    except RuntimeError as error:
        raise ValueError(f"the state is that of other options: {error}") from error
    if "generator" in state:
        taken = {**state["generator"]}
        if state["normalization_pending"]:  # Units that are not taken yet are left out.
            taken = {**reconstructor.generator.tensors(), **taken}
        reconstructor.generator.load_tensors(taken)
        restore_optimizer(group.generator, state["optimizers"]["generator"])
    for name, parameter in parameters.items():
        if name in state["optimizers"]:  # Earlier files have none of slice spacings.
            restore_optimizer(parameter, state["optimizers"][name])
    check_fitted(state, reconstructor)
    values = {
        name: move_nested_tensors_to_device(state[name], device)
        for name in ("units", "judge", "start", "continuation", "latest_patches")
    }
    reconstructor.current_epoch = state["epoch"]
    reconstructor.is_under_way = state.get("is_under_way", False)
    reconstructor.normalization_pending = state["normalization_pending"]
    reconstructor.object_is_assembled = state["object_is_assembled"]
    reconstructor.units.load_state_dict(values["units"])
    reconstructor.judge.load_state_dict(values["judge"])
    reconstructor.start.load_state_dict(values["start"])
    reconstructor.continuation = Continuation.from_state_dict(values["continuation"])
    if reconstructor.latest is not None:
        reconstructor.latest.patches = values["latest_patches"]
        reconstructor.latest.refresh(reconstructor.model.positions(reconstructor.model.everything))
    for name in BATCHES:
        if name in state["batches"]:
            setattr(_loader(reconstructor).batch_sampler, name, state["batches"][name])
    _loader(reconstructor).generator.set_state(state["shuffle"])
    if state["losses"]["epoch"]:
        reconstructor.loss_tracker.table = pd.DataFrame(state["losses"])


def _from_format_2(state: State) -> State:
    """The state of a reconstructor as files of format 2 have it, in today's layout."""
    attributes, course = state["attributes"], state["validation"]
    last, left = attributes["_last"], attributes["_finished"]
    return {
        **{k: v for k, v in state.items() if k not in ("attributes", "validation")},
        "epoch": attributes["current_epoch"],
        "normalization_pending": attributes["_normalization_pending"],
        "object_is_assembled": attributes["_assembled"],
        "continuation": None if left is None else {"last": last, "left": left},
        "units": {"peak_amplitude": attributes["_peak_amplitude"]},
        "judge": {
            "course": list(zip(course["stage"], course["step"], course["loss"])),
            "best": attributes["_best"],
            "best_loss": attributes["_best_loss"],
            "patience_from": attributes["_patience_from"],
        },
        "start": {
            "objects": state["start_objects"],
            "unprojected": attributes["_unprojected"],
            "n_iterated": attributes["_n_projected"],
            "total_variation": attributes["_total_variation"],
        },
        "latest_patches": state["scan_patches"],
    }


def _loader(reconstructor: NeuralReconstructor) -> DataLoader[Any]:
    loader = reconstructor.dataloader
    assert loader is not None
    return loader


def optimizer_state(parameter: ReconstructParameter) -> State:
    """State of a parameter's optimiser and scheduler, where it has them."""
    parts = {"optimizer": parameter.optimizer, "scheduler": parameter.step_size_scheduler}
    return {name: part.state_dict() for name, part in parts.items() if part is not None}


def restore_optimizer(parameter: ReconstructParameter, state: State) -> None:
    """Give a parameter's optimiser and scheduler the state of ``optimizer_state``.

    Raises
    ------
    ValueError
        If the parameter has others than the state.
    """
    if set(state) != set(optimizer_state(parameter)):
        raise ValueError(
            f"the state is that of other options: {parameter.name} had {sorted(state)}, now it "
            f"has {sorted(optimizer_state(parameter))}."
        )
    for own, saved in zip(_declared(optimizer_state(parameter)), _declared(state)):
        if own != saved:
            raise ValueError(
                f"the optimiser of {parameter.name} has {sorted(own)}, its state {sorted(saved)}: "
                "it is that of another optimiser or version."
            )
    check_steps(state, optimizer_state(parameter), str(parameter.name))
    if parameter.optimizer is not None:
        parameter.optimizer.load_state_dict(state["optimizer"])
        for tensor, values in parameter.optimizer.state.items():
            moments = {name: value for name, value in values.items() if name != "step"}
            check_like(moments, dict.fromkeys(moments, tensor), f"optimiser of {parameter.name}")
    if parameter.step_size_scheduler is not None:
        parameter.step_size_scheduler.load_state_dict(state["scheduler"])
    parameter.sync_step_size_from_optimizer()


def _declared(state: State) -> list[set[str]]:
    """Names that optimiser and scheduler would take from a state; each group of weights has some.

    A scheduler takes over any name, and with it would lose a method of this name.
    """
    groups = state.get("optimizer", {}).get("param_groups", [])
    return [set(state.get("scheduler", {})), *(set(group) for group in groups)]
