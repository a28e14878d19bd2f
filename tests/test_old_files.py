"""Files that earlier code wrote (``data/README.md``) give today what they gave then."""

import json
from pathlib import Path

import numpy as np
import pytest

import ptychi_neural.api as napi
from ptychi_neural.engine.state import load_training_state
from ptychi_neural.scans import Scan
from small_tasks import make_task, object_of
from trained_generators import predictor_of, whole

FOLDER = Path(__file__).parent / "data" / "e502d91"


@pytest.fixture(scope="module")
def scans():
    with np.load(FOLDER / "scans.npz") as file:
        names = ("patterns", "positions_px", "probe", "object")
        return [
            Scan(
                **{name: file[f"{n}.{name}"] for name in names},
                pixel_size_m=float(file[f"{n}.pixel_size_m"]),
            )
            for n in range(3)
        ]


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


def options_of(name):
    options = napi.NeuralPtychographyOptions()
    options.load_from_dict(json.loads((FOLDER / "options.json").read_text())[name])
    return options


@pytest.mark.parametrize("architecture", ["unrolled", "hybrid_uno"])
def test_a_generator_of_format_3_predicts_what_it_predicted(architecture, scans, expected):
    predictor = predictor_of(FOLDER / f"{architecture}.safetensors")
    assert predictor.metadata["format_version"] == 3
    predicted = whole(predictor, scans[1]).object
    assert np.abs(predicted - 1).max() > 0.1
    np.testing.assert_allclose(predicted, expected[f"{architecture}.object"], rtol=1e-4)


def test_a_reconstruction_ends_where_it_ended(scans, expected):
    task = make_task(options_of("reconstruction"), scans[0])
    load_training_state(FOLDER / "reconstruction.safetensors", task.reconstructor)
    assert task.reconstructor.current_epoch == 2
    task.run(2)
    np.testing.assert_allclose(object_of(task), expected["reconstruction.object"], rtol=1e-3)
    losses = task.reconstructor.validation.loss
    np.testing.assert_allclose(losses, expected["reconstruction.validation"], rtol=1e-3)


def test_a_training_ends_where_it_ended(scans, expected, tmp_path):
    workflow = napi.MultiscanTrainingWorkflow(scans[:2], scans[2], options_of("training"))
    workflow.load_state(FOLDER / "training.safetensors")
    assert workflow.epoch == 1
    workflow.run(1)
    table = workflow.table[["epoch", "loss", "score"]].to_numpy(float)
    np.testing.assert_allclose(table, expected["training.table"], rtol=1e-3)
    workflow.save_generator(tmp_path / "trained.safetensors", best=False)
    predicted = whole(predictor_of(tmp_path / "trained.safetensors"), scans[2]).object
    np.testing.assert_allclose(predicted, expected["training.object"], rtol=1e-3)
