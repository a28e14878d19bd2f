"""Frames over ZeroMQ, from a sender on the loopback."""

import contextlib
import dataclasses
import itertools
import json
import struct
import subprocess
import sys
import threading
import time

import h5py
import hdf5plugin  # noqa: F401  (registers bitshuffle)
import lz4.block
import numpy as np
import pytest
import zmq

from ptychi_neural.prediction import acceleration
from ptychi_neural.runs import follow, infer, inference
from ptychi_neural.runs.frame_sources import opened_source
from ptychi_neural.runs.inference import write_inference
from ptychi_neural.scans import (
    empty_object,
    read_product,
    streamed_counts,
    write_diffraction,
    write_product,
)
from ptychi_neural.scans.counts import repair
from ptychi_neural.scans.preparation import Preparation
from ptychi_neural.simulation import Raster, SimulationOptions, simulate
from sent_frames import taken
from trained_generators import predictor_of, saved

FRAMES = np.random.default_rng(0).poisson(5, (12, 20, 24)).astype(np.uint16)


@pytest.fixture
def sender():
    """A socket that sends to whoever connects, and its address."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDTIMEO, 120000)  # until a command is there on a busy machine
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield socket, f"tcp://127.0.0.1:{port}"


def part(**content):
    return json.dumps(content).encode()


def header(series=1, **details):
    first = part(htype="dheader-1.0", series=series, header_detail="basic" if details else "none")
    return [first, part(**details)] if details else [first]


def end(series=1):
    return [part(htype="dseries_end-1.0", series=series)]


def bitshuffled(counts):
    with h5py.File("frame", "w", driver="core", backing_store=False) as file:
        chunk = file.create_dataset(
            "counts", data=counts, chunks=counts.shape, compression=32008, compression_opts=(0, 2)
        )
        return chunk.id.read_direct_chunk((0, 0))[1]


def image(number, counts, encoding="<", series=1, data=None, **changed):
    encoders = {"": np.ndarray.tobytes, "lz4": lambda c: lz4.block.compress(c, store_size=False)}
    counts = counts.astype(counts.dtype.newbyteorder(encoding[-1]))
    encode = encoders.get(encoding[:-1], bitshuffled)
    data = encode(np.ascontiguousarray(counts)) if data is None else data
    details = {
        "htype": "dimage_d-1.0",
        "shape": list(counts.shape[::-1]),
        "type": counts.dtype.name,
        "encoding": encoding,
        "size": len(data),
    }
    return [
        part(htype="dimage-1.0", series=series, frame=number, hash=""),
        part(**(details | changed)),
        data,
        part(htype="dconfig-1.0", start_time=0, stop_time=1, real_time=1),
    ]


@contextlib.contextmanager
def sending(socket, messages):
    """Send messages in another thread, as soon as somebody connects."""

    def send():
        for message in messages:
            socket.send_multipart(message)

    thread = threading.Thread(target=send)
    thread.start()
    yield
    thread.join()


def received(sender, messages, timeout_s=5.0, placed=range(12)):
    socket, address = sender
    opened = opened_source(address, Preparation(), timeout_s)
    with sending(socket, messages), opened as source:
        return taken(source, timeout_s, placed)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("encoding", ["<", ">", "lz4<", "bs<"])
def test_counts_of_every_encoding_arrive_as_they_were_sent(encoding, dtype, sender):
    frames = (FRAMES * 300 + FRAMES[::-1]).astype(dtype)
    if encoding.startswith("bs"):
        encoding = f"bs{8 * frames.itemsize}-lz4<"
    messages = [image(k, frame, encoding) for k, frame in enumerate(frames)]
    numbers, counts, _ = received(sender, [header(nimages=12, ntrigger=1), *messages, end()])
    assert numbers == list(range(12))
    np.testing.assert_array_equal(counts, frames)
    assert counts.dtype == dtype


def test_frames_in_any_order_twice_and_lost(sender):
    order = [5, 0, 0, 7, 1, 11, 5, 2]
    messages = [image(k, FRAMES[k]) for k in order]
    messages.insert(6, end())  # the last two are overtaken by it
    numbers, counts, told = received(sender, [header(nimages=12, ntrigger=1), *messages])
    assert numbers == [0, 1, 2, 5, 7, 11]
    np.testing.assert_array_equal(counts, FRAMES[numbers])
    assert "6 frames never came: 3, 4, 6, 8, 9, 10" in told


def malformed():
    good = FRAMES[0]
    compressed = bitshuffled(good)
    longer = bytearray(compressed)
    longer[12:16] = struct.pack(">I", 2**31)
    yield [b"\xff\x00 no json"], "other than JSON"
    yield [b"[1, 2]"], "other than JSON objects"
    yield [b"[" * 100000], "other than JSON"
    yield [b""], "other than JSON"
    yield [part(htype="dimage-9")], "a kind that is not known"
    yield image(1, good, series=9), "another series"
    yield image(1, good)[:2], "missing parts"
    yield image(-1, good), "'frame'"
    yield image(99, good), "a number beyond"
    yield image(1, good, type="float64"), "type or encoding"
    yield image(1, good, encoding="zip<"), "type or encoding"
    yield image(1, good, shape=[2**40, 2**40]), "another shape"
    yield image(1, good, shape="24"), "without a shape"
    yield image(1, good.T), "another shape"
    yield image(1, good, data=good.tobytes()[:-2]), "more or fewer"
    yield image(1, good, data=good.tobytes() * 2), "more or fewer"
    yield image(1, good, "lz4<", data=b"\x00" * 50), "decompressed"
    yield image(1, good, "lz4<", data=lz4.block.compress(bytes(10), store_size=False)), "fewer"
    yield image(1, good, "bs16-lz4<", data=compressed[:11]), "more or fewer"
    yield image(1, good, "bs16-lz4<", data=compressed[:-3]), "decompressed"
    yield image(1, good, "bs16-lz4<", data=bytes(longer)), "decompressed"
    yield image(1, good, "bs16-lz4<", data=struct.pack(">QI", 2**60, 8192)), "more or fewer"
    yield header(series=2), "series 2 began, which ends series 1"


def test_malformed_messages_are_told_and_left_out(sender):
    bad = list(malformed())
    shape = {"x_pixels_in_detector": 24, "y_pixels_in_detector": 20, "nimages": 3, "ntrigger": 1}
    messages = [image(0, FRAMES[0]), header(**shape), *(message for message, _ in bad)]
    messages += [image(k, FRAMES[k]) for k in (0, 2)]
    numbers, counts, told = received(sender, [*messages, end()], placed=range(3))
    assert numbers == [0, 2]
    np.testing.assert_array_equal(counts, FRAMES[[0, 2]])
    assert "1 message before the header" in told
    for _, what in bad:
        assert what in told


def test_random_damage_is_left_out_or_gives_whole_frames(sender):
    rng = np.random.default_rng(1)
    messages = []
    for k, encoding in enumerate(["lz4<", "bs16-lz4<"] * 30):
        message = image(k + 1, FRAMES[0], encoding)
        place = int(rng.integers(len(message[2])))
        damaged = bytearray(message[2])[: place if k % 3 == 0 else None]
        for _ in range(3 * (k % 3 > 0)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        messages.append([*message[:2], bytes(damaged), *message[3:]])
    whole = [image(100 + k, FRAMES[0]) for k in range(3)]
    numbers, counts, told = received(
        sender, [header(), *whole, *messages, end()], placed=range(103)
    )
    assert numbers[-3:] == [100, 101, 102]
    assert counts.shape[1:] == (20, 24)
    assert "left out" in told


@pytest.mark.parametrize("odd", [FRAMES[0].T, FRAMES[0].astype(np.uint32), FRAMES[0, :4]])
def test_an_odd_first_image_does_not_decide_what_a_frame_is(odd, sender):
    messages = [image(0, odd), image(1, odd), *(image(k, FRAMES[k]) for k in range(12))]
    numbers, counts, told = received(sender, [header(), *messages, end()])
    assert numbers == list(range(12))
    np.testing.assert_array_equal(counts, FRAMES)
    assert told.count("left out") == 1
    assert "left out 2 images of another shape or type than the header or the first" in told


def test_most_images_decide_where_few_come(sender):
    messages = [image(0, FRAMES[0].T), image(1, FRAMES[1]), image(2, FRAMES[2])]
    numbers, counts, _ = received(sender, [header(), *messages, end()])
    assert numbers == [1, 2]
    np.testing.assert_array_equal(counts, FRAMES[1:3])
    sides = {"x_pixels_in_detector": 20, "y_pixels_in_detector": 24}
    numbers, counts, _ = received(sender, [header(**sides), *messages, end()])
    assert numbers == [0]


def test_absurd_numbers_of_frames_are_told_and_count_as_no_frames(sender):
    order = [0, 10**18, 1, 500, 3]
    messages = [image(k, FRAMES[min(k, 11)]) for k in order]
    numbers, _, told = received(sender, [header(), *messages, end()], placed=range(6))
    assert numbers == [0, 1, 3]
    assert "3 frames never came: 2, 4, 5" in told
    assert f"left out 2 frames whose number has no position: 500, {10**18}" in told


def test_a_sender_that_says_nothing_and_addresses_that_are_none_are_told(sender):
    with pytest.raises(ValueError, match=r"no frame came within 0.1 s"):
        received(sender, [header()], timeout_s=0.1)
    for address, message in (("udp://1.2.3.4:5", "from a file or from"), ("tcp://x", "no address")):
        with pytest.raises(ValueError, match=message), opened_source(address, Preparation(), 0.1):
            pass


def test_waiting_for_the_first_frame_ends_when_it_is_told_to(sender):
    with opened_source(sender[1], Preparation(), 600) as source:
        source.stop = lambda: True
        with pytest.raises(KeyboardInterrupt):
            _ = source.stored_shape


def test_a_sender_that_is_started_anew_goes_on_with_the_series():
    def send(socket, messages):
        for message in messages:
            socket.send_multipart(message)
        socket.close(linger=5000)

    with zmq.Context() as context:
        first, second = context.socket(zmq.PUSH), context.socket(zmq.PUSH)
        port = first.bind_to_random_port("tcp://127.0.0.1")
        whole = header(nimages=12, ntrigger=1)

        def send_twice():
            send(first, [whole, *(image(k, FRAMES[k]) for k in range(6))])
            for _ in range(100):
                with contextlib.suppress(zmq.ZMQError):
                    second.bind(f"tcp://127.0.0.1:{port}")
                    break
                time.sleep(0.05)
            send(second, [whole, *(image(k, FRAMES[k]) for k in range(4, 12)), end()])

        thread = threading.Thread(target=send_twice)
        with opened_source(f"tcp://127.0.0.1:{port}", Preparation(), 10) as source:
            thread.start()
            numbers, counts, told = taken(source, 10)
        thread.join()
    assert numbers == list(range(12))
    np.testing.assert_array_equal(counts, FRAMES)
    assert told == ""


def test_the_header_of_another_series_ends_this_one(sender):
    messages = [header(nimages=12, ntrigger=1), *(image(k, FRAMES[k]) for k in range(3))]
    messages += [header(series=2, nimages=12), *(image(k, FRAMES[k], series=2) for k in range(12))]
    start = time.monotonic()
    numbers, counts, told = received(sender, messages, timeout_s=30)
    assert time.monotonic() - start < 20
    assert numbers == [0, 1, 2]
    np.testing.assert_array_equal(counts, FRAMES[:3])
    assert "series 2 began, which ends series 1" in told
    assert "left out 12 messages of another series" in told
    assert "9 frames never came" in told


@pytest.fixture(scope="module")
def scan():
    """36 frames of 16x16 at whole pixels."""
    raster = Raster(n_y=6, n_x=6, step_px=2.0, jitter_px=0.0)
    return simulate(SimulationOptions(seed=3, frame_shape=(16, 16), scan=raster)).scan


@pytest.fixture(scope="module")
def generator(scan, tmp_path_factory):
    path = tmp_path_factory.mktemp("g") / "generator.safetensors"
    return saved(scan, path, epochs=1, lifter="log")


@pytest.fixture
def product(scan, tmp_path):
    """File of the planned positions and the probe."""
    canvas = empty_object(scan.positions_px, scan.probe.shape)
    planned = dataclasses.replace(scan, object=canvas, name="tiny")
    write_product(tmp_path / "product.h5", planned)
    return tmp_path / "product.h5"


def test_infer_follows_a_detector(sender, scan, generator, product, tmp_path):
    write_diffraction(tmp_path / "diffraction.h5", scan.patterns)
    socket, address = sender
    counts = scan.patterns.astype(np.uint32)
    order = np.random.default_rng(0).permutation(36).tolist()
    messages = [header(nimages=36, ntrigger=1)]
    messages += [image(k, counts[k], "bs32-lz4<") for k in order]
    folders = [tmp_path / "whole", tmp_path / "followed"]
    with pytest.raises(ValueError, match="add --follow"):
        infer(generator, address, product)
    infer(generator, tmp_path / "diffraction.h5", product, folders[0])
    with sending(socket, messages):
        result = infer(
            *(generator, address, product, folders[1]), follow=True, every_s=0.1, timeout_s=20
        )
    assert len(result.scan.positions_px) == 36
    whole, followed = (read_product(folder / "product.h5").object for folder in folders)
    np.testing.assert_allclose(followed, whole, atol=1e-5)


def test_a_followed_scan_is_predicted_faster_where_that_is_asked_for(
    sender, scan, generator, product, tmp_path, monkeypatch
):
    socket, address = sender
    seconds = iter((2.0, 1.0))  # bfloat16 seems to be faster
    monkeypatch.setattr(acceleration, "_seconds", lambda run: next(seconds))
    messages = [header(nimages=36, ntrigger=1)]
    messages += [image(k, counts) for k, counts in enumerate(scan.patterns.astype(np.uint16))]
    files = (generator, address, product, tmp_path / "out")
    with pytest.raises(ValueError, match=r"--accelerate: .*choose from bfloat16, compile"):
        infer(*files, follow=True, accelerations=["float8"])
    with pytest.raises(ValueError, match="--accelerate is for a scan that is followed"):
        infer(*files, accelerations=["bfloat16"])
    told = []
    monkeypatch.setattr(follow, "remark", told.append)
    with sending(socket, messages):
        found = infer(*files, follow=True, accelerations=["bfloat16"]).prediction
    assert told == ["The networks are faster with bfloat16."]
    stream = predictor_of(generator).stream(found.probe, found.weight.shape)
    stream.add(scan.patterns, scan.positions_px, np.arange(36))
    difference = np.abs(found.object - stream.current().object).max()
    assert 0 < difference < 0.01


def test_results_are_written_a_fifth_of_the_time(
    sender, scan, generator, product, tmp_path, monkeypatch
):
    socket, address = sender
    times = []

    def slow(*arguments):
        began = time.monotonic()
        time.sleep(0.1)
        write_inference(*arguments)
        times.append((began, time.monotonic()))

    def paced():
        yield header(nimages=36, ntrigger=1)
        for number, counts in enumerate(scan.patterns.astype(np.uint16)):
            time.sleep(0.1)
            yield image(number, counts)

    monkeypatch.setattr(inference, "prediction_figure", lambda *a, **k: None)
    monkeypatch.setattr(follow, "write_inference", slow)
    with sending(socket, paced()):
        infer(*(generator, address, product, tmp_path / "out"), follow=True, every_s=0.01)
    assert len(times) > 2
    for (began, ended), (next_began, _) in itertools.pairwise(times[:-1]):  # but the last
        assert next_began - ended >= 3.99 * (ended - began)
    assert len(read_product(tmp_path / "out" / "product.h5").positions_px) == 36


def frames_of(folder):
    """Number of frames of a result that may be written at this moment."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((folder / "provenance.json").read_text())["frames"]
    return 0


