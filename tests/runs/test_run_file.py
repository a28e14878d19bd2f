"""Run files: what is accepted, what is refused, and what the refusal says."""

import tomllib
from pathlib import Path

import pytest
import yaml

from ptychi_neural.runs.run_file import (
    DATA_VARIABLE,
    ENGINES,
    RunFile,
    RunFileError,
    beside_defaults,
    parse_changes,
    read_recipe,
    read_run_file,
)
from ptychi_neural.runs.template import TEMPLATE

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def read(tmp_path):
    """Read a run file of the given text, on a default simulated scan unless told otherwise."""

    def read(text: str, scan: str = "[simulation]\n", **kwargs) -> RunFile:
        path = tmp_path / "run.toml"
        top, bracket, sections = text.partition("[")
        path.write_text(f"{top}\n{scan}\n{bracket}{sections}")
        return read_run_file(path, **kwargs)

    return read


@pytest.fixture
def problems(read):
    """The problems of a run file of the given text."""

    def problems(text: str, **kwargs) -> list[str]:
        with pytest.raises(RunFileError) as caught:
            read(text, **kwargs)
        assert all(problem in str(caught.value) for problem in caught.value.problems)
        return caught.value.problems

    return problems


@pytest.fixture
def scan_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("diffraction.h5", "product.h5"):
        (folder / name).touch()
    return folder


DATA = '[data]\ndiffraction = "diffraction.h5"\nproduct = "product.h5"\n'


def test_options_are_applied_under_their_own_names(read):
    run = read(
        """
        engine = "lsqml"
        [reconstructor_options]
        batch_size = 7
        batching_mode = "compact"
        [object_options.total_variation]
        enabled = true
        weight = 0.25
        """
    )
    assert type(run.options) is ENGINES["lsqml"]
    assert run.options.reconstructor_options.batch_size == 7
    assert run.options.reconstructor_options.batching_mode == "compact"
    assert run.options.object_options.total_variation.enabled is True
    assert run.options.object_options.total_variation.weight == 0.25
    assert run.options.probe_options.get_dict() == ENGINES["lsqml"]().probe_options.get_dict()


def test_the_engine_is_neural_unless_said(read):
    run = read('[reconstructor_options.generator]\narchitecture = "cnn"')
    assert run.engine == "neural"
    assert run.options.reconstructor_options.generator.architecture == "cnn"


def test_an_option_leaves_the_other_defaults_of_its_group_alone(read):
    # pty-chi's default here is a stride of 10, while that of the class is 1.
    plan = "object_options.remove_object_probe_ambiguity.optimization_plan"
    run = read(f'engine = "dm"\n[{plan}]\nstart = 5')
    plan = run.options.object_options.remove_object_probe_ambiguity.optimization_plan
    assert (plan.start, plan.stride) == (5, 10)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_filled_in_run_file_gives_the_same_run_again(read, tmp_path, engine):
    text = f'engine = "{engine}"\n[reconstructor_options]\ndisplayed_loss_function = "none"'
    run = read(text + ("\nbatch_size = 1" if engine == "pie" else ""))
    run.write(tmp_path / "filled.toml")
    again = read_run_file(tmp_path / "filled.toml")
    assert again.options.reconstructor_options.displayed_loss_function is None
    assert again.filled_in() == run.filled_in()
    assert again.simulation == run.simulation
    assert again.output_folder == run.output_folder
    written = tomllib.loads((tmp_path / "filled.toml").read_text())
    assert written["reconstructor_options"]["num_epochs"] in (100, 120)
    assert written["data_options"]["free_space_propagation_distance_m"] == float("inf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[reconstructor_options]\nnum_epoch = 3",
            ["reconstructor_options.num_epoch", "num_epochs"],
        ),
        (
            "[reconstructor_options.generator]\narchtecture = 3",
            ["reconstructor_options.generator.archtecture", "architecture"],
        ),
        (
            "[object_options.total_variation]\nweigth = 3",
            ["object_options.total_variation.weigth", "weight"],
        ),
        ("[reconstruct_options]\nx = 3", ["reconstruct_options", "reconstructor_options"]),
        ("num_epochs = 3\n[output]", ["num_epochs", "reconstructor_options.num_epochs"]),
        ("[output]\nfolde = 'x'", ["output.folde", "folder"]),
    ],
)
def test_an_unknown_key_is_named_and_the_nearest_valid_one_suggested(problems, text, expected):
    key, suggestion = expected
    assert problems(text) == [f"{key}: unknown key; did you mean {suggestion}?"]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("reconstructor_options.batch_size", "true", "valid integer, not True"),
        ("reconstructor_options.batch_size", "0", "greater than or equal to 1, not 0"),
        ("reconstructor_options.random_seed", '"3"', "valid integer, not '3'"),
        ("reconstructor_options.batching_mode", '"tiny"', "'random', 'compact' or 'uniform'"),
        ("object_options.total_variation.enabled", "1", "valid boolean, not 1"),
        ("probe_options.step_size", '"big"', "valid number, not 'big'"),
        ("probe_options", "3", "not 3"),
        ("simulation.photons_per_frame", '"many"', "valid number, not 'many'"),
        ("simulation.scan.n_y", "2.5", "valid integer"),
        ("reconstructor_options.generator.n_modes", '"x"', "valid integer, not 'x'; or: "),
        ("object_options.initial_guess", "[1]", "comes from the scan"),
        ("engine", '"lsqm"', "'lsqml'"),
    ],
)
def test_an_ill_typed_value_is_refused_by_its_dotted_name(tmp_path, key, value, complaint):
    path = tmp_path / "run.toml"
    path.write_text('[simulation.scan]\nkind = "raster"\n')
    with pytest.raises(RunFileError) as caught:
        read_run_file(path, changes=parse_changes([f"{key}={value}"]))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: ")
    assert complaint in problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("crop = [1]", "data.crop: [1] lacks item 2"),
        ("raster = { step_m = 1.0 }", "data.raster.shape: required"),
        ("probe = { semi_angle_rad = 1.0 }", "data.probe.kind: required, one of mean_pattern, "),
        ('probe = { kind = "lens" }', "data.probe.kind: no 'lens', choose from mean_pattern, "),
        ('probe = { kind = "zone_plate", diameter_m = 1.0 }', "data.probe.outermost_zone_width_m"),
        ('probe = { kind = "aperture", angle = 1.0 }', "data.probe.angle: unknown key"),
    ],
)
def test_mistakes_inside_data_are_told_by_their_whole_name(problems, scan_folder, value, problem):
    text = f'[data]\nfolder = "{scan_folder}"\ndiffraction = "diffraction.h5"\n{value}'
    assert any(line.startswith(problem) for line in problems(text))


