"""What a script registers is at home in the package: ``test_register.py`` runs these tests.

They have a process of their own, because what they register is known to all that comes after them.
"""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ptychi.api.options.base import Options
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

import ptychi_neural.api as napi
from notebook_cells import run_cells
from ptychi_neural.generators import Generator, OneShotNetwork
from ptychi_neural.generators.files import load_generator
from ptychi_neural.generators.heads import build_head, output_convolution
from ptychi_neural.generators.lifters import Lifter
from ptychi_neural.runs.configuration import RunFileError
from ptychi_neural.runs.run_file import read_run_file
from small_tasks import default_options, make_task, neural_options, object_of
from trained_generators import predictor_of, whole


@dataclass
class MineOptions(Options):
    """A stack of things."""

    n_things: int = Field(default=2, ge=1)
    """Number of things."""

    def problems(self):
        if self.n_things == 13:
            yield "n_things = 13: brings bad luck; set 12"


@napi.register_architecture("mine", MineOptions, unused=("block", "n_modes"))
class Mine(OneShotNetwork):
    """Convolutions at one resolution."""

    def __init__(self, options, n_patches, patch_shape):
        super().__init__()
        things = [
            layer
            for _ in range(options.mine.n_things)
            for layer in (nn.Conv2d(options.width, options.width, 3, padding=1), nn.GELU())
        ]
        self.body = nn.Sequential(*things)
        self.output = output_convolution(options.width, 2 * n_patches)
        self.head = build_head(options.head, options.maximum_amplitude)

    def forward(self, features):
        return self.head(self.output(self.body(features)))


@dataclass
class OneStepOptions(Options):
    """One learned step."""

    first_step: float = Field(default=0.1, gt=0)
    """What it is before it is learned."""


NOT_OF_ONE_STEP = (
    *("width", "block", "n_modes", "lifter", "shallow_cnn"),
    *("head", "maximum_amplitude", "grid_size"),
)


@napi.register_architecture("one_step", OneStepOptions, unused=NOT_OF_ONE_STEP)
class OneStep(Generator):
    """O + a u(O), from the start O."""

    def __init__(self, options, n_slices, patch_shape):
        super().__init__(options, n_slices, patch_shape)
        self.step = nn.Parameter(torch.tensor(options.one_step.first_step))

    def forward(self, scan):
        return scan.start + self.step * scan.update(scan.start)

    def fit_normalization(self, scans):
        """A step has no units."""

    def deviation(self, scan):
        return torch.full_like(scan.coverage, torch.nan)

    def why_not_frame_by_frame(self, start):
        return "a step is taken with all frames"

    def sums(self, scan):
        raise NotImplementedError

    object_of_sums = deviation_of_sums = sums


@napi.register_lifter("fourth_root")
class FourthRootLifter(Lifter):
    """The fourth root of the counts, which is at most 1 in each pattern."""

    def normalize(self, x):
        roots = x.clamp_min(0).sqrt().sqrt()
        return roots / roots.amax(dim=(-2, -1), keepdim=True).clamp_min(1.0)


@napi.register_correcting_network("single")
def single(options, patch_shape):
    """One convolution."""
    return nn.Conv2d(options.width, options.width, 3, padding=1)


def of_architecture(architecture):
    if architecture == "one_step":
        return neural_options(architecture=architecture, width=napi.GeneratorOptions().width)
    options = neural_options(architecture=architecture)
    if architecture == "unrolled":
        options.reconstructor_options.generator.unrolled.network = "single"
    return options


CHOICES = [
    pytest.param(of_architecture("mine"), id="one-shot"),
    pytest.param(neural_options(architecture="mine", lifter="fourth_root"), id="lifter"),
    pytest.param(of_architecture("one_step"), id="generator"),
    pytest.param(of_architecture("unrolled"), id="correcting network"),
]


# --- choices and options -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "value"),
    [
        (napi.Architectures, "mine"),
        (napi.Architectures, "one_step"),
        (napi.Lifters, "fourth_root"),
        (napi.UnrolledNetworks, "single"),
    ],
)
def test_what_is_registered_is_a_choice_like_others(choices, value):
    member = getattr(choices, value.upper())
    assert isinstance(member, choices)
    assert member is choices(value) is choices[value.upper()] is copy.deepcopy(member)
    assert member == value == str(member) == member.value
    assert member.name == value.upper()
    assert list(choices).count(member) == 1
    assert member in choices


