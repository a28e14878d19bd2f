"""Simulated objects: what they look like, and what is refused."""

from typing import get_args

import h5py
import numpy as np
import pytest
import skimage.io

from ptychi_neural import simulation as sim
from ptychi_neural.simulation.images import SampleImage

MATERIALS = [sim.Lines, sim.DeadLeaves, sim.SiemensStar, sim.Cells]
OBJECTS = [*MATERIALS, sim.PublishedLines, sim.Natural]


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_follow_their_seed_and_shape(kind):
    build = kind().build
    obj = build((140, 150), 3)
    assert obj.shape == (140, 150)
    assert np.isfinite(obj).all()
    np.testing.assert_array_equal(obj, build((140, 150), 3))
    assert not np.allclose(obj, build((140, 150), 4))


@pytest.mark.parametrize("kind", MATERIALS)
def test_objects_fill_the_ranges_asked_for(kind):
    obj = kind(amplitude_range=(0.3, 0.8), phase_range=(-0.5, 2.0)).build((96, 80), 0)
    assert (np.abs(obj).min(), np.abs(obj).max()) == pytest.approx((0.3, 0.8))
    assert (np.angle(obj).min(), np.angle(obj).max()) == pytest.approx((-0.5, 2.0))


def test_so_many_lines_that_nothing_is_left_between_make_an_even_object():
    drawn = sim.Lines(n_lines=20_000).build((8, 8), 0)
    assert np.isfinite(drawn).all()
    assert np.ptp(np.abs(drawn)) == 0


@pytest.mark.parametrize("kind", MATERIALS)
def test_amplitude_and_phase_are_correlated_but_not_the_same(kind):
    obj = kind().build((128, 128), 0)
    correlation = np.corrcoef(np.abs(obj).ravel(), np.angle(obj).ravel())[0, 1]
    assert -0.99 < correlation < -0.5


def test_published_lines_have_the_published_phase_and_scale():
    obj = sim.PublishedLines(patch_shape=(32, 32)).build((80, 90), 0)
    amplitude, phase = np.abs(obj), np.angle(obj)
    expected = np.pi * np.tanh((amplitude - amplitude.max() / 2) / (3 * amplitude.mean()))
    np.testing.assert_allclose(phase, expected, rtol=1e-10)
    maxima = [
        amplitude[y : y + 32, x : x + 32].max() for y in range(80 - 31) for x in range(90 - 31)
    ]
    assert np.mean(maxima) == pytest.approx(1)


def test_published_lines_need_room_for_a_patch():
    with pytest.raises(ValueError, match="smaller than patch_shape"):
        sim.PublishedLines().build((100, 140), 0)


def test_image_pair_maps_black_and_white_to_the_ends_of_the_ranges(tmp_path):
    rows = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[:, None], 60, axis=1)
    skimage.io.imsave(tmp_path / "rows.png", rows, check_contrast=False)
    skimage.io.imsave(tmp_path / "columns.png", rows.T, check_contrast=False)
    obj = sim.ImagePair(
        amplitude_image=tmp_path / "rows.png",
        phase_image=tmp_path / "columns.png",
        phase_range=(0.0, 1.5),
    ).build((20, 20), 0)
    amplitude, phase = np.abs(obj), np.angle(obj)
    np.testing.assert_allclose(amplitude[[0, -1]], [[0.6] * 20, [1.0] * 20])
    np.testing.assert_allclose(phase[:, [0, -1]], [[0.0, 1.5]] * 20, atol=1e-12)
    assert np.ptp(amplitude, axis=1).max() < 1e-6


def test_natural_objects_are_parts_of_two_images_that_the_seed_chooses():
    once, again, other = (sim.Natural().build((30, 40), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).mean() > 0.1
    assert (np.abs(once).min(), np.abs(once).max()) == pytest.approx((0.6, 1.0))
    assert (np.angle(once).min(), np.angle(once).max()) == pytest.approx((-1.0, 1.0))
    similarity = np.corrcoef(np.abs(once).ravel(), np.angle(once).ravel())[0, 1]
    assert abs(similarity) < 0.5
    other_phase = sim.Natural(phase_image="moon").build((30, 40), 1)
    np.testing.assert_allclose(np.abs(once), np.abs(other_phase))
    assert np.abs(np.angle(once) - np.angle(other_phase)).mean() > 0.1


@pytest.mark.parametrize("name", get_args(SampleImage))
def test_every_sample_image_comes_with_scikit_image(name):
    assert np.ptp(np.abs(sim.Natural(amplitude_image=name).build((16, 16), 0))) > 0.3


def test_image_pair_says_which_image_is_wrong(tmp_path):
    skimage.io.imsave(tmp_path / "ok.png", np.eye(8, dtype=np.uint8) * 255, check_contrast=False)
    skimage.io.imsave(tmp_path / "flat.png", np.full((8, 8), 9, np.uint8), check_contrast=False)

    def pair(amplitude: str, phase: str) -> sim.ImagePair:
        return sim.ImagePair(amplitude_image=tmp_path / amplitude, phase_image=tmp_path / phase)

    with pytest.raises(FileNotFoundError, match="amplitude_image: there is no file"):
        pair("absent.png", "ok.png").build((8, 8), 0)
    with pytest.raises(ValueError, match=r"phase_image: .*contrast"):
        pair("ok.png", "flat.png").build((8, 8), 0)


def test_an_object_comes_from_the_middle_of_a_file(tmp_path):
    whole = np.arange(70).reshape(7, 10) * np.exp(0.3j)
    np.save(tmp_path / "object.npy", whole)
    with h5py.File(tmp_path / "product.h5", "w") as file:
        file["object"] = whole[None]
        file["slices"] = np.stack([whole, whole])
    for name in ("object.npy", "product.h5"):
        found = sim.ObjectFile(path=tmp_path / name).build((3, 4), 0)
        np.testing.assert_array_equal(found, whole[2:5, 3:7])
    with pytest.raises(ValueError, match=r"one slice of at least \(8, 4\)"):
        sim.ObjectFile(path=tmp_path / "product.h5").build((8, 4), 0)
    with pytest.raises(ValueError, match="one slice"):
        sim.ObjectFile(path=tmp_path / "product.h5", dataset="slices").build((3, 4), 0)


def test_a_scan_is_simulated_of_the_object_in_a_file(tmp_path):
    kind = sim.ObjectFile(path=tmp_path / "object.npy")
    np.save(kind.path, sim.Cells().build((200, 200), 3))
    simulated = sim.simulate(sim.SimulationOptions(object=kind, scan=sim.Raster(n_y=5, n_x=6)))
    shape = simulated.truth.object.shape[-2:]
    np.testing.assert_allclose(simulated.truth.object[0], kind.build(shape, 0))


def test_radii_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="smallest_radius_px = 30"):
        sim.DeadLeaves(smallest_radius_px=30).build((64, 64), 0)