def test_a_receiver_that_was_killed_goes_on_with_the_frames_it_has(
    sender, scan, generator, product, tmp_path
):
    socket, address = sender
    images = [image(k, counts) for k, counts in enumerate(scan.patterns.astype(np.uint16))]
    folder = tmp_path / "out"
    arguments = ["infer", generator, "--diffraction", address, "--product", product, "--follow"]
    command = [sys.executable, "-m", "ptychi_neural", *arguments, "--output", folder]
    with subprocess.Popen(
        [str(part) for part in [*command, "--every", 0.1, "--timeout", 120]]
    ) as receiver:
        with sending(socket, [header(nimages=36, ntrigger=1), *images[:20]]):
            pass
        while frames_of(folder) < 20:
            assert receiver.poll() is None
            time.sleep(0.02)
        receiver.kill()
    probe = read_product(folder / "product.h5").probe
    common = {"follow": True, "every_s": 0.1, "timeout_s": 20}
    with pytest.raises(FileExistsError, match="exists"):
        infer(generator, address, product, folder, **common)
    with sending(socket, images[18:]):
        result = infer(generator, address, product, folder, resume=True, **common)
    stream = predictor_of(generator).stream(probe, result.prediction.weight.shape)
    stream.add(scan.patterns, scan.positions_px, np.arange(36))
    written = read_product(folder / "product.h5")
    np.testing.assert_array_equal(written.object, stream.current().object)
    assert len(written.positions_px) == 36
    assert result.errors[0, 0] <= 20
    assert result.errors[-1, 0] == 36