def test_options_have_the_group_and_come_back_from_json():
    options = napi.NeuralPtychographyOptions()
    generator = options.reconstructor_options.generator
    assert generator.mine == MineOptions(n_things=2)
    generator.architecture, generator.lifter = "mine", "fourth_root"
    generator.mine.n_things = 5
    assert generator.architecture is napi.Architectures.MINE
    saved = json.loads(json.dumps(options.get_dict()))
    loaded = napi.NeuralPtychographyOptions()
    loaded.load_from_dict(saved, strict=True)
    assert loaded.reconstructor_options.generator.mine.n_things == 5
    assert loaded.reconstructor_options == options.reconstructor_options
    assert json.loads(json.dumps(loaded.get_dict())) == saved


def test_bounds_of_the_group_are_kept_wherever_it_is_set():
    generator = napi.NeuralPtychographyOptions().reconstructor_options.generator
    with pytest.raises(ValidationError, match="n_things"):
        generator.mine.n_things = 0
    with pytest.raises(ValidationError, match="n_things"):
        generator.mine = {"n_things": 0}
    with pytest.raises(ValidationError, match="n_things"):
        napi.NeuralReconstructorOptions(generator={"mine": {"n_things": 0}})
    with pytest.raises(ValidationError, match="architecture"):
        generator.architecture = "yours"
    assert generator.mine.n_things == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "cnn", "mine": MineOptions(n_things=3)}, "generator.mine: has no effect"),
        ({"architecture": "mine", "block": "fno"}, "generator.block: has no effect"),
        (
            {"architecture": "mine", "mine": MineOptions(n_things=13)},
            "generator.mine.n_things = 13: brings bad luck",
        ),
    ],
)
def test_what_has_no_effect_is_refused_by_name(simulated, change, named):
    with pytest.raises(ValueError, match=named):
        make_task(neural_options(**change), simulated.scan)


RUN = """
engine = "neural"

[simulation]

[reconstructor_options.generator]
architecture = "mine"
lifter = "fourth_root"
mine = { n_things = 3 }
"""


