"""Frames over EPICS PV Access, from a server on the loopback."""

import contextlib
import dataclasses
import queue
import threading

import h5py
import hdf5plugin  # noqa: F401  (registers bitshuffle)
import lz4.block
import numpy as np
import pytest
from p4p import Value
from p4p.nt import NTNDArray
from p4p.server import Server
from p4p.server.thread import SharedPV

from ptychi_neural.runs import infer, pva_frames
from ptychi_neural.runs.frame_sources import opened_source
from ptychi_neural.scans import empty_object, read_product, write_diffraction, write_product
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from sent_frames import taken
from trained_generators import saved

NAME = "TEST:Pva1:Image"
FRAMES = np.random.default_rng(0).poisson(5, (12, 20, 24)).astype(np.uint16)


def value(number, counts, codec="", data=None, kind=6, shape=None):
    """An image as areaDetector's plugin makes it."""
    image = NTNDArray().wrap(counts)
    image["uniqueId"] = number
    if shape is not None:
        image["dimension"] = [{"size": side} for side in shape]
    if codec:
        image["codec"] = {"name": codec, "parameters": ("i", kind)}
        image["value"] = ("ubyteValue", np.frombuffer(data, np.uint8))
    return image


EMPTY = value(0, np.zeros((0, 0), np.uint16))
"""What a variable is before the first image."""


class Detector:
    """A server of one variable, which clients of this process find."""

    def __init__(self, initial=EMPTY):
        self.looked_at = threading.Event()
        self.variable = SharedPV(initial=initial)
        self.variable.onFirstConnect(lambda variable: self.looked_at.set())
        self.server = Server(providers=[{NAME: self.variable}], isolate=True)

    @contextlib.contextmanager
    def sending(self, images):
        """Post images in another thread, once somebody looks."""

        def send():
            self.looked_at.wait(20)
            for image in images:
                self.variable.post(image)

        thread = threading.Thread(target=send)
        thread.start()
        yield
        thread.join()


@pytest.fixture
def detector(monkeypatch):
    found = Detector()
    for key, setting in found.server.conf().items():
        monkeypatch.setenv(key, setting)
    with found.server:
        yield found


def of_detector(source, timeout_s, placed=range(12)):
    assert source.stored_shape == (20, 24)
    return taken(source, timeout_s, placed)


def received(detector, images, timeout_s=1.0, placed=range(12)):
    with detector.sending(images), opened_source(f"pva://{NAME}", Preparation(), 10) as source:
        return of_detector(source, timeout_s, placed)


def queued(updates, placed=range(12)):
    """What is made of values as they come."""
    waiting = queue.Queue()
    for update in updates:
        waiting.put(update)
    return of_detector(pva_frames.PvaFrames("pva://x", waiting, Preparation(), 0.1), 0.1, placed)


def bitshuffled(counts):
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset(
            "counts", data=counts, chunks=counts.shape, compression=32008, compression_opts=(0, 2)
        )
        return chunk.id.read_direct_chunk((0, 0))[1][12:]


def packed(counts):
    return lz4.block.compress(np.ascontiguousarray(counts), store_size=False)


@pytest.mark.parametrize(("dtype", "kind"), [("u1", 5), ("u2", 6), ("i4", 3), ("f8", 10)])
@pytest.mark.parametrize("codec", ["", "lz4", "bslz4"])
def test_counts_of_every_codec_arrive_as_they_were_sent(codec, dtype, kind, detector):
    frames = (FRAMES * (1 if dtype == "u1" else 300) + FRAMES[::-1]).astype(dtype)
    compress = {"": bytes, "lz4": packed, "bslz4": bitshuffled}[codec]
    images = [value(k, f, codec, compress(f), kind) for k, f in enumerate(frames)]
    numbers, counts, told = received(detector, images)
    assert numbers == list(range(12))
    np.testing.assert_array_equal(counts, frames)
    assert counts.dtype == dtype
    assert told == ""


def test_fields_that_do_not_change_need_not_be_sent_again(detector):
    images = [value(1, FRAMES[0])]
    images += [Value(images[0].type(), {"uniqueId": number}) for number in (2, 3)]
    numbers, counts, _ = received(detector, images)
    assert numbers == [1, 2, 3]
    np.testing.assert_array_equal(counts[2], FRAMES[0])


def test_lost_and_overtaken_frames(detector):
    order = [1, 2, 5, 3, 9, 8]
    images = [value(k, FRAMES[k]) for k in order]
    numbers, counts, told = received(detector, images, placed=range(1, 10))
    assert numbers == sorted(order)
    np.testing.assert_array_equal(counts, FRAMES[numbers])
    assert "3 frames never came: 4, 6, 7" in told


def test_images_that_the_server_leaves_out_are_told(detector):
    numbers_sent = 2000
    with opened_source(f"pva://{NAME}", Preparation(), 10) as source:
        assert detector.looked_at.wait(20)
        for number in range(numbers_sent):
            detector.variable.post(value(number, FRAMES[0]))
        numbers, _, told = of_detector(source, 1.0, range(numbers_sent))
    assert 100 < len(numbers) < 1000
    assert numbers[-1] == 1999
    assert f"{numbers_sent - len(numbers)} frames never came" in told