def test_a_scan_is_not_resumed_at_other_positions(sender, scan, generator, product, tmp_path):
    socket, address = sender
    images = [image(k, counts) for k, counts in enumerate(scan.patterns.astype(np.uint16))]
    common = {"follow": True, "every_s": 0.1, "timeout_s": 0.5}
    with sending(socket, [header(), *images[:9]]):
        infer(generator, address, product, tmp_path / "out", **common)
    moved = dataclasses.replace(read_product(product), positions_px=scan.positions_px + 1)
    write_product(tmp_path / "moved.h5", moved)
    files = (generator, address, tmp_path / "moved.h5", tmp_path / "out")
    with (
        sending(socket, images[9:]),
        pytest.raises(ValueError, match=r"followed.safetensors: .* a scan with other positions;"),
    ):
        infer(*files, resume=True, **common)


def test_a_scan_is_not_resumed_with_another_probe_other_keys_or_damage(
    sender, scan, generator, product, tmp_path
):
    socket, address = sender
    images = [image(k, counts) for k, counts in enumerate(scan.patterns.astype(np.uint16))]
    common = {"follow": True, "every_s": 0.1, "timeout_s": 0.5, "output_folder": tmp_path / "out"}
    with sending(socket, [header(), *images[:9]]):
        infer(generator, address, product, **common)
    planned = read_product(product)
    other = dataclasses.replace(planned, probe=2 * planned.probe, name="other")
    write_product(tmp_path / "other.h5", other)
    common["resume"] = True
    with pytest.raises(ValueError, match=r"scan with other name, probe; --overwrite"):
        infer(generator, address, tmp_path / "other.h5", **common)
    with pytest.raises(ValueError, match=r"a scan with other keys of \[data\]"):
        infer(generator, address, product, changes=["data.flip_x=true"], **common)
    state = tmp_path / "out" / "followed.safetensors"
    damaged = bytearray(state.read_bytes())
    damaged[-100] ^= 1
    state.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"followed.safetensors: is damaged"):
        infer(generator, address, product, **common)


