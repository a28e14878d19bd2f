"""How even errors are over a scan, and how far they are chance.

A scan is simulated with several seeds of its noise and reconstructed from each. What a deviation
can know of an error is the mean of its magnitude over all noise; the rest is chance. Run

    python tests/evenness_of_errors.py 1e2

with the photons of a frame.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ptychi_neural.comparison.target import load_with_target
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.evaluation.coverage import smoothed_errors
from ptychi_neural.runs.run_file import run_from

KINDS = ("natural", "dead_leaves")
N_SEEDS = 6


def errors_of(kind: str, photons: float, noise_seed: int) -> np.ndarray:
    """(n_pixels,) smoothed magnitudes of the errors in the scanned area."""
    scan = {"kind": "raster", "n_y": 14, "n_x": 14}
    simulation = {"scan": scan, "object": {"kind": kind}, "photons_per_frame": photons}
    contents = {
        "simulation": simulation | {"seed": 0, "noise_seed": noise_seed},
        "probe_options": {"optimizable": False},
        "reconstructor_options": {"random_seed": 0, "default_device": "cpu"},
    }
    run = run_from(contents, Path("run.toml"))
    scan, target = load_with_target(run)
    task = build_task(run.options, scan, run.chosen)
    task.run()
    return smoothed_errors(*target.aligned(task.get_data_to_cpu("object", True), scan, False))


def tell(kind: str, photons: float) -> None:
    errors = np.array([errors_of(kind, photons, seed) for seed in range(1, N_SEEDS + 1)])
    mean = errors.mean(axis=0)
    of_chance = errors.var(axis=0, ddof=1).mean() / len(errors)  # What is left of it in the mean.
    expected = np.sqrt(max(mean.var() - of_chance, 0)) / mean.mean()
    of_others = [
        spearmanr(error, np.delete(errors, n, axis=0).mean(axis=0)).statistic
        for n, error in enumerate(errors)
    ]
    print(
        f"{kind}, {photons:g} photons: the error's magnitude varies by "
        f"{(errors.std(axis=1) / errors.mean(axis=1)).mean():.2f} of its mean, its mean over "
        f"noise by {expected:.2f}; rank correlation of an error with the mean of those of "
        f"{N_SEEDS - 1} other seeds of noise {np.median(of_others):.2f} "
        f"({min(of_others):.2f} to {max(of_others):.2f})"
    )


if __name__ == "__main__":
    for kind in KINDS:
        tell(kind, float(sys.argv[1]))
