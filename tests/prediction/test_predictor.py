"""Trained generators at work: patches and whole scans."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ptychi_neural.api as napi
from small_tasks import make_task
from trained_generators import FRAME, options_of, predictor_of, saved, whole


def test_predicted_patches_do_not_depend_on_the_batch(one_shot, scan):
    predictor = predictor_of(one_shot)
    patches = predictor.predict(scan.patterns)
    assert patches.shape == (36, 1, *FRAME)
    assert patches.std() > 1e-3
    np.testing.assert_allclose(predictor.predict(scan.patterns[5:6]), patches[5:6], atol=1e-5)


def test_a_task_from_the_checkpoint_without_epochs_gives_the_same_object(one_shot, scan):
    options = options_of(lifter="log", checkpoint=str(one_shot))
    options.object_options.remove_object_probe_ambiguity.enabled = False
    task = make_task(options, scan)
    task.run(0)
    from_task = task.get_data_to_cpu("object", as_numpy=True)
    np.testing.assert_allclose(whole(predictor_of(one_shot), scan).object, from_task, atol=1e-5)


def test_a_few_epochs_from_the_checkpoint_lower_the_error(one_shot, jittered):
    errors = []
    for epochs in (0, 10):
        task = make_task(options_of(lifter="log", checkpoint=str(one_shot)), jittered)
        task.run(1)
        task.run(epochs)
        errors.append(task.reconstructor.loss_tracker.table.loss.iloc[-1])
    assert errors[1] < errors[0]


def test_what_needs_more_than_patterns_says_so(unrolled, one_shot, scan):
    with pytest.raises(ValueError, match=r"unrolled .* probe and positions too; use reconstruct"):
        predictor_of(unrolled).predict(scan.patterns)
    bad = scan.patterns.astype(float)
    bad[3, 2, 1] = -1
    with pytest.raises(ValueError, match="1 of 36 frames have NaN, Inf or negative"):
        predictor_of(one_shot).predict(bad)


DIGEST = """
import hashlib, sys, numpy as np, ptychi_neural.api as napi
patches = napi.NeuralPredictor.from_file(sys.argv[1]).predict(np.load(sys.argv[2]))
print(hashlib.sha256(patches.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_bits(one_shot, scan, tmp_path):
    import hashlib

    np.save(tmp_path / "patterns.npy", scan.patterns)
    command = [sys.executable, "-c", DIGEST, str(one_shot), str(tmp_path / "patterns.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    patches = predictor_of(one_shot).predict(scan.patterns)
    assert done.stdout.strip() == hashlib.sha256(patches.tobytes()).hexdigest()


def test_a_truncated_file_and_one_of_another_format_are_refused(one_shot, tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(one_shot.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        napi.NeuralPredictor.from_file(path)
    with safe_open(one_shot, framework="pt") as file:
        written = json.loads(file.metadata()["ptychi_neural"])
    del written["sha256"]
    for version, remedy in ((99, "upgrade ptychi_neural"), (1, "train it anew")):
        metadata = json.dumps(written | {"format_version": version})
        save_file(load_file(one_shot), path, metadata={"ptychi_neural": metadata})
        with pytest.raises(ValueError, match=f"format {version} .* {remedy}"):
            napi.NeuralPredictor.from_file(path)


def test_a_generator_of_the_format_before_predicts_as_it_did(jittered, tmp_path):
    path, older = tmp_path / "g.safetensors", tmp_path / "older.safetensors"
    saved(jittered, path, architecture="unrolled")
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["ptychi_neural"])
    metadata["format_version"] = 2
    del metadata["sha256"]
    del metadata["generator"]["unrolled"]["averaged_orientations"]
    del metadata["start"]["moment_iterations"], metadata["start"]["alternate_halves"]
    save_file(load_file(path), older, metadata={"ptychi_neural": json.dumps(metadata)})
    objects = [whole(predictor_of(p), jittered).object for p in (path, older)]
    np.testing.assert_array_equal(*objects)