def test_counts_of_a_followed_scan_are_checked_once(
    sender, scan, generator, product, tmp_path, monkeypatch
):
    socket, address = sender
    checked = []

    def counting(patterns, *arguments, **keywords):
        checked.append(len(patterns))
        return repair(patterns, *arguments, **keywords)

    monkeypatch.setattr(streamed_counts, "repair", counting)
    images = [image(k, counts) for k, counts in enumerate(scan.patterns.astype(np.uint16))]
    with sending(socket, [header(), *images]):
        infer(generator, address, product, tmp_path / "out", follow=True, every_s=0.1, timeout_s=20)
    assert sum(checked) == 36


def test_messages_name_the_address_and_files_that_were_given(generator, product, tmp_path):
    address, missing = "tcp://127.0.0.1:9", tmp_path / "missing.h5"
    with pytest.raises(ValueError, match=r"data\.product: no file") as told:
        infer(generator, address, missing, tmp_path / "out", follow=True)
    assert str(told.value).startswith(f"{address} cannot be run:")
    assert "data.diffraction" not in str(told.value)
    with pytest.raises(ValueError, match=r"data\.product: no file") as told:
        infer(generator, product, missing, tmp_path / "out")
    assert str(told.value).startswith(f"{product} cannot be run:")
    with pytest.raises(ValueError, match="is a run file; give the file of the positions"):
        infer(generator, address, tmp_path / "run.toml", tmp_path / "out", follow=True)


def test_what_cannot_be_resumed_is_told(scan, generator, product, tmp_path):
    write_diffraction(tmp_path / "diffraction.h5", scan.patterns)
    folder = tmp_path / "out"
    common = {"follow": True, "timeout_s": 0.2, "resume": True}
    with pytest.raises(ValueError, match="--resume goes on with frames from an address"):
        infer(generator, tmp_path / "diffraction.h5", product, folder, **common)
    with pytest.raises(FileNotFoundError, match="holds nothing to resume"):
        infer(generator, "tcp://127.0.0.1:9", product, folder, **common)
    infer(generator, tmp_path / "diffraction.h5", product, folder)
    with pytest.raises(ValueError, match="holds no scan that was followed at an address"):
        infer(generator, "tcp://127.0.0.1:9", product, folder, **common)
