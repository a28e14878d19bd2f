"""The neural engine on measured patterns."""

from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

import ptychi_neural.api as napi
from ptychi_neural.comparison.target import Target
from ptychi_neural.evaluation import align, contrast, phase_correlation, scanned_area
from ptychi_neural.prediction.deviation import reprojection_error
from ptychi_neural.projections.defocus import find_defocus
from ptychi_neural.runs import build_task
from ptychi_neural.runs.reconstruct import load
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.scans import select_frames
from ptychi_neural.simulation import ProbeFile, Raster, SimulationOptions, simulate
from small_tasks import default_options

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def siemens_star(data_folder, n_frames):
    """The run file, these many frames in the middle of its scan, and its reference."""
    run = read_run_file(CONFIGS / "siemens_star.toml", data_folder)
    scan, reference = load(run)
    middle = np.argsort(np.hypot(*scan.positions_px.T))[:n_frames]
    return run, select_frames(scan, np.sort(middle)), reference[0]


@pytest.mark.slow
def test_the_siemens_star_is_found_from_an_analytic_probe_and_the_network_keeps_it(data_folder):
    """Frames in the middle of the scan, against a longer LSQML reconstruction of all frames.

    Few frames pin the probe down less: 0.948 with 80, 0.983 with these, 0.992 with all 516.

    Correlation and contrast both, because neither loss nor amplitude error tells a flat object.
    """
    run, scan, reference = siemens_star(data_folder, 160)
    area = scanned_area(scan.positions_px, scan.object.shape)
    task = build_task(run.options, scan)

    def correlation_and_contrast():
        object_ = task.get_data_to_cpu("object", as_numpy=True)[0]
        object_ = align(object_, reference, ramp=True, shift=True, mask=area).aligned
        correlation = phase_correlation(object_, reference, area)
        return correlation, contrast(object_, reference, area).phase

    task.run(0)
    by_projections, _ = correlation_and_contrast()
    task.run(2)
    correlation, phase_contrast = correlation_and_contrast()
    assert by_projections > 0.95
    assert correlation > by_projections - 0.005
    assert 0.8 < phase_contrast < 1.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "side", "step_px", "kind", "seed", "most"),
    [
        ("hxn_29902", 100, 4.0, "natural", 0, 0.01),
        ("gold_balls", 104, 5.0, "cells", 0, 0.023),
        ("hxn_29902", 100, 4.0, "cells", 2, 0.009),
    ],
)
def test_a_measured_probe_is_found_from_the_mean_pattern(
    data_folder, dataset, side, step_px, kind, seed, most
):
    """The first once ended in fringes with the period of the scan (.051), the second at a defocus
    far off (.20); the probe of the third, in whose patterns most pixels are dark, joined late
    (.012). LSQML comes to .016, .017 and .0076, an empty object to .29 and .23 in the first two."""
    probe = ProbeFile(path=data_folder / "probes_and_objects.h5", dataset=f"{dataset}/probe")
    simulated = simulate(
        SimulationOptions(
            seed=seed,
            photons_per_frame=1e6,
            frame_shape=(side, side),
            probe=probe,
            probe_guess="mean_pattern",
            object={"kind": kind},
            scan=Raster(n_y=10, n_x=10, step_px=step_px, jitter_px=step_px / 4),
        )
    )
    options = default_options(num_epochs=0)
    options.probe_options.optimizable = True
    task = build_task(options, simulated.scan)
    task.run()
    scan, found = simulated.scan, task.get_data_to_cpu("object", as_numpy=True)
    assert Target(simulated.truth.object, "ground truth").error(found, scan, True) < most


@pytest.mark.parametrize("n_splits", [1, 4])
def test_the_zone_plates_defocus_is_found_however_the_pixels_are_split(data_folder, n_splits):
    """A probe in focus, 3.7 radians rms away, fits each frame by itself and shows no object."""
    run, scan, _ = siemens_star(data_folder, 70)
    run.options.reconstructor_options.generator.unrolled.n_splits = n_splits
    reconstructor = build_task(run.options, scan).reconstructor
    reconstructor.begin_run()
    loss_function = reconstructor.judge.loss_function
    found = find_defocus(reconstructor.scan, loss_function, tqdm(disable=True))
    assert -1.2 < found < -0.4


@pytest.mark.slow
def test_a_generator_fitted_to_every_second_frame_predicts_the_others(data_folder, tmp_path):
    run, scan, _ = siemens_star(data_folder, 100)
    fitted, others = (select_frames(scan, np.arange(first, 100, 2)) for first in (0, 1))
    task = build_task(run.options, fitted)
    task.run(2)
    error = reprojection_error(task.reconstructor.scan, task.get_data("object")).mean()
    task.reconstructor.save_generator(tmp_path / "generator.safetensors")
    predicted = napi.NeuralPredictor.from_file(tmp_path / "generator.safetensors").reconstruct(
        others.patterns,
        others.positions_px,
        task.get_data_to_cpu("probe", as_numpy=True),
        object_shape=scan.object.shape[-2:],
    )
    assert 0 < predicted.reprojection_error.mean() < 1.2 * error.item()
