"""Training on many scans in several processes: the generator of one."""

import os

import numpy as np

from several_ranks import on_ranks
from small_trainings import many_scans, trained


def training(folder):
    workflow = many_scans(scans_in_memory=1)
    workflow.run(2)
    return trained(workflow, folder)


def test_two_processes_train_what_one_trains(tmp_path):
    alone = training(tmp_path)
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    # Its number in the group is known only once the workflow has joined it.
    for found in on_ranks(2, lambda: training(folders[int(os.environ["RANK"])])):
        assert set(found) == set(alone)
        for name, expected in alone.items():
            known = np.isfinite(expected)  # The start has no loss of training.
            apart = np.linalg.norm((found[name] - expected)[known])
            assert apart <= 1e-4 * np.linalg.norm(expected[known]), name
