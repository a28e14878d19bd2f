"""One generator trained on many scans, and training state that goes on as if never interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import ptychi_neural.api as napi
from ptychi_neural.cli import app
from ptychi_neural.engine.state import (
    ATTRIBUTES,
    load_training_state,
    read_state,
    save_training_state,
    write_state,
)
from ptychi_neural.generators.files import load_generator
from ptychi_neural.runs import build_task, read_training_file, train
from ptychi_neural.runs import train as train_function
from ptychi_neural.runs.run_file import RunFileError, parse_changes
from ptychi_neural.simulation import Raster, SimulationOptions, simulate, write_simulation

TRAIN = sys.modules[train_function.__module__]


def recipe(seed, **changes):
    """36 frames of 16 x 16."""
    scan = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.5)
    return SimulationOptions(seed=seed, frame_shape=(16, 16), scan=scan, **changes)


def neural_options(architecture="unrolled", held_out=0.0):
    options = napi.NeuralPtychographyOptions()
    settings = options.reconstructor_options
    settings.default_device = "cpu"
    settings.random_seed = 0
    settings.batch_size = 18
    settings.allow_nondeterministic_algorithms = False
    settings.start.n_iterations = 3
    settings.validation.held_out = held_out
    settings.consistency.canvas_update_stride = 1
    settings.generator.architecture = architecture
    settings.generator.width = 4
    if architecture == "unrolled":
        settings.generator.unrolled.n_splits = 2
    plan = settings.generator.optimization_plan
    plan.step_size_scheduler_class = "CosineAnnealingLR"
    plan.step_size_scheduler_options = {"T_max": 10}
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    return options


def single_task(architecture, seed=0):
    """With held-out pixels; compact batches, or random ones in the scope of the scan."""
    options = neural_options(architecture, held_out=0.05)
    if architecture != "unrolled":
        options.reconstructor_options.batching_mode = "random"
        options.reconstructor_options.consistency.scope = "scan"
    return build_task(options, simulate(recipe(seed)).scan)


def outcome(task):
    """Everything a reconstruction has come to, as arrays."""
    reconstructor = task.reconstructor
    arrays = {
        name: task.get_data_to_cpu(name, as_numpy=True)
        for name in ("object", "probe", "probe_positions")
    }
    network = reconstructor.parameter_group.generator.network
    arrays |= {f"generator.{k}": v.numpy(force=True) for k, v in network.tensors().items()}
    arrays["losses"] = reconstructor.loss_tracker.table.to_numpy(float)
    arrays["validation"] = reconstructor.validation.loss.to_numpy(float)
    return arrays


def assert_equal(one, other):
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def in_new_process(code, *arguments):
    """Run code with this module's functions in a new process."""
    code = "import sys\nfrom test_train import *\n" + code
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, env=environment)


# --- one scan ------------------------------------------------------------------------------


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


def test_every_attribute_that_a_run_changes_belongs_to_the_state():
    task = single_task("unrolled")
    constant = {"_remove_ambiguity", "_transfer"}  # The latter is made of probe and positions.
    private = {name for name in vars(task.reconstructor) if name.startswith("_")}
    assert private - constant == {name for name in ATTRIBUTES if name.startswith("_")}


def test_the_state_of_another_scan_or_of_other_options_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    task = single_task("unrolled")
    save_training_state(path, task.reconstructor)
    with pytest.raises(ValueError, match="load the same frames"):
        load_training_state(path, single_task("unrolled", seed=1).reconstructor)
    with pytest.raises(ValueError, match="do not fit a generator of these options"):
        load_training_state(path, single_task("hybrid_uno").reconstructor)


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


# --- many scans ----------------------------------------------------------------------------


def many_scans(scans_in_memory=8, architecture="unrolled"):
    return napi.MultiscanTrainingWorkflow(
        [recipe(0), napi.TrainingScan(recipe(1), fresh="object"), recipe(2, photons_per_frame=1e3)],
        recipe(9),
        neural_options(architecture),
        scans_in_memory,
    )