def test_run_files_know_it(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    run = read_run_file(path)
    generator = run.options.reconstructor_options.generator
    assert (generator.architecture, generator.lifter) == ("mine", "fourth_root")
    assert generator.mine.n_things == 3
    filled_in = run.filled_in()["reconstructor_options"]["generator"]
    assert filled_in["mine"] == {"n_things": 3}
    for wrong, message in (("n_things = 0", "mine.n_things"), ("n_thinks = 3", "mine.n_thinks")):
        path.write_text(RUN.replace("n_things = 3", wrong))
        with pytest.raises(RunFileError, match=f"reconstructor_options.generator.{message}"):
            read_run_file(path)


# --- fits, files, prediction ---------------------------------------------------------------


@pytest.mark.parametrize("options", CHOICES)
def test_it_is_fitted_saved_loaded_and_predicts(options, simulated, tmp_path):
    task = make_task(options, simulated.scan)
    task.run(6)
    losses = task.reconstructor.loss_tracker.table.loss
    assert losses.iloc[-1] < losses.iloc[0]

    path = tmp_path / "generator.safetensors"
    task.reconstructor.save_generator(path)
    network, saved, _ = load_generator(path)
    assert not saved.different_structure(options.reconstructor_options.generator)
    fitted = task.reconstructor.generator
    assert type(network) is type(fitted)
    assert all(torch.equal(t, fitted.tensors()[name]) for name, t in network.tensors().items())
    with torch.no_grad():
        scan = task.reconstructor.scan
        assert torch.equal(network(scan), fitted(scan))

    predicted = whole(predictor_of(path), simulated.scan)
    options = copy.deepcopy(options)
    options.reconstructor_options.generator.checkpoint = str(path)
    options.object_options.remove_object_probe_ambiguity.enabled = False
    again = make_task(options, simulated.scan)
    again.run(0)
    assert np.abs(predicted.object - 1).max() > 1e-3
    np.testing.assert_allclose(predicted.object, object_of(again), atol=1e-5)
    assert predicted.standard_deviation.shape == predicted.object.shape[-2:]


def test_the_defaults_work_with_it(simulated):
    options = default_options(num_epochs=2)
    options.reconstructor_options.generator.architecture = "one_step"
    task = make_task(options, simulated.scan)
    task.run()
    assert np.isfinite(task.reconstructor.validation.loss).all()


def test_it_is_trained_on_many_scans(simulated):
    options = of_architecture("mine")
    workflow = napi.MultiscanTrainingWorkflow([simulated.scan] * 2, simulated.scan, options)
    workflow.run(2)
    assert workflow.best_score < workflow.table.score.iloc[0]


# --- where it is not registered ------------------------------------------------------------


WITHOUT = """
import sys
from ptychi_neural.generators.files import load_generator
from ptychi_neural.runs.run_file import read_run_file
for path in sys.argv[1:]:
    try:
        (read_run_file if path.endswith(".toml") else load_generator)(path)
    except ValueError as error:
        print(error)
"""


def told_elsewhere(tmp_path, options, scan):
    """What a process says that registers nothing of its own, of a run file and a generator."""
    written = read_run_file_of(options, tmp_path)
    written.write(tmp_path / "stated.toml")
    task = make_task(options, scan)
    task.run(0)
    task.reconstructor.save_generator(tmp_path / "generator.safetensors")
    paths = [str(tmp_path / name) for name in ("stated.toml", "generator.safetensors")]
    command = [sys.executable, "-c", WITHOUT, *paths]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_run_file_of(options, tmp_path):
    path = tmp_path / "run.toml"
    generator = options.reconstructor_options.generator
    path.write_text(
        "[simulation]\n[reconstructor_options.generator]\n"
        f"architecture = '{generator.architecture}'\nlifter = '{generator.lifter}'\n"
    )
    return read_run_file(path)


def test_other_architectures_are_read_where_it_is_not_registered(simulated, tmp_path):
    assert told_elsewhere(tmp_path, neural_options(architecture="cnn"), simulated.scan) == ""


@pytest.mark.parametrize(("choice", "value"), [("architecture", "mine"), ("lifter", "fourth_root")])
def test_what_is_not_registered_there_is_named(simulated, tmp_path, choice, value):
    options = neural_options(**{"architecture": "cnn", choice: value})
    of_run_file, of_generator = told_elsewhere(tmp_path, options, simulated.scan).split(
        str(tmp_path / "generator.safetensors")
    )
    assert f"not '{value}'" in of_run_file
    assert f"generator.{choice} = '{value}' is not registered here; import" in of_generator


# --- refusals ------------------------------------------------------------------------------


def register_network(name):
    napi.register_correcting_network(name)(lambda options, patch_shape: nn.Identity())


def register_lifter(name):
    napi.register_lifter(name)(type("AnyLifter", (Lifter,), {}))


def register_architecture(name, **options):
    napi.register_architecture(name, **options)(type("AnyNetwork", (OneShotNetwork,), {}))


REGISTERS = [
    (register_architecture, napi.Architectures, ["mine", "cnn"]),
    (register_lifter, napi.Lifters, ["fourth_root", "log"]),
    (register_network, napi.UnrolledNetworks, ["single", "dilated"]),
]


@pytest.mark.parametrize(("register", "choices", "known"), REGISTERS)
def test_a_name_is_registered_once(register, choices, known):
    before = list(choices)
    for name in known:
        with pytest.raises(ValueError, match=f"'{name}' already: choose another name"):
            register(name)
    assert list(choices) == before


@pytest.mark.parametrize(("register", "choices", "known"), REGISTERS)
@pytest.mark.parametrize("name", ["", "two words", "half-precision", "2d", "Mine", "class"])
def test_what_is_no_name_is_refused(register, choices, known, name):
    before = list(choices)
    with pytest.raises(ValueError, match="choose a name in lower case"):
        register(name)
    assert list(choices) == before


@pytest.mark.parametrize("name", ["width", "head", "get_dict", "optimizer"])
@pytest.mark.parametrize("group", [None, MineOptions])
def test_an_architecture_cannot_have_the_name_of_an_option(name, group):
    before = list(napi.Architectures)
    with pytest.raises(ValueError, match=f"'{name}' already: choose another name"):
        register_architecture(name, options=group)
    assert list(napi.Architectures) == before
    assert napi.GeneratorOptions().width == 16


def test_an_architecture_is_a_generator_or_the_network_of_a_one_shot_one():
    before = list(napi.Architectures)
    with pytest.raises(TypeError, match="derive it from Generator or OneShotNetwork"):
        napi.register_architecture("anything")(nn.Linear)
    assert list(napi.Architectures) == before


# --- the notebook --------------------------------------------------------------------------


def test_the_architecture_of_the_notebook_is_saved_and_predicts(tmp_path, monkeypatch):
    names = run_cells("own_architecture", tmp_path, monkeypatch)
    assert names["predictor"].generator.options.architecture == napi.Architectures.LEARNED_FILTER
    assert (tmp_path / "results" / "own_architecture" / "comparison.png").exists()
