"""Trained generators that start other tasks."""

import numpy as np
import pytest

import ptychi_neural.api as napi
from small_tasks import make_task, neural_options, object_of


def test_a_saved_generator_starts_another_task(simulated, tmp_path):
    task = make_task(neural_options(), simulated.scan)
    task.run(3)
    path = tmp_path / "generator.safetensors"
    task.reconstructor.save_generator(path)
    with pytest.raises(FileExistsError):
        task.reconstructor.save_generator(path)
    again = make_task(neural_options(checkpoint=str(path)), simulated.scan)
    again.run(0)
    np.testing.assert_allclose(object_of(again), object_of(task), atol=1e-5)


def test_a_saved_generator_brings_its_structure_and_its_projections(simulated, tmp_path):
    options = napi.NeuralPtychographyOptions()
    options.reconstructor_options.generator.width = 6
    options.reconstructor_options.generator.unrolled.n_layers = 1
    options.reconstructor_options.start.n_iterations = 3
    path = tmp_path / "generator.safetensors"
    task = make_task(options, simulated.scan)
    with pytest.raises(ValueError, match="has seen no data"):
        task.reconstructor.save_generator(path)
    task.run(0)
    task.reconstructor.save_generator(path)
    options = napi.NeuralPtychographyOptions()
    generator = options.reconstructor_options.generator
    generator.checkpoint, generator.unrolled.n_splits = str(path), 2
    assert make_task(options, simulated.scan).reconstructor.n_projections() > 3  # refines the probe
    options.probe_options.optimizable = False
    task = make_task(options, simulated.scan)
    in_use = task.reconstructor.options.generator
    assert (in_use.width, in_use.unrolled.n_layers, in_use.unrolled.n_splits) == (6, 1, 2)
    assert task.reconstructor.pixels.n_splits == 2
    assert task.reconstructor.n_projections() == 3
    options.reconstructor_options.start.n_iterations = 2
    assert make_task(options, simulated.scan).reconstructor.n_projections() == 2
    assert generator.width == napi.NeuralPtychographyOptions().reconstructor_options.generator.width


def test_a_generator_of_other_options_is_refused(simulated, tmp_path):
    task = make_task(neural_options(), simulated.scan)
    task.run(0)
    path = tmp_path / "generator.safetensors"
    task.reconstructor.save_generator(path)
    other = {"checkpoint": str(path), "head": "real_imaginary", "width": 8}
    with pytest.raises(ValueError, match=r"than width = 8 \(saved: 4\), head = .*Leave them out"):
        make_task(neural_options(**other), simulated.scan)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        make_task(neural_options(checkpoint=str(path)), simulated.scan)
    with pytest.raises(FileNotFoundError, match="no such generator"):
        make_task(neural_options(checkpoint=str(tmp_path / "none")), simulated.scan)