def trained(workflow, folder):
    """Everything a training has come to, as arrays."""
    workflow.save_state(folder / "final.safetensors")
    state = read_state(folder / "final.safetensors", "training on many scans")
    arrays = {f"best.{name}": tensor.numpy() for name, tensor in state["best"].items()}
    arrays |= {f"last.{name}": tensor.numpy() for name, tensor in state["generator"].items()}
    for scan, of_scan in state["scans"].items():
        for name, tensors in of_scan["parameters"].items():
            arrays |= {f"{scan}.{name}.{key}": value.numpy() for key, value in tensors.items()}
    arrays["table"] = workflow.table[["epoch", "loss", "score"]].to_numpy(float)
    return arrays


def test_a_training_resumed_in_a_new_process_equals_one_that_was_never_stopped(tmp_path):
    whole = many_scans()
    whole.run(3)

    half = many_scans(scans_in_memory=1)
    half.run(1)
    half.step()  # Stopped in the middle of an epoch.
    half.save_state(tmp_path / "state.safetensors")
    in_new_process(
        """
workflow = many_scans()
workflow.load_state(sys.argv[1])
workflow.run(2)
np.savez(sys.argv[2], **trained(workflow, Path(sys.argv[1]).parent))
""",
        tmp_path / "state.safetensors",
        tmp_path / "outcome.npz",
    )
    with np.load(tmp_path / "outcome.npz") as resumed:
        assert_equal(dict(resumed), trained(whole, tmp_path))


def test_training_on_a_single_scan_is_what_the_engine_does():
    task = build_task(neural_options(), simulate(recipe(0)).scan)
    task.run(3)
    workflow = napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), neural_options())
    workflow.run(3)
    expected = task.reconstructor.parameter_group.generator.network.tensors()
    for name, tensor in workflow.generator.network.tensors().items():
        assert tensor.equal(expected[name]), name
    np.testing.assert_array_equal(
        workflow.table.loss[1:], task.reconstructor.loss_tracker.table.loss
    )


def test_training_lowers_the_score_of_a_scan_that_it_has_not_seen():
    workflow = many_scans()
    workflow.run(3)
    scores = workflow.table.score
    assert scores.iloc[-1] < scores.iloc[0]
    assert workflow.best_score == scores.min()


@pytest.fixture
def loaded(monkeypatch):
    """(seed, noise_seed) of the simulations that a training asks for."""
    seeds = []
    load = TRAIN.load

    def noted(run):
        seeds.append((run.simulation.seed, run.simulation.noise_seed))
        return load(run)

    monkeypatch.setattr(TRAIN, "load", noted)
    return seeds


def test_a_fresh_scan_is_drawn_anew_in_every_epoch_and_others_are_read_once(loaded):
    workflow = many_scans(architecture="hybrid_uno")
    workflow.run(3)
    seeds = [seed for seed, _ in loaded]
    fixed = [seed for seed in seeds if seed in (0, 2, 9)]
    drawn = [seed for seed in seeds if seed not in (0, 2, 9)]
    assert fixed.count(2) == fixed.count(9) == 1
    assert len(drawn) == len(set(drawn)) == 3


def test_fresh_noise_exposes_the_same_scan_again_in_every_epoch(loaded):
    scan = napi.TrainingScan(recipe(1), fresh="noise")
    napi.MultiscanTrainingWorkflow([scan], recipe(9), neural_options("hybrid_uno")).run(3)
    exposed = [noise_seed for seed, noise_seed in loaded if seed == 1]
    assert len(set(exposed) - {None}) == len(set(exposed)) == 3