def test_none_leaves_out_a_key_of_data(tmp_path, scan_folder):
    path = tmp_path / "run.toml"
    path.write_text(f'[data]\nfolder = "{scan_folder}"\ndiffraction = "diffraction.h5"\nbin = 2')
    run = read_run_file(path, changes=parse_changes(["data.reference=none", "data.crop=none"]))
    assert run.data.reference is None
    assert run.data.crop is None
    with pytest.raises(RunFileError, match=r"data\.bin"):
        read_run_file(path, changes=parse_changes(["data.bin=none"]))


def test_only_what_differs_from_the_defaults_is_told_of_a_run(tmp_path, scan_folder):
    path = tmp_path / "run.toml"
    path.write_text(f'[data]\nfolder = "{scan_folder}"\ndiffraction = "diffraction.h5"\nbin = 2')
    changes = parse_changes(["data.frames.stop=9", "reconstructor_options.num_epochs=3"])
    told = beside_defaults(read_run_file(path, changes=changes).filled_in())
    assert told == {
        "engine": "neural",
        "data.folder": str(scan_folder),
        "data.diffraction": "diffraction.h5",
        "data.bin": 2,
        "data.frames.stop": 9,
        "output.folder": "results/run",
        "reconstructor_options.num_epochs": 3,
    }


def test_all_problems_are_listed_at_once(problems):
    found = problems(
        """
        [reconstructor_options]
        num_epoch = 3
        batch_size = "x"
        [probe_options]
        opimizable = true
        [output]
        folder = 3
        """,
        scan='[data]\nproduct = "a.h5"',
    )
    keys = sorted(problem.partition(":")[0] for problem in found)
    assert keys == [
        "data.diffraction",
        "output.folder",
        "probe_options.opimizable",
        "reconstructor_options.batch_size",
        "reconstructor_options.num_epoch",
    ]


def test_options_that_the_engine_refuses_are_refused_with_the_file(problems):
    (problem,) = problems("[object_options.smoothness_constraint]\nenabled = true")
    assert "object_options.smoothness_constraint" in problem


def test_a_scan_is_either_measured_or_simulated(problems, scan_folder):
    assert "data, simulation" in problems("", scan="")[0]
    assert (
        "data, simulation" in problems("", scan=DATA + "[simulation]", data_folder=scan_folder)[0]
    )


def test_a_simulated_scan_takes_no_keys_of_data(problems):
    (problem,) = problems("[data]\nframes = { stop = 9 }\nbin = 2", scan="[simulation]")
    assert problem.startswith("data.frames, data.bin: a simulated scan takes no [data]")


def test_a_data_file_that_does_not_exist_is_named_before_anything_is_read(problems, scan_folder):
    (scan_folder / "product.h5").unlink()
    (problem,) = problems("", scan=DATA, data_folder=scan_folder)
    assert problem.startswith(f"data.product: no file {scan_folder / 'product.h5'}")


def test_the_data_folder_is_the_command_lines_then_the_environments_then_the_files(
    read, monkeypatch, tmp_path
):
    for name in ("argument", "environment", "file"):
        (tmp_path / name).mkdir()
        for file in ("diffraction.h5", "product.h5"):
            (tmp_path / name / file).touch()
    scan = DATA + 'folder = "file"\n'  # relative to the run file
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert read("", scan=scan).data.folder == tmp_path / "file"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "environment"))
    assert read("", scan=scan).data.folder == tmp_path / "environment"
    given = read("", scan=scan, data_folder=tmp_path / "argument")
    assert given.data.folder == tmp_path / "argument"
    (tmp_path / "environment" / "diffraction.h5").unlink()  # the data of other run files
    assert read("", scan=scan).data.folder == tmp_path / "file"