def test_an_image_of_an_earlier_scan_is_not_taken():
    stale = [value(7, FRAMES[11])]
    for of_earlier in (stale, [value(0, FRAMES[11].astype(np.uint8))], [value(0, FRAMES[0].T)]):
        numbers, counts, told = queued(of_earlier + [value(k, FRAMES[k]) for k in range(1, 9)])
        assert numbers == list(range(1, 9))
        np.testing.assert_array_equal(counts, FRAMES[1:9])
        assert "left out 1 image of an earlier scan" in told
    with pytest.raises(ValueError, match="no frame came within"):
        queued(stale)


def test_a_counter_that_begins_anew_ends_the_scan():
    first = [value(k, FRAMES[k]) for k in (0, 1, 2, 4)]
    again = [value(k, FRAMES[11]) for k in (0, 1, 2, 3)]
    numbers, counts, told = queued([*first, *again])
    assert numbers == [0, 1, 2, 4]
    np.testing.assert_array_equal(counts, FRAMES[numbers])
    assert "left out 4 images after the counter had begun anew" in told
    late = [value(k, FRAMES[k % 12]) for k in range(100, 120)]
    anew = [value(60, FRAMES[0]), value(1, FRAMES[0])]
    numbers, _, told = queued([*late, *anew], placed=range(200))
    assert numbers == [60, *range(100, 120)]
    assert "left out 1 image after" in told


def test_a_connection_that_is_made_anew_goes_on():
    updates = [value(k, FRAMES[k]) for k in (1, 3, 2)]
    again = [EMPTY, updates[-1], value(6, FRAMES[6])]
    numbers, _, told = queued([*updates, *again], placed=range(1, 7))
    assert numbers == [1, 2, 3, 6]
    assert "2 frames never came: 4, 5" in told


def test_an_absurd_number_neither_ends_a_scan_nor_counts_as_a_frame():
    images = [value(k, FRAMES[0]) for k in (0, 1, 2, 3, 2**31 - 1, 4, 5)]
    waiting = queue.Queue()
    source = pva_frames.PvaFrames("pva://x", waiting, Preparation(), 0.1)
    for image in images[:4]:
        waiting.put(image)
    assert source.stored_shape == (20, 24)
    for image in images[4:]:
        waiting.put(image)
    numbers, _, told = taken(source, 0.1, range(7))
    assert numbers == list(range(6))
    assert "1 frame never came: 6" in told
    assert f"left out 1 frame whose number has no position: {2**31 - 1}" in told


def malformed():
    good, packed_ = FRAMES[3], packed(FRAMES[3])
    yield "no image", "other than NTNDArrays"
    yield value(3, good[0]), "without two sides"
    yield value(-3, good), "without a number"
    yield value(3, good, shape=(24, 19)), "more or fewer"
    yield value(3, good.T), "another shape"
    yield value(3, good.astype(float)), "another shape or type"
    yield value(3, good, "blosc", packed_), "neither lz4 nor bslz4"
    yield value(3, good, "lz4", packed_, kind=99), "neither lz4 nor bslz4"
    yield value(3, good, "lz4", packed_[:-3]), "decompressed"
    yield value(3, good, "lz4", packed_, kind=7), "more or fewer"
    yield value(3, good, "bslz4", bitshuffled(good)[:-3]), "decompressed"
    yield value(3, good, "bslz4", bytes(40)), "decompressed"


def test_malformed_images_are_told_and_left_out():
    bad = list(malformed())
    good = [value(k, FRAMES[k]) for k in (1, 2, 4)]
    numbers, counts, told = queued([*good[:2], *(update for update, _ in bad), good[2]])
    assert numbers == [1, 2, 4]
    np.testing.assert_array_equal(counts, FRAMES[[1, 2, 4]])
    for _, what in bad:
        assert what in told


def test_addresses_without_a_name_or_a_server_are_told(detector):
    for address, message in (("pva://", "names no process"), ("pva://NO:SUCH", "no frame came")):
        opened = opened_source(address, Preparation(), 0.3)
        with pytest.raises(ValueError, match=message), opened as source:
            assert source.stored_shape


def test_infer_follows_a_process_variable(detector, tmp_path):
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.0)
    scan = simulate(SimulationOptions(seed=3, frame_shape=(16, 16), scan=raster)).scan
    generator = saved(scan, tmp_path / "generator.safetensors", epochs=1, lifter="log")
    canvas = empty_object(scan.positions_px, scan.probe.shape)
    product, folders = tmp_path / "product.h5", [tmp_path / "whole", tmp_path / "followed"]
    write_product(product, dataclasses.replace(scan, object=canvas, name="tiny"))
    write_diffraction(tmp_path / "diffraction.h5", scan.patterns)
    infer(generator, tmp_path / "diffraction.h5", product, folders[0])
    images = [value(k, frame) for k, frame in enumerate(scan.patterns.astype(np.uint16))]
    with detector.sending(images):
        result = infer(*(generator, f"pva://{NAME}", product, folders[1]), follow=True, timeout_s=5)
    assert len(result.scan.positions_px) == 36
    whole, followed = (read_product(folder / "product.h5").object for folder in folders)
    np.testing.assert_allclose(followed, whole, atol=1e-5)
