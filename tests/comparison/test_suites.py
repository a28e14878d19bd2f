"""Suite files: those of the package, where they are found, and what is refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.comparison.benchmark import benchmark, offered
from ptychi_neural.comparison.benchmark.suite_files import SUITES as FOLDER
from ptychi_neural.comparison.benchmark.suite_files import read_suite, run_file
from ptychi_neural.comparison.engines import engine_options
from ptychi_neural.runs.run_file import RunFileError

SUITES = sorted(FOLDER.glob("*.toml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_the_suites_that_come_with_the_package_are_valid(path, tmp_path):
    (tmp_path / "probes_and_objects.h5").touch()  # The measured probe may be absent.
    suite, _ = read_suite(path)
    assert suite.name == path.stem
    whole = {cell.key for cell in suite.cells(whole=True)}
    reduced = suite.cells(whole=False)
    assert 0 < len({cell.key for cell in reduced}) == len(reduced)
    assert {cell.key for cell in reduced} <= whole
    n_runs = 3 if suite.half_scans else 1
    assert sum(cell.max_seconds * n_runs for cell in reduced) < 3600
    for cell in reduced:
        if "simulation" in cell.contents:
            engine = suite.engines[cell.engine]
            engine_options(engine.engine or cell.engine, run_file(cell, path, tmp_path))


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["benchmark", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_lists_the_suites_of_the_package_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = call().splitlines()
    names = [line.partition(": ")[0] for line in lines]
    assert names == [*(path.stem for path in SUITES), "stream"]
    assert dict(line.split(": ", 1) for line in lines) == offered()
    assert list(tmp_path.iterdir()) == []


def test_the_command_finds_suites_of_the_package_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = Path("results") / "benchmarks" / "smoke" / "records"
    assert f"{records}: there are no records" in call("smoke", "--figures-only", code=2)
    assert list(tmp_path.iterdir()) == []
    output = call("smokey", code=2)
    assert "no suite smokey" in output
    assert "bars, deviation, dose-overlap" in output


def test_paths_in_a_suite_of_the_package_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    data = tmp_path / "shared" / "data"
    for folder in ("shared/data/siemens_star", "shared/data/rotavirus", "elsewhere", "here"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("diffraction", "product", "reference"):
        for scan in ("siemens_star", "rotavirus"):
            (data / scan / f"{name}.h5").touch()
    (data / "probes_and_objects.h5").touch()
    monkeypatch.chdir(tmp_path / "here")
    suite, path = read_suite("real")
    cell = suite.cells(whole=False)[0]
    assert run_file(cell, path).data.folder == data
    lines, lines_path = read_suite("lines128")
    simulation = run_file(lines.cells(whole=False)[0], lines_path).simulation
    assert simulation.probe.path == data / "probes_and_objects.h5"

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFileError, match="PTYCHI_NEURAL_DATA, or --data"):
        run_file(cell, path)
    assert run_file(cell, path, data).data.folder == data
    monkeypatch.setenv("PTYCHI_NEURAL_DATA", str(data))
    assert run_file(cell, path).data.folder == data


def test_paths_in_a_suite_of_the_user_are_relative_to_its_file(tmp_path, monkeypatch):
    monkeypatch.delenv("PTYCHI_NEURAL_DATA", raising=False)
    (tmp_path / "suites").mkdir()
    (tmp_path / "shared" / "data" / "siemens_star").mkdir(parents=True)
    for name in ("diffraction", "product", "reference"):
        (tmp_path / "shared" / "data" / "siemens_star" / f"{name}.h5").touch()
    mine = tmp_path / "suites" / "mine.toml"
    mine.write_text((FOLDER / "real.toml").read_text())
    suite, path = read_suite(mine)
    assert run_file(suite.cells(whole=False)[0], path).data.folder == tmp_path / "shared" / "data"


def test_bars_compares_the_defaults_with_all_classical_baselines_on_six_scans():
    suite, path = read_suite(next(path for path in SUITES if path.stem == "bars"))
    assert len(suite.axes["scan"]) == 6
    assert len(suite.cells(whole=True)) == 6 * 3 * 3 * 8
    assert suite.engines["neural"].changes == {}
    assert suite.judged("neural") == "end"
    assert {suite.judged(name) for name in suite.baselines} == {"best_truth"}
    assert {suite.held_out(name) for name in suite.baselines} == {0}
    runs = {
        cell.coordinates["scan"]: run_file(cell, path)
        for cell in suite.cells(whole=True)
        if cell.engine == "neural"
    }
    assert runs["1e5-step-8"].simulation.scan.step_px == 8
    assert runs["1e5-step-8"].simulation.scan.n_x == 20
    unknown = runs.pop("1e4-probe-unknown")
    assert unknown.simulation.probe_defocus_error == 0.3
    assert unknown.options.probe_options.optimizable
    assert not any(run.options.probe_options.optimizable for run in runs.values())


def test_real_conditions_asks_what_has_to_be_known_at_a_beamline():
    suite, path = read_suite("real-conditions")
    cells = suite.cells(whole=True)
    assert len(cells) == 8 * 3 * 3 * 3 * 4
    assert suite.engines["neural"].changes == {}
    assert suite.engines["initial"].changes == {"reconstructor_options.num_epochs": 0}
    assert [suite.judged(name) for name in suite.engines] == ["end"] * 2 + ["best_truth"] * 2
    assert {bar.at["condition"] for bar in suite.bars} >= {"three-modes", "opr", "two-slices"}
    first = {cell.coordinates["condition"]: cell for cell in reversed(cells)}
    runs = {condition: run_file(cell, path) for condition, cell in first.items()}
    assert all(run.options.probe_options.optimizable for run in runs.values())
    assert {run.simulation.probe_defocus_error for run in runs.values()} == {0.3}
    moved = {k for k, run in runs.items() if run.options.probe_position_options.optimizable}
    assert moved == {k for k, run in runs.items() if run.simulation.position_error_px}
    for engine in {plan.engine or name for name, plan in suite.engines.items()}:
        options = engine_options(engine, runs["opr"]).opr_mode_weight_options
        assert (options.optimizable, options.optimize_eigenmode_weights) == (True, True)
        options = engine_options(engine, runs["beam"]).opr_mode_weight_options
        assert (options.optimizable, options.optimize_intensity_variation) == (True, True)
        assert engine_options(engine, runs["positions-2"]).probe_position_options.optimizable


def test_ablations_give_each_network_the_factors_that_have_an_effect_on_it():
    suite, path = read_suite("ablations")
    cells = suite.cells(whole=True)
    of = {}
    for cell in cells:
        of.setdefault((cell.coordinates["scan"], cell.coordinates["network"]), set()).add(
            cell.engine
        )
    assert all("as-is" in engines for engines in of.values())
    assert of["spiral", "hybrid_uno"] == {"as-is", "mix-gno", "mix-attention"}
    for (_, network), engines in of.items():
        for engine in engines - {"mix-attention"}:  # It sets the architecture too.
            groups = {key.split(".")[2] for key in suite.engines[engine].changes if "." in key[30:]}
            assert groups & {"cascaded", "ffno", "hybrid_uno", "u_fno"} <= {network}
    cell = next(cell for cell in cells if cell.engine == "skips-off")
    options = engine_options("neural", run_file(cell, path), suite.engines["skips-off"].changes)
    generator = options.reconstructor_options.generator
    assert (generator.architecture, generator.hybrid_uno.skips) == ("hybrid_uno", "off")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "tiny"', "", "name: required"),
        ("max_seconds = 20", "max_second = 20", "max_second: unknown key"),
        ("max_seconds = 20", 'max_seconds = "20"', "max_seconds: "),
        ('label = "1e3"', 'label = "1/e3"', "axes.dose.0.label: "),
        ('label = "1e3"', 'label = "1e5"', "axes.dose: needs points with different labels"),
        ('baselines = ["lsqml"]', 'baselines = ["lsq"]', "baselines: there is no lsq"),
        ('curves = "dose"', 'curves = "does"', "figures.curves: there is no does"),
        (
            "seeds = [0",
            'bars = [{ at = { dose = "1e9" }, ratio = 1 }]\nseeds = [0',
            "bars.0.at: there is no 1e9, only 1e3, 1e5",
        ),
        (
            "[figures]",
            '[figures]\nmetrics = ["eror"]',
            "figures.metrics: there is no eror, only error",
        ),
        ("seeds = [1]", "seeds = [5]", "reduced.seeds: there is no 5"),
        ("seeds = [1]", 'axes = { dose = ["1e9"] }', "reduced.axes.dose: there is no 1e9"),
        ('engine = "lsqml"', 'engine = "lsq"', "axes.dose.1e5.engine: there is no lsq"),
        (
            'label = "1e3"',
            'label = "1e3", engines = ["lsq"]',
            "axes.dose.1e3.engines: there is no lsq",
        ),
        ("engines.lsqml", "engines.lsqmll", "engines.lsqmll.engine: required, one of neural"),
        ("held_out_fraction", 'engine = "pie"\nheld_out_fraction', "engines.lsqml.engine: "),
        ("overlap = [", "seed = [", "axes.seed: the name is taken"),
        ('judged_at = "best_truth"', "", "engines.lsqml.held_out_fraction: above 0"),
        ("[base.simulation]", "[base.data]", "engines.lsqml.judged_at: best_truth needs"),
        ("[engines.lsqml]", '[engines.lsqml]\nafter = "nobody"', "engines.lsqml.after: must be"),
        ("[engines.lsqml]", '[engines.lsqml]\nafter = "lsqml"', "engines.lsqml.after: must be"),
        ("[axes]", "[axes", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_suite_is_told_by_key(tiny_suite, tmp_path, before, after, message):
    assert before in tiny_suite
    path = tmp_path / "bad.toml"
    path.write_text(tiny_suite.replace(before, after))
    with pytest.raises(RunFileError) as caught:
        read_suite(path)
    assert any(message in problem for problem in caught.value.problems)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("simulation.scan.step_px", "simulation.scan.step", "simulation.scan.step: unknown key"),
        ("options.num_epochs", "options.num_epoch", "reconstructor_options.num_epoch: unknown"),
    ],
)
def test_a_change_of_a_key_that_is_none_is_refused_before_anything_is_run(
    tiny_suite, tmp_path, before, after, message
):
    path = tmp_path / "bad.toml"
    path.write_text(tiny_suite.replace(before, after))
    with pytest.raises(RunFileError, match=message):
        benchmark(path, tmp_path / "results", whole=True, show_progress=False)
    assert not (tmp_path / "results").exists()
