"""A small simulation that is independent of the package, routes on which counts come in, and
examples that are drawn for tests of robustness."""

import warnings

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from ptychi_neural.scans import Scan, StreamedCounts, load_scan, repair, write_product

SIZE, N_SIDE = 24, 7


class Simulated:
    """Counts of 49 frames of 24 x 24 at whole-pixel positions."""

    def __init__(self, photons):
        rng = np.random.default_rng(0)
        x = np.arange(SIZE) - SIZE / 2 + 0.5
        r2 = x[:, None] ** 2 + x**2
        probe = np.exp(-r2 / 18 + 0.09j * r2)
        corners = np.stack(np.meshgrid(*2 * [np.arange(N_SIDE) * 3], indexing="ij"), -1)
        corners = corners.reshape(-1, 2) + rng.integers(0, 3, (N_SIDE**2, 2))
        n = SIZE + 3 * N_SIDE + 5
        f = np.fft.fftfreq(n)
        smooth = np.exp(-40 * (f[:, None] ** 2 + f**2))
        amplitude, phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(2, n, n))) * smooth).real
        object_ = (0.8 + 0.4 * amplitude) * np.exp(1.5j * phase)
        waves = np.array([probe * object_[y : y + SIZE, x : x + SIZE] for y, x in corners])
        intensities = np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2
        scale = photons / intensities.sum(axis=(1, 2)).max()
        self.intensities = intensities * scale
        self.counts = rng.poisson(self.intensities).astype(np.uint32)
        self.scan = Scan(
            patterns=self.counts,
            positions_px=corners + SIZE / 2 - n / 2,
            probe=(probe * np.sqrt(scale)).astype(np.complex64)[None, None],
            object=np.ones((1, n, n), np.complex64),
            pixel_size_m=1e-8,
            wavelength_m=1.4e-10,
            detector_distance_m=2.0,
        )


def by_array(sim, counts, folder):
    """Masked pixels, dropped frames and what was told of counts in an array."""
    found = repair(counts)
    return found.valid_pixel_mask, np.flatnonzero(~found.kept).tolist(), ", ".join(found.report)


def by_file(sim, counts, folder):
    """The same of counts in a file."""
    with h5py.File(folder / "diffraction.h5", "w") as file:
        file["dp"] = counts
    write_product(folder / "product.h5", sim.scan, overwrite=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scan = load_scan(folder / "diffraction.h5")
    dropped = sorted(set(range(len(counts))) - set(scan.frame_indexes.tolist()))
    return scan.valid_pixel_mask, dropped, ", ".join(str(warning.message) for warning in told)


def by_blocks(sim, counts, folder):
    """The same of counts that arrive 20 frames at a time."""
    check, told = StreamedCounts(), set()
    for n_pass in range(4):
        if n_pass and not check.outdated:
            break
        check.begin_again()
        for first in range(0, len(counts), 20):
            numbers = np.arange(first, min(first + 20, len(counts)))
            told.update(check.add(counts[numbers], numbers).report)
    assert not check.outdated
    return check.valid_pixel_mask, sorted(check.dropped), ", ".join(told)


ROUTES = {"array": by_array, "file": by_file, "blocks": by_blocks}


def result_or_words(function, *arguments, errors=(ValueError,)):
    """What a function returns and None, or None and what it says instead."""
    try:
        return function(*arguments), None
    except errors as error:
        return None, str(error)


def for_all(n, strategy, check):
    """Check n examples of a strategy, the same ones in every run."""

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def every(example):
        check(example)

    every()


FEW_AND_MANY = pytest.mark.parametrize(
    "n", [12, pytest.param(200, marks=pytest.mark.slow)], ids=["few", "many"]
)
