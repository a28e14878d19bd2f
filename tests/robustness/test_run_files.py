"""Run files and options with anything in them: refused in words, or ready to run."""

import time
import tomllib
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st

from hostile_scans import FEW_AND_MANY, for_all, result_or_words
from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.runs.configuration import RunFileError, flattened, key_names, merged
from ptychi_neural.runs.run_file import read_run_file, run_from
from ptychi_neural.runs.run_scan import load
from ptychi_neural.runs.sections import DataSection
from ptychi_neural.runs.training_file import read_training_file
from ptychi_neural.scans import write_diffraction, write_product
from ptychi_neural.simulation import SimulationOptions, simulate
from small_tasks import make_task, neural_options

BASE = """engine = "neural"
[simulation]
seed = 1
[simulation.scan]
kind = "raster"
n_y = 2
n_x = 2
"""

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2, 10**7, 10**12]),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-3, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)

NAMES = sorted(flattened(NeuralPtychographyOptions().get_dict()))


def nested(name, value):
    """{"a": {"b": value}} of "a.b"."""
    first, *rest = name.split(".", 1)
    return {first: nested(rest[0], value) if rest else value}


@FEW_AND_MANY
def test_run_files_of_any_text_are_refused_in_words(n, tmp_path):
    path = tmp_path / "run.toml"

    def check(example):
        where, new = example
        first = int(where * len(BASE))
        path.write_bytes(BASE[:first].encode() + new + BASE[first + len(new) :].encode())
        _, words = result_or_words(read_run_file, path, errors=RunFileError)
        assert words is None or "run.toml" in words

    text = st.one_of(st.binary(max_size=12), st.text(max_size=12).map(lambda t: t.encode("utf-8")))
    for_all(n, st.tuples(st.floats(0, 1), text), check)


@FEW_AND_MANY
def test_options_of_any_value_are_refused_or_build_a_task(n, simulated):
    def check(example):
        name, value = example
        options = neural_options(architecture="unrolled")
        chosen, words = result_or_words(
            options.load_from_dict, nested(name, value), errors=(ValueError, TypeError)
        )
        if chosen is not None:
            _, words = result_or_words(make_task, options, simulated.scan)
        assert chosen is not None or words

    names = [name for name in NAMES if "class_name" not in name]
    for_all(n, st.tuples(st.sampled_from(names), ANYTHING), check)


@pytest.fixture(scope="module")
def data_files(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    scan = replace(simulated.scan, pixel_size_m=1e-8, wavelength_m=1.4e-10, detector_distance_m=2.0)
    write_diffraction(folder / "diffraction.h5", scan.patterns)
    write_product(folder / "product.h5", scan)
    return folder


@pytest.mark.parametrize("n_modes", [16 * 16 + 1, 10**7])
def test_more_modes_than_are_orthogonal_or_fit_into_memory_are_refused(
    n_modes, data_files, tmp_path
):
    files = {"folder": str(data_files), "diffraction": "diffraction.h5", "n_probe_modes": n_modes}
    run = run_from({"data": files}, tmp_path / "run.toml")
    with pytest.raises(ValueError, match=r"n_probe_modes.*take a few"):
        load(run)


OF_DATA = [name for name in DataSection.model_fields if name not in ("folder", "diffraction")]
OF_SIMULATION = sorted(set(key_names(SimulationOptions)) - {"name"})
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 8, 64, 10**7, 10**12, 0.5, 1e-30, 1e-12, 1e3, 1e30, 1e300]),
    st.tuples(st.integers(-1, 64), st.integers(-1, 64)).map(list),
    st.lists(st.floats(), min_size=2, max_size=2),
)


