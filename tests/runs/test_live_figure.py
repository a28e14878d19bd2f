"""The picture of a reconstruction under way."""

import numpy as np
import pytest
from skimage.io import imread

from ptychi_neural import evaluation
from ptychi_neural.runs import reconstruct
from ptychi_neural.runs.run_file import parse_changes, read_run_file
from small_runs import RUN

REFINE = '\n[refine]\nengine = "rpie"\nreconstructor_options = { num_epochs = 3 }\n'


def run(tmp_path, name, *changes):
    path = tmp_path / "scan.toml"
    path.write_text(RUN + REFINE)
    run_file = read_run_file(
        path, changes=parse_changes(["reconstructor_options.random_seed=3", *changes])
    )
    result = reconstruct(run_file, tmp_path / name, show_progress=False)
    return result.scan.object


def test_it_shows_every_stage_and_changes_nothing(tmp_path, monkeypatch):
    drawn = []
    draw = evaluation.reconstruction_figure

    def watched(path, object_, probe, losses=None, **kwargs):
        draw(path, object_, probe, losses, **kwargs)
        if path.name == "shown.live.png":
            drawn.append((len(losses), imread(path).std(), object_))

    monkeypatch.setattr(evaluation, "reconstruction_figure", watched)
    monkeypatch.setattr("ptychi_neural.runs.live_figure.DRAWING_SHARE", 1e9)
    shown = run(tmp_path, "shown", "output.live_figure_seconds=1e-6")
    numbers = [n for n, _, _ in drawn]
    assert numbers[:4] == [0] * 4  # projections
    assert {1, 2, 6} <= set(numbers)  # epochs
    assert numbers[-3:] == [1, 2, 3]  # of the engine that goes on
    assert min(contrast for _, contrast, _ in drawn) > 10
    assert not np.array_equal(drawn[0][2], drawn[3][2])
    assert not (tmp_path / "shown.live.png").exists()
    monkeypatch.undo()
    np.testing.assert_array_equal(shown, run(tmp_path, "plain"))


def test_a_picture_that_fails_is_told_once_and_ends_no_run(tmp_path, monkeypatch):
    draw = evaluation.reconstruction_figure

    def failing(path, *args, **kwargs):
        if path.name.endswith("live.png"):
            raise OSError("the disk is full")
        draw(path, *args, **kwargs)

    monkeypatch.setattr(evaluation, "reconstruction_figure", failing)
    with pytest.warns(UserWarning, match="live.png could not be drawn: the disk is full") as told:
        run(tmp_path, "scan", "output.live_figure_seconds=1e-6")
    assert sum("could not be drawn" in str(each.message) for each in told) == 1
    assert (tmp_path / "scan" / "figure.png").exists()
