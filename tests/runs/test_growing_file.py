"""Files that grow, and what may happen to them while they are followed."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from ptychi_neural.runs.frame_sources import opened_source
from ptychi_neural.scans.preparation import Preparation

FRAMES = np.random.default_rng(0).poisson(20, (12, 8, 8)).astype(np.uint16)

PROGRAM = """
import os, sys, h5py, numpy as np
path, frames = None, np.load(sys.argv[1])
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

BEGUN = (
    "file = h5py.File(path, 'w', libver='latest')",
    "data = file.create_dataset('dp', (0, 8, 8), 'u2', maxshape=(None, 8, 8), chunks=(1, 8, 8))",
)
SWMR = ("file.swmr_mode = True", "data.resize(6, axis=0); data[:] = frames[:6]; file.flush()")
ALL = "data.resize(12, axis=0); data[:] = frames; file.flush()"


class Writer:
    """Another process, which writes as it is told to."""

    def __init__(self, process):
        self._process = process

    def do(self, *statements):
        for statement in statements:
            self._process.stdin.write(statement + "\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == "done\n", statement


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    frames = tmp_path_factory.mktemp("frames") / "frames.npy"
    np.save(frames, FRAMES)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(frames)],
        env=os.environ | {"HDF5_USE_FILE_LOCKING": "FALSE"},
        **pipes,
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "growing.h5"


@pytest.fixture
def writer(process, path):
    writer = Writer(process)
    writer.do(f"path = {str(path)!r}")
    return writer


def followed(path, happens, timeout_s=0.3):
    """Frames of the last time that all of them came, by number, and what was told; something
    happens after the first look."""
    frames = {}
    with (
        warnings.catch_warnings(record=True) as told,
        opened_source(path, Preparation(), timeout_s) as source,
    ):
        warnings.simplefilter("always")
        for anew, blocks in source.looks(0.02, timeout_s, range(12), False):
            if anew:
                frames = {}
            for block in blocks:
                frames |= dict(zip(block.numbers.tolist(), block.patterns, strict=True))
            happens()
            happens = lambda: None  # noqa: E731
    return frames, " ".join(str(warning.message) for warning in told)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["os.truncate(path, os.path.getsize(path) // 2)"], "growing.h5 .*lost frames: it was cut"),
        (["os.truncate(path, 0)"], r"growing.h5 cannot be read \(.*it may be damaged"),
        (["data.resize(2, axis=0); file.flush()"], "growing.h5 has fewer frames than before"),
        (
            ["file.close()", "open(path, 'r+b').write(os.urandom(4096))"],
            "growing.h5 cannot be read",
        ),
    ],
)
def test_a_file_that_loses_what_it_had_is_told_by_name(statements, message, writer, path):
    writer.do(*BEGUN, *SWMR)
    with pytest.raises(ValueError, match=message):
        followed(path, lambda: writer.do(*statements))


@pytest.mark.parametrize(
    "statement",
    ["os.rename(path, path + '.h5')", "os.unlink(path)", "os.replace(sys.argv[1], path)"],
)
def test_a_file_that_is_renamed_or_removed_is_followed_to_its_end(
    statement, writer, path, tmp_path
):
    writer.do(*BEGUN, *SWMR, f"sys.argv[1] = {str(tmp_path / 'other.h5')!r}")
    (tmp_path / "other.h5").write_bytes(b"another file")
    frames, told = followed(path, lambda: writer.do(statement, ALL), 1.0)
    np.testing.assert_array_equal([frames[k] for k in range(12)], FRAMES)
    assert "was renamed, removed or replaced while it was followed" in told


def test_frames_that_were_read_while_they_were_written_come_anew(writer, path):
    half = "data.resize(12, axis=0); data[:, :4] = frames[:, :4]; file.flush()"
    writer.do(*BEGUN, "file.swmr_mode = True", half)
    counts = []
    with opened_source(path, Preparation(), 0.3) as source:
        for anew, blocks in source.looks(0.02, 0.3, range(12), False):
            counts.append((anew, list(blocks)))
            writer.do(ALL)
    # The other half looks like a missing module at first, whose mask has to go.
    assert [anew for anew, frames in counts if frames] == [False, True, True, True]
    last = counts[-1][1]
    np.testing.assert_array_equal(np.concatenate([block.patterns for block in last]), FRAMES)
    assert all(block.valid_pixel_mask is None or block.valid_pixel_mask.all() for block in last)


def test_frames_wait_for_their_numbers(writer, path):
    numbers = "numbers = file.create_dataset('indexes', (4,), 'u4', maxshape=(None,), chunks=(4,))"
    writer.do(*BEGUN, numbers, "numbers[:] = [7, 5, 6, 4]", *SWMR)
    given = "numbers.resize(6, axis=0); numbers[4:] = [9, 8]; file.flush()"
    frames, told = followed(path, lambda: writer.do(given))
    np.testing.assert_array_equal([frames[k] for k in (7, 5, 6, 4, 9, 8)], FRAMES[:6])
    assert told == ""
    frames, told = followed(path, lambda: writer.do(ALL))
    assert sorted(frames) == [4, 5, 6, 7, 8, 9]
    assert "left out 6 frames without counts or a number" in told


@pytest.mark.parametrize("numbers", ["np.arange(12).reshape(6, 2)", "np.full(6, b'x')"])
def test_numbers_that_are_none_are_refused_by_name(numbers, writer, path):
    writer.do(*BEGUN, f"file['indexes'] = {numbers}", *SWMR)
    with pytest.raises(ValueError, match=r"growing.h5: 'indexes' .* write one whole number"):
        followed(path, lambda: None)


def test_blocks_of_broken_frames_are_dropped(writer, path):
    writer.do(
        "file = h5py.File(path, 'w', libver='latest')",
        "data = file.create_dataset('dp', (0, 8, 8), 'f4', maxshape=(None, 8, 8), "
        "chunks=(1, 8, 8))",
        "file.swmr_mode = True",
        "data.resize(3, axis=0); data[:] = np.nan; file.flush()",
    )
    rest = "data.resize(9, axis=0); data[3:] = frames[3:9]; data[6:8] = np.nan; file.flush()"
    frames, told = followed(path, lambda: writer.do(rest))
    assert sorted(frames) == [3, 4, 5, 8]
    assert "dropped 3 broken frames: 0 to 2" in told


def test_a_file_that_is_written_without_swmr_is_told(writer, path):
    writer.do(*BEGUN, "file.flush()")
    with pytest.raises(ValueError, match=r"growing.h5 cannot be followed .*SWMR mode"):
        followed(path, lambda: None)
    writer.do("file.close()")