@FEW_AND_MANY
@pytest.mark.parametrize("section", ["data", "simulation"])
def test_sections_of_any_value_are_refused_in_words_or_give_a_finite_scan(
    n, section, data_files, tmp_path
):
    path = tmp_path / "run.toml"
    contents = {
        "data": {"data": {"folder": str(data_files), "diffraction": "diffraction.h5"}},
        "simulation": tomllib.loads(BASE),
    }[section]
    names = {"data": OF_DATA, "simulation": OF_SIMULATION}[section]

    def check(example):
        name, value = example
        changed = merged(contents, {f"{section}.{name}": value})
        run, words = result_or_words(run_from, changed, path, errors=RunFileError)
        if run is None:
            assert section in words
            return
        clock = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            errors = (ValueError, FileNotFoundError)
            loaded, words = result_or_words(load, run, errors=errors)
        assert time.monotonic() - clock < 60, (name, value)
        if loaded is None:
            assert words
            return
        for array in (loaded[0].patterns, loaded[0].positions_px, loaded[0].probe):
            assert np.isfinite(array).all(), (name, value)

    for_all(n, st.tuples(st.sampled_from(names), st.one_of(NUMBERS, ANYTHING)), check)


TRAINING = """
[[scans]]
simulation = {}
[validation]
simulation = { seed = 1 }
"""


@pytest.mark.parametrize(
    "number", ["1" + 12 * "0", "2147483648", "1" + 4400 * "0"], ids=["12", "31", "4400"]
)
@pytest.mark.parametrize(
    "name",
    [
        *("reconstructor_options.num_epochs", "reconstructor_options.batch_size"),
        *("reconstructor_options.start.joint_iterations", "probe_options.optimization_plan.stop"),
        *("simulation.scan.n_x", "training.checkpoint_stride"),
    ],
)
def test_numbers_that_no_run_counts_to_are_refused_by_name(name, number, tmp_path):
    group, key = name.rsplit(".", 1)
    is_training = name.startswith("training")
    path = tmp_path / "run.toml"
    kind = 'kind = "raster"\n' if group == "simulation.scan" else ""
    first = TRAINING if is_training else BASE.split("[")[0]
    path.write_text(f"{first}[{group}]\n{kind}{key} = {number}")
    with pytest.raises(RunFileError) as refused:
        (read_training_file if is_training else read_run_file)(path)
    told = refused.value.problems
    assert any(line.startswith(f"{name}: at most") or "digits" in line for line in told), told
    assert max(map(len, told)) < 200


def test_a_script_is_told_of_a_number_that_no_run_counts_to(simulated):
    options = neural_options()
    options.reconstructor_options.num_epochs = 10**12
    with pytest.raises(ValueError, match=r"\.num_epochs: at most 2147483647"):
        make_task(options, simulated.scan)


def test_a_seed_may_have_all_of_its_64_bits(tmp_path):
    seed = 2**63 - 1
    run = run_from(merged(tomllib.loads(BASE), {"simulation.seed": seed}), tmp_path / "run.toml")
    assert run.simulation.seed == seed
    with pytest.raises(RunFileError, match=r"simulation\.seed: at most"):
        run_from(merged(tomllib.loads(BASE), {"simulation.seed": 2**63}), tmp_path / "run.toml")


def test_counts_may_be_written_as_whole_numbers_of_any_size(tmp_path):
    bright = merged(tomllib.loads(BASE), {"simulation.photons_per_frame": 10**11})
    run = run_from(bright, tmp_path / "run.toml")
    assert run.simulation.photons_per_frame == 1e11
    np.save(tmp_path / "frames.npy", np.ones((2, 16, 16)))
    data = {"diffraction": str(tmp_path / "frames.npy"), "saturated_counts": 2**32 - 1}
    run = run_from({"data": data}, tmp_path / "run.toml")
    assert run.data.saturated_counts == 2**32 - 1


@pytest.mark.parametrize(
    "scan",
    [
        {"kind": "raster", "n_y": 10**6, "n_x": 10**6},
        {"kind": "fermat_spiral", "n": 10**9},
        {"kind": "concentric", "n_rings": 10**6},
        {"kind": "line", "n": 10**9},
    ],
)
def test_scans_of_more_positions_than_memory_holds_are_refused_at_once(scan):
    clock = time.monotonic()
    with pytest.raises(ValueError, match="lower frame_shape, scan"):
        simulate(SimulationOptions(scan=scan))
    assert time.monotonic() - clock < 5


@pytest.mark.parametrize("depth", [100, 10_000])
def test_deep_contents_are_refused(tmp_path, depth):
    path = tmp_path / "run.toml"
    path.write_text("x = " + "[" * depth + "]" * depth)
    with pytest.raises(RunFileError):
        read_run_file(path)