def test_each_scan_refines_its_own_probe(tmp_path):
    arrays = trained(run_of(many_scans(), 2), tmp_path)
    first, second = arrays["0.probe.tensor.data"], arrays["2.probe.tensor.data"]
    start = torch.view_as_real(torch.as_tensor(simulate(recipe(0)).scan.probe)).numpy()
    start = start / np.hypot(*np.moveaxis(start, -1, 0)).max()
    assert np.abs(first - start).max() > 1e-4
    assert np.abs(second - start).max() > 1e-4
    assert np.abs(first - second).max() > 1e-4


def run_of(workflow, n_epochs):
    workflow.run(n_epochs)
    return workflow


def test_training_ends_when_patience_does():
    options = neural_options()
    options.reconstructor_options.validation.patience = 2
    options.reconstructor_options.generator.optimizable = False
    workflow = napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), options)
    workflow.run(9)
    assert workflow.out_of_patience
    assert workflow.epoch == workflow.best_epoch + 2 < 9


def test_scans_that_cannot_share_a_generator_are_refused():
    options = neural_options("hybrid_uno")
    other = recipe(1).model_copy(update={"frame_shape": (20, 20)})
    with pytest.raises(ValueError, match="16 x 16 pixels and cannot work with 20 x 20"):
        napi.MultiscanTrainingWorkflow([recipe(0), other], recipe(9), options).run(1)
    with pytest.raises(ValueError, match="held_out: set it to 0"):
        napi.MultiscanTrainingWorkflow([recipe(0)], recipe(9), neural_options(held_out=0.1))
    fresh = napi.TrainingScan(simulate(recipe(0)).scan, fresh="object")
    with pytest.raises(ValueError, match="fresh needs SimulationOptions"):
        napi.MultiscanTrainingWorkflow([fresh], recipe(9), options)


# --- the command ---------------------------------------------------------------------------

SIMULATION = (
    "simulation = { frame_shape = [16, 16], seed = SEED, "
    "scan = { kind = 'raster', n_y = 6, n_x = 6, step_px = 2.0 } }\n"
)
FILE = f"""
[training]
scans_in_memory = 1

[[scans]]
data = {{ folder = "measured", diffraction = "diffraction.h5", product = "product.h5" }}
probe_options = {{ optimizable = true }}

[[scans]]
fresh = "object"
{SIMULATION.replace("SEED", "1")}
[validation]
{SIMULATION.replace("SEED", "9")}
[reconstructor_options]
num_epochs = 2
random_seed = 0
default_device = "cpu"
allow_nondeterministic_algorithms = false

[reconstructor_options.start]
n_iterations = 3

[reconstructor_options.generator]
width = 4
unrolled = {{ n_splits = 2, n_layers = 1 }}

[probe_options]
optimizable = false
"""


@pytest.fixture
def training_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    write_simulation(simulate(recipe(0)), tmp_path / "measured")
    path = tmp_path / "tiny.toml"
    path.write_text(FILE)
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_a_training_file_gives_a_folder_and_its_train_toml_gives_it_again(training_file, tmp_path):
    assert "2 epochs, best score" in call(training_file)
    folder = tmp_path / "results" / "tiny"
    assert {path.name for path in folder.iterdir()} == {
        "generator-best.safetensors",
        "generator-last.safetensors",
        "provenance.json",
        "state.safetensors",
        "train.toml",
        "training.csv",
        "training.png",
    }
    table = pd.read_csv(folder / "training.csv")
    assert table.epoch.tolist() == [0, 1, 2]
    _, _, metadata = load_generator(folder / "generator-best.safetensors")
    assert metadata["score"] == table.score.min()
    assert metadata["epochs"] == table.score.argmin()
    assert len(metadata["scans"]) == 2
    assert metadata["validation"]["pixel_size_m"] == 1e-8
    assert json.loads((folder / "provenance.json").read_text())["epochs"] == 2

    call(folder / "train.toml", "--output", tmp_path / "again")
    one, other = (load_file(f / "generator-last.safetensors") for f in (folder, tmp_path / "again"))
    assert all(one[name].equal(other[name]) for name in one)


