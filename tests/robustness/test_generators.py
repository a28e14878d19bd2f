"""Files of generators and states from elsewhere: what they declare is checked before building."""

import json
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from hostile_scans import FEW_AND_MANY, for_all, result_or_words
from ptychi_neural.engine.state import load_training_state, save_training_state
from ptychi_neural.engine.state_files import read_state, write_state
from ptychi_neural.generators.files import load_generator
from ptychi_neural.runs import infer
from ptychi_neural.scans import write_diffraction, write_product
from small_tasks import default_options, make_task, neural_options


def parts(path):
    """Descriptions without the checksum, which would tell any change first, and tensors."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
    for description in metadata.values():
        del description["sha256"]
    return metadata, tensors


def put(path, metadata, tensors):
    save_file(tensors, path, metadata={key: json.dumps(value) for key, value in metadata.items()})
    return path


@pytest.fixture(scope="module")
def task(simulated):
    options = neural_options(architecture="unrolled")
    made = make_task(options, simulated.scan)
    made.run(1)
    return made


@pytest.fixture(scope="module")
def saved(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    task.reconstructor.save_generator(folder / "generator.safetensors")
    save_training_state(folder / "state.safetensors", task.reconstructor)
    return folder


@pytest.fixture(scope="module")
def in_midst(simulated, tmp_path_factory):
    """A task, and its state in the midst of its initial reconstruction."""
    options = default_options(num_epochs=0)
    options.probe_options.optimizable = True
    options.probe_position_options.optimizable = True
    options.reconstructor_options.start.n_iterations = 30
    made, path = make_task(options, simulated.scan), tmp_path_factory.mktemp("a") / "s.safetensors"

    def save():
        if made.reconstructor.start.under_way.n_done == 20:
            save_training_state(path, made.reconstructor)

    made.reconstructor.start.pause = save
    made.run()
    del made.reconstructor.start.pause
    return made, path


DECLARED = [
    ("n_layers", ("generator", "unrolled", "n_layers"), 10**7),
    ("more layers than weights", ("generator", "unrolled", "n_layers"), 50),
    ("n_iterations", ("generator", "unrolled", "n_iterations"), 10**12),
    ("width", ("generator", "width"), 10**9),
    ("width within bounds", ("generator", "width"), 4096),
    ("negative width", ("generator", "width"), -1),
    ("width of text", ("generator", "width"), "16; import os"),
    ("architecture", ("generator", "architecture"), "../../etc"),
    ("unknown option", ("generator", "__class__"), "x"),
    ("group of another type", ("generator", "unrolled"), [1, 2]),
    ("no options", ("generator",), None),
    ("slices", ("n_slices",), 10**9),
    ("patch shape", ("patch_shape",), [10**6, 10**6]),
    ("one side", ("patch_shape",), [16]),
    ("loss", ("loss_function",), "os.system"),
    ("projections", ("start", "n_iterations"), 10**12),
    ("NaN", ("start", "momentum"), float("nan")),
    ("weighting", ("consistency", "stitch_weighting"), 3),
    ("format", ("format_version",), "4"),
    ("later format", ("format_version",), 10**6),
]


@pytest.mark.parametrize(("keys", "value"), [d[1:] for d in DECLARED], ids=[d[0] for d in DECLARED])
def test_what_a_generator_declares_is_bounded(saved, tmp_path, keys, value):
    metadata, tensors = parts(saved / "generator.safetensors")
    inner = metadata["ptychi_neural"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    clock = time.monotonic()
    with pytest.raises(ValueError, match=r"hostile\.safetensors"):
        load_generator(put(tmp_path / "hostile.safetensors", metadata, tensors))
    assert time.monotonic() - clock < 20


def test_any_change_of_a_file_is_told(saved, tmp_path):
    for name in ("generator.safetensors", "state.safetensors"):
        content = (saved / name).read_bytes()
        damaged = bytearray(content)
        damaged[-9] ^= 1
        (tmp_path / name).write_bytes(damaged)
    with pytest.raises(ValueError, match=r"generator\.safetensors: is damaged"):
        load_generator(tmp_path / "generator.safetensors")
    with pytest.raises(ValueError, match=r"state\.safetensors: is damaged"):
        read_state(tmp_path / "state.safetensors", "reconstruction")


def test_a_generator_names_no_further_file(saved, tmp_path):
    metadata, tensors = parts(saved / "generator.safetensors")
    metadata["ptychi_neural"]["generator"]["checkpoint"] = "/etc/passwd"
    _, options, _ = load_generator(put(tmp_path / "g.safetensors", metadata, tensors))
    assert options.checkpoint is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(saved, tmp_path, value):
    metadata, tensors = parts(saved / "generator.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    with pytest.raises(ValueError, match="NaN or Inf"):
        load_generator(put(tmp_path / "g.safetensors", metadata, tensors))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_another_kind_are_refused(saved, tmp_path, dtype):
    metadata, tensors = parts(saved / "generator.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name] = tensors[name].to(dtype)
    with pytest.raises(
        ValueError, match=rf"g\.safetensors: .*{name} holds {dtype}, not torch.float"
    ):
        load_generator(put(tmp_path / "g.safetensors", metadata, tensors))


def test_how_a_generator_was_trained_does_not_matter_to_its_prediction(saved, tmp_path):
    metadata, tensors = parts(saved / "generator.safetensors")
    metadata["ptychi_neural"]["generator"]["optimizer_params"] = {"lr": "x"}
    _, options, _ = load_generator(put(tmp_path / "g.safetensors", metadata, tensors))
    assert options.optimizer_params == {}


@pytest.mark.parametrize(
    ("weight", "told"), [(3e38, "predicts NaN or Inf"), (1e6, "no light at all would have 1")]
)
def test_a_prediction_that_is_none_is_not_written(saved, simulated, tmp_path, weight, told):
    metadata, tensors = parts(saved / "generator.safetensors")
    name = next(name for name, t in tensors.items() if t.is_floating_point() and t.ndim > 1)
    tensors[name] = torch.full_like(tensors[name], weight)
    path = put(tmp_path / "g.safetensors", metadata, tensors)
    write_diffraction(tmp_path / "diffraction.h5", simulated.scan.patterns)
    write_product(tmp_path / "product.h5", simulated.scan)
    with pytest.raises(FloatingPointError, match=told):
        infer(path, tmp_path / "diffraction.h5", output_folder=tmp_path / "inferred")
    assert not (tmp_path / "inferred").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole safetensors file"),
        (b"\x93NUMPY", "not a whole safetensors file"),
        (b"\xff" * 8 + b"{}", "not a whole safetensors file"),
    ],
)
def test_other_files_are_no_generators(tmp_path, content, message):
    path = tmp_path / "g.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_generator(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "{}", "nonsense", '{"format_version": null}']
)
def test_metadata_without_a_description_is_refused(tmp_path, text):
    path = tmp_path / "g.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"ptychi_neural": text})
    with pytest.raises(ValueError, match=r"g\.safetensors: its 'ptychi_neural' metadata"):
        load_generator(path)


def scan_state(metadata):
    """Names and values of what a state of a reconstruction holds."""
    content = metadata["ptychi_neural_training_state"]["state"]
    return dict(dict(content["dict"])["scan"]["dict"]), content


def test_a_state_sets_declared_fields_only(task, saved, tmp_path):
    metadata, tensors = parts(saved / "state.safetensors")
    values, _ = scan_state(metadata)
    values["batches"]["dict"].append(["__iter__", 3])
    with pytest.raises(ValueError, match="batches cannot be"):
        load_training_state(put(tmp_path / "s.safetensors", metadata, tensors), task.reconstructor)
    values["batches"]["dict"].pop()
    values["optimizers"]["dict"][-1][1]["dict"][0][1]["dict"][1][1]["list"][0]["dict"].append(
        ["step", 1]
    )
    with pytest.raises(ValueError, match="optimiser of"):
        load_training_state(put(tmp_path / "s.safetensors", metadata, tensors), task.reconstructor)


def group_of(state):
    """The numbers of the generator's optimiser."""
    return state["optimizers"]["generator"]["optimizer"]["param_groups"][0]


