"""A small simulation that is independent of the package, and files made of it."""

import dataclasses

import h5py
import numpy as np
import pytest

from ptychi_neural.scans import Scan, write_product

SIZE = 32


def blobs(rng, n, width):
    """(n, n) smooth random numbers of unit deviation."""
    f = np.fft.fftfreq(n)
    kernel = np.exp(-2 * (np.pi * width) ** 2 * (f[:, None] ** 2 + f**2))
    smooth = np.fft.ifft2(np.fft.fft2(rng.normal(size=(n, n))) * kernel).real
    return smooth / smooth.std()


def probe_of(kind):
    """A Gaussian with curvature, or the focus of a disc or of a zone plate with central stop."""
    x = np.arange(SIZE) - SIZE / 2 + 0.5
    r = np.hypot(x[:, None], x)
    if kind == "gauss":
        return np.exp(-(r**2) / 25 + 0.075j * r**2)
    pupil = (r < 6.4) if kind == "disc" else (r < 9.6) & (r > 3.2)
    focus = np.fft.ifft2(np.fft.ifftshift(pupil * np.exp(0.02j * r**2)))
    return np.fft.fftshift(focus) * SIZE


def object_of(kind, rng, n):
    if kind == "absorber":  # half of it lets next to nothing through
        return np.where(np.arange(n)[:, None] < n // 2, 1, 0.05) * np.exp(0.3j * blobs(rng, n, 2))
    return (0.8 + 0.08 * blobs(rng, n, 1.5)) * np.exp(0.4j * blobs(rng, n, 2))


class Simulated:
    """Counts of a scan of whole-pixel positions."""

    def __init__(self, photons=1e5, probe="gauss", object_="blobs", n_side=10, seed=0):
        rng = np.random.default_rng(seed)
        steps = np.arange(n_side) * 4
        corners = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
        corners = corners + rng.integers(0, 4, corners.shape)
        n = SIZE + 4 * n_side + 8
        self.probe = probe_of(probe)
        self.object = object_of(object_, rng, n)
        waves = np.array([self.probe * self.object[y : y + SIZE, x : x + SIZE] for y, x in corners])
        intensities = np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2
        scale = photons / intensities.sum(axis=(1, 2)).max()
        self.probe = self.probe * np.sqrt(scale)
        self.intensities = intensities * scale
        self.counts = rng.poisson(self.intensities).astype(np.uint32)
        self.positions_px = corners + SIZE / 2 - n / 2

    def scan(self, **changes) -> Scan:
        scan = Scan(
            patterns=self.counts,
            positions_px=self.positions_px,
            probe=self.probe[None, None].astype(np.complex64),
            object=np.ones((1, *self.object.shape), np.complex64),
            pixel_size_m=1e-8,
            wavelength_m=1.4e-10,
            detector_distance_m=2.0,
            name="simulated",
        )
        return dataclasses.replace(scan, **changes)


@pytest.fixture(scope="session")
def simulated():
    """Simulated scans by their arguments, each made once."""
    made = {}

    def make(*args):
        if args not in made:
            made[args] = Simulated(*args)
        return made[args]

    return make


@pytest.fixture
def pair(simulated, tmp_path):
    """A function that writes a product and a diffraction file of these datasets."""

    def write(dp=None, **datasets):
        sim = simulated()
        with h5py.File(tmp_path / "diffraction.h5", "w") as file:
            if dp is not None:
                file["dp"] = dp
            for name, value in datasets.items():
                file[name] = value
        write_product(tmp_path / "product.h5", sim.scan(), overwrite=True)
        return tmp_path / "diffraction.h5", tmp_path / "product.h5"

    return write
