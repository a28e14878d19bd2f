"""Training state of one scan, from which a run goes on as if never interrupted."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from ptychi_neural.engine.state import (
    load_training_state,
    reconstructor_state,
    restore_reconstructor,
    save_training_state,
)
from ptychi_neural.engine.state_files import read_state, write_state
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.simulation import simulate
from small_trainings import (
    assert_equal,
    in_new_process,
    outcome,
    recipe,
    single_task,
    training_options,
)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["unrolled", "hybrid_uno"])
def test_a_reconstruction_resumed_in_a_new_process_equals_one_that_was_never_stopped(
    architecture, tmp_path
):
    whole = single_task(architecture)
    whole.run(4)

    half = single_task(architecture)
    half.run(2)
    save_training_state(tmp_path / "state.safetensors", half.reconstructor)
    in_new_process(
        """
from ptychi_neural.engine.state import load_training_state
task = single_task(sys.argv[1])
load_training_state(sys.argv[2], task.reconstructor)
task.run(2)
np.savez(sys.argv[3], **outcome(task))
""",
        architecture,
        tmp_path / "state.safetensors",
        tmp_path / "outcome.npz",
    )
    with np.load(tmp_path / "outcome.npz") as resumed:
        assert_equal(dict(resumed), outcome(whole))
    assert not np.array_equal(outcome(half)["probe_positions"], outcome(whole)["probe_positions"])


@pytest.mark.parametrize("architecture", ["unrolled", "hybrid_uno"])
def test_a_restored_reconstruction_has_the_state_that_was_saved(architecture, tmp_path):
    task = single_task(architecture)
    task.run(2)
    save_training_state(tmp_path / "state.safetensors", task.reconstructor)
    saved = read_state(tmp_path / "state.safetensors", "reconstruction")["scan"]
    restored = single_task(architecture)
    restore_reconstructor(restored.reconstructor, saved)
    for name in ("units", "judge", "start", "continuation"):
        value = getattr(restored.reconstructor, name)
        same(value.state_dict(), getattr(task.reconstructor, name).state_dict(), name)
    state = reconstructor_state(restored.reconstructor)
    same(state, reconstructor_state(task.reconstructor), "state")


def same(one, other, where):
    """Compare nested states bit by bit; sequences may have become lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other)), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            same(*pair, f"{where}[{i}]")
    else:
        assert type(one) is type(other), where
        assert one == other or one != one, where


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("units", {"group"}),
        ("judge", {"options", "loss_function", "_least_loss"}),  # The data make the latter.
        ("start", {"judge", "observer", "_transfer", "left"}),  # Made by others, and what is read.
        ("continuation", set()),
    ],
)
def test_every_attribute_that_a_run_changes_belongs_to_the_state(name, constant):
    task = single_task("unrolled")
    task.run(0)
    value = getattr(task.reconstructor, name)
    assert set(vars(value)) - constant == set(value.state_dict())


def test_the_state_of_another_scan_or_of_other_options_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    task = single_task("unrolled")
    task.run(0)
    save_training_state(path, task.reconstructor)
    with pytest.raises(ValueError, match="other frames, positions, probe: load the files"):
        load_training_state(path, single_task("unrolled", seed=1).reconstructor)
    with pytest.raises(ValueError, match="do not fit a generator of these options"):
        load_training_state(path, single_task("hybrid_uno").reconstructor)


def exchanged(array):
    """The same numbers, the first two in each other's place."""
    return np.concatenate([array[1::-1], array[2:]])


OTHERS = {
    "frames": lambda scan: {"patterns": exchanged(scan.patterns)},
    "positions": lambda scan: {"positions_px": exchanged(scan.positions_px)},
    "probe": lambda scan: {"probe": scan.probe[..., ::-1].copy()},
    "object": lambda scan: {"object": scan.object * np.exp(0.1j).astype(np.complex64)},
    "mask": lambda scan: {"valid_pixel_mask": np.arange(16 * 16).reshape(16, 16) > 0},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_scan_is_known_by_more_than_the_sum_of_its_counts(name, tmp_path):
    scan = simulate(recipe(0)).scan
    task = build_task(training_options(), scan)
    task.run(0)
    save_training_state(tmp_path / "state.safetensors", task.reconstructor)
    other = dataclasses.replace(scan, **OTHERS[name](scan))
    with pytest.raises(ValueError, match=f"of a scan with other {name}: load the files"):
        load_training_state(
            tmp_path / "state.safetensors", build_task(training_options(), other).reconstructor
        )


def test_a_scan_that_another_machine_has_rounded_otherwise_is_the_same(tmp_path):
    scan = simulate(recipe(0)).scan
    task = build_task(training_options(), scan)
    task.run(0)
    save_training_state(tmp_path / "state.safetensors", task.reconstructor)
    rounded = {name: getattr(scan, name) * (1 + 1e-6) for name in ("probe", "positions_px")}
    again = build_task(training_options(), dataclasses.replace(scan, **rounded))
    load_training_state(tmp_path / "state.safetensors", again.reconstructor)


def test_a_file_that_is_no_state_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(FileNotFoundError, match="no such training state"):
        read_state(path, "reconstruction")
    task = single_task("unrolled")
    task.run(0)
    task.reconstructor.save_generator(path)
    with pytest.raises(ValueError, match="no training state"):
        read_state(path, "reconstruction")
    write_state(path, "breakfast", {})
    with pytest.raises(ValueError, match="of a breakfast, not of a reconstruction"):
        read_state(path, "reconstruction")
    path.write_bytes(path.read_bytes()[:-1] if path.stat().st_size > 100 else b"12345")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_state(path, "reconstruction")


def test_a_state_comes_back_from_its_file_as_it_was(tmp_path):
    state = {
        None: [1, (2.5, "three")],
        4: {"complex": torch.tensor([1 + 2j]), "empty": torch.zeros(0)},
        "infinite": float("inf"),
        "numpy": np.float64(0.1),
    }
    write_state(tmp_path / "state.safetensors", "test", state)
    back = read_state(tmp_path / "state.safetensors", "test")
    assert back[4].pop("complex").equal(state[4].pop("complex"))
    assert back[4].pop("empty").equal(state[4].pop("empty"))
    assert back == state
    with pytest.raises(TypeError, match=r"cannot hold a .*Path"):
        write_state(tmp_path / "state.safetensors", "test", {"path": tmp_path})
    assert read_state(tmp_path / "state.safetensors", "test")["numpy"] == 0.1


KILLED = """
import os, random, signal, sys, time
import torch
from ptychi_neural.engine.state import read_state, write_state
path, torch_threads = sys.argv[1], torch.set_num_threads(1)
write_state(path, "test", {"count": 0, "tensor": torch.zeros(2**18)})
moments = random.Random(0)
seen = set()
for _ in range(60):
    pid = os.fork()
    if pid == 0:
        count = read_state(path, "test")["count"]
        while True:
            count += 1
            write_state(path, "test", {"count": count, "tensor": torch.full((2**18,), count)})
    time.sleep(moments.uniform(0.02, 0.08))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    state = read_state(path, "test")
    assert (state["tensor"] == state["count"]).all()
    seen.add(state["count"])
print(len(seen))
"""


@pytest.mark.slow
def test_killing_the_process_while_it_saves_never_leaves_an_unreadable_state(tmp_path):
    path = tmp_path / "state.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, path], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 30, "it was hardly ever saving when it was killed"