def test_a_resumed_command_goes_on_and_refuses_other_options(training_file, tmp_path):
    assert "exists" in call_twice(training_file)
    changes = ["--set", "reconstructor_options.num_epochs=3"]
    whole = tmp_path / "whole"
    call(training_file, "--output", whole, *changes)
    output = call(training_file, "--resume", *changes, "--set", "probe_options.step_size=1", code=2)
    assert "other scans.0" not in output
    assert "probe_options.step_size" in output
    assert "3 epochs" in call(training_file, "--resume", *changes)
    resumed = tmp_path / "results" / "tiny"
    for name in ("generator-best.safetensors", "generator-last.safetensors"):
        one, other = load_file(resumed / name), load_file(whole / name)
        assert all(one[key].equal(other[key]) for key in one)
    assert "no training to resume" in call(training_file, "--resume", "--output", "none", code=2)


def call_twice(path):
    call(path)
    return call(path, code=2)


def test_control_c_keeps_what_was_done(training_file, tmp_path, monkeypatch):
    training = read_training_file(training_file)
    whole = train(training, tmp_path / "whole", show_progress=False)
    workflow_class = TRAIN.MultiscanTrainingWorkflow
    step = workflow_class.step

    def interrupted_step(self):
        signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(workflow_class, "step", interrupted_step)
        stopped = train(training, tmp_path / "stopped", show_progress=False)
    assert stopped.stopped == "interrupted"
    assert stopped.workflow.epoch == 0
    assert (tmp_path / "stopped" / "generator-last.safetensors").is_file()
    resumed = train(training, tmp_path / "stopped", resume=True, show_progress=False)
    pd.testing.assert_frame_equal(
        resumed.workflow.table.drop(columns="seconds").astype(float),
        whole.workflow.table.drop(columns="seconds").astype(float),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('fresh = "object"', "frash = true", "scans.frash: unknown key; did you mean fresh?"),
        ("n_y = 6", "n_y = -6", "scans[1].simulation.scan"),
        ('"diffraction.h5"', '"none.h5"', "scans[0].data.diffraction: no file"),
        ("num_epochs = 2", "num_epochs = -2", "reconstructor_options.num_epochs"),
        ('product = "product.h5"', 'product = "product.h5", reference = "x"', "data.reference"),
        ('fresh = "object"', 'fresh = "dose"', "scans.fresh: Input should be 'object'"),
        ("probe_options = { optim", 'fresh = "noise" #', "scans[0].fresh: needs a simulation"),
        ("[validation]", "[probe]", "validation: required"),
        ("scans_in_memory = 1", "scans_in_memory = 0", "training.scans_in_memory"),
        ("[training]", "[trainings]", "trainings"),
    ],
)
def test_what_is_wrong_with_a_training_file_is_named(training_file, old, new, message):
    training_file.write_text(FILE.replace(old, new))
    with pytest.raises(RunFileError) as caught:
        read_training_file(training_file)
    assert message in str(caught.value)


def test_simulated_scans_share_what_the_file_says_of_all(training_file):
    changes = parse_changes(["simulation.photons_per_frame=77", "simulation.seed=5"])
    training = read_training_file(training_file, changes=changes)
    assert training.scans[0].run.simulation is None
    for scan, seed in ((training.scans[1], 1), (training.validation, 9)):
        assert scan.run.simulation.photons_per_frame == 77
        assert scan.run.simulation.seed == seed  # its own


def test_the_training_files_that_come_with_the_package_are_valid(tmp_path):
    (tmp_path / "probes_and_objects.h5").touch()  # The measured probe may be absent.
    files = sorted((Path(__file__).resolve().parents[2] / "configs" / "training").glob("*.toml"))
    assert files
    for path in files:
        assert len(read_training_file(path, data_folder=tmp_path).scans) > 1
