"""Neural first, then a classical engine from its object and probe."""

import h5py
import numpy as np
import pandas as pd
import ptychi.api as api
import pytest

import ptychi_neural.api as napi
from ptychi_neural.evaluation import complex_error, scanned_area
from ptychi_neural.runs import build_task, reconstruct
from ptychi_neural.runs.run_file import RunFileError, read_run_file
from ptychi_neural.scans import read_product
from ptychi_neural.simulation import Raster, SimulationOptions, simulate

RUN = """
engine = "neural"

[simulation]
frame_shape = [16, 16]
scan = {{ kind = "raster", n_y = 8, n_x = 8, step_px = 2.0, jitter_px = 0.5 }}

[reconstructor_options]
num_epochs = 2
random_seed = 4
default_device = "cpu"
start = {{ n_iterations = 40 }}

[probe_options]
optimizable = false

[refine]
engine = "lsqml"
{refine}
"""


@pytest.fixture
def run_file(tmp_path):
    def write(refine='reconstructor_options = { num_epochs = 3, batching_mode = "compact" }'):
        path = tmp_path / "warm.toml"
        path.write_text(RUN.format(refine=refine))
        return path

    return write


def test_lsqml_goes_on_from_the_neural_object_and_is_ahead_of_an_empty_start():
    scan = Raster(n_y=8, n_x=8, step_px=2.0, jitter_px=0.5)
    simulated = simulate(SimulationOptions(seed=3, frame_shape=(16, 16), scan=scan))
    truth = simulated.truth.object[0]
    area = scanned_area(simulated.truth.positions_px, truth.shape)

    def lsqml():
        options = api.LSQMLOptions()
        options.reconstructor_options.num_epochs = 3
        options.reconstructor_options.default_device = "cpu"
        options.probe_options.optimizable = False
        return build_task(options, simulated.scan)

    def error(task):
        return complex_error(task.get_data_to_cpu("object", as_numpy=True)[0], truth, area)

    neural = napi.NeuralPtychographyOptions()
    neural.reconstructor_options.num_epochs = 2
    neural.reconstructor_options.default_device = "cpu"
    neural.probe_options.optimizable = False
    workflow = napi.NeuralWarmStartWorkflow(build_task(neural, simulated.scan), lsqml())
    assert not workflow.run(show_progress=False)
    assert workflow.losses.task.tolist() == [0, 0, 1, 1, 1]
    cold = lsqml()
    cold.run()
    assert error(workflow.reached) < 0.7 * error(cold)


def test_the_disagreement_of_the_predictions_stands_beside_the_object(tmp_path, run_file):
    path = run_file()
    contents = path.read_text().split("[refine]")[0]
    typical = []
    for photons in (1e3, 1e6):
        dose = f"[simulation]\nphotons_per_frame = {photons}"
        path.write_text(contents.replace("[simulation]", dose))
        result = reconstruct(
            read_run_file(path), tmp_path / f"result-{photons}", show_progress=False
        )
        area = scanned_area(result.scan.positions_px, result.scan.object.shape[-2:])
        with h5py.File(result.folder / "product.h5") as file:
            deviation = file["object_std"][()][area]
        assert np.isfinite(deviation).all()
        typical.append(np.median(deviation))
    assert typical[0] > 2 * typical[1] > 0


def test_a_run_file_with_refine_gives_one_result_with_both_histories(run_file, tmp_path):
    run = read_run_file(run_file())
    assert run.refine is not None
    assert not run.refine.options.probe_options.optimizable  # as the file has it for the first
    result = reconstruct(run, tmp_path / "result", show_progress=False)
    assert result.losses.engine.tolist() == ["neural"] * 2 + ["lsqml"] * 3
    assert {"product.h5", "generator.safetensors", "loss.png", "validation.csv"} <= {
        path.name for path in result.folder.iterdir()
    }
    refined = result.task.get_data_to_cpu("object", as_numpy=True)
    np.testing.assert_array_equal(read_product(result.folder / "product.h5").object, refined)
    assert not np.allclose(
        refined, result.first_task.get_data_to_cpu("object", as_numpy=True), atol=1e-4
    )
    assert len(pd.read_csv(result.folder / "losses.csv")) == 5
    again = reconstruct(
        read_run_file(result.folder / "run.toml"), tmp_path / "again", show_progress=False
    )
    np.testing.assert_allclose(read_product(again.folder / "product.h5").object, refined, atol=1e-5)


@pytest.mark.parametrize(
    ("refine", "named"),
    [
        ("reconstructor_options = { num_epoch = 3 }", "refine.reconstructor_options.num_epoch"),
        ("generator = 3", "refine.generator"),
    ],
)
def test_what_is_wrong_with_refine_is_named(run_file, refine, named):
    with pytest.raises(RunFileError, match=named):
        read_run_file(run_file(refine))


def test_an_unknown_engine_to_refine_with_is_refused(run_file):
    path = run_file()
    path.write_text(path.read_text().replace('engine = "lsqml"', 'engine = "magic"'))
    with pytest.raises(RunFileError, match=r"refine\.engine"):
        read_run_file(path)