def test_files_named_by_a_simulation_are_relative_to_the_run_file(read, problems, tmp_path):
    scan = '[simulation.probe]\nkind = "file"\npath = "probe.npy"\n'
    (problem,) = problems("", scan=scan)
    assert problem.startswith(f"simulation.probe.path: no file {tmp_path / 'probe.npy'}")
    (tmp_path / "probe.npy").touch()
    assert read("", scan=scan).simulation.probe.path == tmp_path / "probe.npy"


def test_a_data_folder_for_a_simulation_without_files_is_refused(read, tmp_path):
    with pytest.raises(RunFileError, match=r"--data .*: a simulation without files has none"):
        read("", scan="[simulation]", data_folder=tmp_path)


def test_files_named_by_a_simulation_are_looked_for_in_the_data_folder_first(read, tmp_path):
    scan = '[simulation.probe]\nkind = "file"\npath = "elsewhere/probe.npy"\n'
    data = tmp_path / "data"
    for folder in (data, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "probe.npy").touch()
    found = read("", scan=scan, data_folder=data).simulation.probe.path
    assert found == data / "probe.npy"
    (data / "probe.npy").unlink()
    found = read("", scan=scan, data_folder=data).simulation.probe.path
    assert found == tmp_path / "elsewhere" / "probe.npy"


def test_a_file_that_is_not_toml_is_refused_with_the_line(problems):
    assert "line 1" in problems("engine = = 3", scan="")[0]


def test_changes_go_before_the_file(read):
    changes = parse_changes(["engine=epie", "reconstructor_options.num_epochs = 3"])
    run = read("engine = 'lsqml'\n[reconstructor_options]\nbatch_size = 9", changes=changes)
    assert run.engine == "epie"
    assert run.options.reconstructor_options.num_epochs == 3
    assert run.options.reconstructor_options.batch_size == 9


@pytest.mark.parametrize("change", ["num_epochs", "a b=3", "=3", "", "# engine = 'lsqml'"])
def test_a_malformed_change_is_refused(change):
    with pytest.raises(RunFileError, match=r"dotted\.key=value"):
        parse_changes([change])


def test_a_recipe_is_the_simulation_section_of_a_run_file():
    recipe = read_recipe(CONFIGS / "simulated.toml", parse_changes(["simulation.seed=7"]))
    assert recipe == read_run_file(CONFIGS / "simulated.toml").simulation.model_copy(
        update={"seed": 7}
    )
    assert read_recipe(None, parse_changes(["simulation.name=mine"])).name == "mine"


def test_the_template_of_init_is_a_valid_run_file(tmp_path, scan_folder):
    path = tmp_path / "new.toml"
    path.write_text(TEMPLATE)
    run = read_run_file(path, scan_folder)
    assert run.output_folder == Path("results/new")


def test_the_shipped_run_files_are_valid(tmp_path):
    for name in ("diffraction.h5", "product.h5", "reference.h5"):
        (tmp_path / "siemens_star").mkdir(exist_ok=True)
        (tmp_path / "siemens_star" / name).touch()
    for path in sorted(CONFIGS.glob("*.toml")):
        run = read_run_file(path, tmp_path if "[data]" in path.read_text("utf-8") else None)
        assert run.output_folder == Path("results") / path.stem


@pytest.mark.parametrize("name", ["simulated", "one_shot", "proposal_b"])
def test_a_run_file_may_be_yaml(name, tmp_path):
    path = CONFIGS / f"{name}.toml"
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tomllib.loads(path.read_text())))
    assert read_run_file(tmp_path / f"{name}.yaml").filled_in() == read_run_file(path).filled_in()


def test_numbers_of_yaml_have_exponents(tmp_path):
    path = tmp_path / "run.yml"
    path.write_text("simulation: {photons_per_frame: 1e5, position_error_px: 5E-1, seed: 12}\n")
    simulation = read_run_file(path).simulation
    assert (simulation.photons_per_frame, simulation.position_error_px) == (1e5, 0.5)
    assert simulation.seed == 12


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("simulation: &a {}\nreconstructor_options: *a", "instead of an alias"),
        ("- simulation", "a table of keys is expected"),
        ("", "a table of keys is expected"),
        ("simulation: {}\n---\nsimulation: {}", "single document"),
        ("simulation:\n\t- 1", "not valid YAML"),
        ('simulation: !!python/object/apply:os.system ["ls"]', "constructor for the tag"),
        ("simulation: {1: {2: 3}}", r"simulation\.1: unknown key"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("simulation: " + 900 * "[" + 900 * "]", "nested too deeply"),
    ],
)
def test_yaml_that_is_no_run_file_is_refused(text, told, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(RunFileError, match=told):
        read_run_file(path)