def renamed(state, name):
    state["start"]["objects"][name] = state["start"]["objects"][None]


FORGED = [
    ("epoch", lambda state: state.update(epoch=-5), "epoch is -5"),
    ("fraction", lambda state: state.update(epoch=1.5), "epoch is 1.5"),
    ("flag", lambda state: state.update(is_under_way="yes"), "is_under_way"),
    ("step size", lambda state: group_of(state).update(lr=math.nan), "step size of generator"),
    ("negative step size", lambda state: group_of(state).update(lr=-1.0), "step size of generator"),
    ("NaN decay", lambda state: group_of(state).update(weight_decay=math.nan), "optimiser of"),
    ("moments", lambda state: swap_moments(state), "optimiser of generator"),
    ("best loss", lambda state: state["judge"].update(best_loss=math.nan), "best loss is nan"),
    ("stage", lambda state: state["judge"]["course"].append(["x", 1, 0.5]), "stages of the judge"),
    ("step", lambda state: state["judge"]["course"].append(["epoch", -1, 0.5]), "judge is -1"),
    ("peak", lambda state: state["units"].update(peak_amplitude=torch.tensor(-1.0)), "peak"),
    ("split", lambda state: renamed(state, 7), "splits of the start"),
    ("table", lambda state: state["losses"].update(loss=[]), "losses cannot be"),
    ("object", lambda state: state["start"].update(unprojected=torch.ones(1, 2, 2)), "start"),
    ("best", lambda state: state["judge"]["last_finite"].update(probe=torch.ones(3)), "probe"),
    ("weights", lambda state: state["judge"]["last_finite"].update(generator={}), "generator"),
    ("frames", lambda state: forget_frames(state), "batches cannot be"),
]  # fmt: skip


def swap_moments(state):
    of_tensors = state["optimizers"]["generator"]["optimizer"]["state"]
    shape = of_tensors[0]["exp_avg"].shape
    of_tensors[0] = next(o for o in of_tensors.values() if o["exp_avg"].shape != shape)


def forget_frames(state):
    for batches in state["batches"].values():
        del batches[0]


@pytest.mark.parametrize(("forge", "message"), [f[1:] for f in FORGED], ids=[f[0] for f in FORGED])
def test_a_state_that_no_run_has_written_is_refused(task, saved, tmp_path, forge, message):
    state = read_state(saved / "state.safetensors", "reconstruction")
    forge(state["scan"])
    write_state(tmp_path / "forged.safetensors", "reconstruction", state)
    with pytest.raises(ValueError, match=rf"forged\.safetensors: is damaged: .*{message}"):
        load_training_state(tmp_path / "forged.safetensors", task.reconstructor)


@pytest.fixture(params=["epochs", "iterations"])
def task_and_state(request):
    """A task and its state, between two epochs or two iterations of its initial reconstruction."""
    if request.param == "iterations":
        return request.getfixturevalue("in_midst")
    folder = request.getfixturevalue("saved")
    return request.getfixturevalue("task"), folder / "state.safetensors"


@FEW_AND_MANY
def test_what_goes_on_from_a_forged_state_is_told_or_finite(n, task_and_state, tmp_path):
    """Any number of the state replaced by any other, and the run gone on with."""
    (task, good), path = task_and_state, tmp_path / "forged.safetensors"
    n_epochs = task.reconstructor.n_epochs and 1

    def check(example):
        where, number = example
        state = read_state(good, "reconstruction")
        places = [*numbers_in(state["scan"])]
        holder, key = places[where % len(places)]
        holder[key] = type(holder[key])(number) if math.isfinite(number) else number
        write_state(path, "reconstruction", state)
        _, words = result_or_words(load_training_state, path, task.reconstructor)
        if words is None:
            errors = (ValueError, FloatingPointError)
            _, words = result_or_words(task.run, n_epochs, errors=errors)
        if words is None:
            assert np.isfinite(task.get_data_to_cpu("object", as_numpy=True)).all()
            assert np.isfinite(task.get_data_to_cpu("probe", as_numpy=True)).all()
        load_training_state(good, task.reconstructor)

    numbers = st.sampled_from([-1, 0, 1, 10**13, math.nan, math.inf, -1e30, 1e30, 1e-30])
    for_all(n, st.tuples(st.integers(0, 10**6), numbers), check)


def numbers_in(state):
    """Places of all numbers in a state, as a container and a key."""
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, dict | list):
            yield from numbers_in(value)
        elif isinstance(value, int | float):
            yield state, key


@FEW_AND_MANY
def test_damaged_states_are_told(n, task_and_state, tmp_path):
    """Any value of the description replaced by any other gives an error that names the file."""
    task, good = task_and_state
    metadata, tensors = parts(good)
    text = json.dumps(metadata["ptychi_neural_training_state"])

    def check(example):
        where, what = example
        places = [i for i, c in enumerate(text) if c in ":,["]
        start = places[where % len(places)] + 1
        stop = min((k for c in ",]}" if (k := text.find(c, start)) >= 0), default=len(text))
        path = tmp_path / "damaged.safetensors"
        save_file(
            tensors, path, {"ptychi_neural_training_state": text[:start] + what + text[stop:]}
        )
        _, words = result_or_words(load_training_state, path, task.reconstructor)
        assert words is None or "damaged.safetensors" in words
        load_training_state(good, task.reconstructor)

    values = st.sampled_from(["null", "-1", "1e400", '"x"', "[]", "{}", "NaN", "10000000000000"])
    for_all(n, st.tuples(st.integers(0, 10**6), values), check)


@FEW_AND_MANY
def test_damaged_generators_are_told(n, saved, tmp_path):
    good = (saved / "generator.safetensors").read_bytes()
    path = tmp_path / "damaged.safetensors"

    def check(example):
        where, byte, length = example
        content = bytearray(good[: int(length * len(good))])
        if content:
            content[where % len(content)] = byte
        path.write_bytes(content)
        loaded, words = result_or_words(load_generator, path)
        if loaded is None:
            assert "damaged.safetensors" in words
        else:
            assert all(tensor.isfinite().all() for tensor in loaded[0].tensors().values())

    lengths = st.one_of(st.just(1.0), st.floats(0, 1))
    for_all(n, st.tuples(st.integers(0, 4000), st.integers(0, 255), lengths), check)
