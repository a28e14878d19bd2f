"""Results folders: refused before anything is computed, whole when they appear, never lost."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ptychi_neural.runs import folders
from ptychi_neural.runs.folders import results_folder
from ptychi_neural.scans.hdf5 import replacing


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder, overwrite=False, **files):
    """Write a result of these files, whose names have _ in the place of a point."""
    with results_folder(folder, overwrite) as results:
        for name, text in {"product_h5": "p", "provenance_json": "{}", **files}.items():
            (results.temporary / name.replace("_", ".")).write_text(text)
        results.publish()


def fail(name):
    """Write one file, and fail."""
    with results_folder("scan") as results:
        (results.temporary / name).write_text("hours of computing")
        raise ZeroDivisionError


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_result_appears_whole_and_leaves_nothing_else(tmp_path):
    with results_folder("results/scan") as results:
        assert results.temporary.parent == tmp_path / "results"
        (results.temporary / "product.h5").write_text("p")
        (results.temporary / "provenance.json").write_text("{}")
        assert not Path("results/scan").exists()
        results.publish()
    assert names("results") == ["scan"]
    told = json.loads(Path("results/scan/provenance.json").read_text())
    assert told["files"] == ["product.h5", "provenance.json"]


@pytest.mark.parametrize("name", [".", "", "..", "sub/..", "/", os.curdir + "/."])
def test_a_folder_that_holds_the_current_one_is_refused(name):
    with pytest.raises(FileExistsError, match="current folder"), results_folder(name):
        pass


def test_what_cannot_be_written_is_refused_with_the_reason_and_the_remedy(tmp_path):
    Path("file").touch()
    for name, reason in (
        ("file", "is a file"),
        ("file/below", "file"),
        ("file/below/deeper", "not a directory"),
        ("n" * 300, "name too long"),
        ("/proc/none/scan", "/proc/none"),
        ("loop", "levels of symbolic links"),
        ("loop/scan", "loop|levels of symbolic links"),
    ):
        if name == "loop":
            Path("loop").symlink_to("loop")
        with pytest.raises(OSError, match=f"(?i){reason}") as caught, results_folder(name):
            pass
        assert "--output FOLDER writes elsewhere" in str(caught.value)
    assert names(tmp_path) == ["file", "loop"]


def test_a_name_of_250_characters_is_no_problem(tmp_path):
    for name in ("n" * 250, "é" * 125, "n" * 249 + "m"):
        write(name)
        assert names(name) == ["product.h5", "provenance.json"]
        write(name, overwrite=True)
    assert len(names(tmp_path)) == 3


def test_the_target_of_a_link_is_written_and_the_link_stays(tmp_path):
    Path("big disk").mkdir()
    Path("scan").symlink_to("big disk/scan")
    write("scan")
    write("scan", overwrite=True, loss_png="l")
    assert Path("scan").is_symlink()
    assert names("big disk") == ["scan"]
    assert names("big disk/scan") == ["loss.png", "product.h5", "provenance.json"]


def test_a_mount_point_is_filled_from_inside(tmp_path, monkeypatch):
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == mount)
    inode = mount.stat().st_ino
    for files in ({"loss_png": "old", "losses_csv": "l"}, {"loss_png": "new"}):
        with results_folder(mount, "losses_csv" not in files) as results:
            assert results.temporary.parent == mount
            for name, text in ({"product_h5": "p", "provenance_json": "{}"} | files).items():
                (results.temporary / name.replace("_", ".")).write_text(text)
            results.publish()
        (mount / "note.txt").touch()
    assert names(mount) == ["loss.png", "note.txt", "product.h5", "provenance.json"]
    assert (mount / "loss.png").read_text() == "new"
    assert mount.stat().st_ino == inode
    assert names(tmp_path) == ["mount"]


def test_a_folder_that_cannot_be_moved_is_filled_file_by_file(tmp_path, monkeypatch):
    write("scan", losses_csv="l")
    rename = Path.rename

    def busy(self, target):
        if self.name == "scan":
            raise OSError(16, "Device or resource busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    write("scan", overwrite=True, product_h5="new")
    assert names("scan") == ["product.h5", "provenance.json"]
    assert Path("scan/product.h5").read_text() == "new"
    assert names(tmp_path) == ["scan"]


def test_only_what_a_run_wrote_is_replaced(tmp_path):
    write("scan", losses_csv="l", run_toml="r")
    Path("scan/notes").mkdir()
    Path("scan/notes/day 1.txt").write_text("mine")
    Path("scan/metrics.json").write_text("mine, too")  # The run wrote none.
    write("scan", overwrite=True, metrics_json="new")
    assert "losses.csv" not in names("scan")
    assert Path("scan/notes/day 1.txt").read_text() == "mine"
    assert Path("scan/metrics.json").read_text() == "new"
    (kept,) = Path("scan").glob("metrics.json.*")
    assert kept.read_text() == "mine, too"
    assert names(tmp_path) == ["scan"]


def test_what_a_run_reads_is_never_replaced(tmp_path):
    write("scan", generator_safetensors="trained for hours")
    Path("link").symlink_to("scan/generator.safetensors")
    for path in (Path("scan/generator.safetensors"), tmp_path / "link"):
        with (
            pytest.raises(FileExistsError, match=f"scan holds {path.name}, which this run reads"),
            results_folder("scan", overwrite=True, reads=[path]),
        ):
            pass
    assert Path("scan/generator.safetensors").read_text() == "trained for hours"
    assert names(tmp_path) == ["link", "scan"]


def test_a_list_of_files_never_leads_out_of_its_folder(tmp_path):
    Path("thesis.tex").write_text("mine")
    Path("elsewhere").mkdir()
    Path("elsewhere/data.h5").write_text("mine")
    write("scan")
    Path("scan/link").symlink_to(tmp_path / "elsewhere")
    files = ["../thesis.tex", str(tmp_path / "thesis.tex"), "link/data.h5", "x\0y", "product.h5"]
    Path("scan/provenance.json").write_text(json.dumps({"files": files}))
    write("scan", overwrite=True)
    assert Path("thesis.tex").read_text() == "mine"
    assert Path("elsewhere/data.h5").read_text() == "mine"
    for content in ('{"files": 3}', "[" * 10**5, "\udcff", '{"files": [3]}'):
        Path("scan/provenance.json").write_text(content, errors="surrogateescape")
        write("scan", overwrite=True)
    assert Path("scan/link").is_symlink()


def test_another_run_does_not_write_to_the_same_folder():
    with results_folder("scan"):
        for options in ({}, {"overwrite": True}, {"resume": True}, {"in_place": True}):
            with (
                pytest.raises(FileExistsError, match="another run"),
                results_folder("scan", **options),
            ):
                pass
        with results_folder("other scan"):
            pass


def test_of_many_runs_that_begin_at_once_one_writes():
    begun, refused = [], []
    all_there, all_tried = threading.Barrier(8), threading.Barrier(8)

    def run():
        all_there.wait()
        try:
            with results_folder("scan"):
                begun.append(1)
                all_tried.wait(timeout=30)
        except FileExistsError:
            refused.append(1)
            all_tried.wait(timeout=30)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), len(refused)) == (1, 7)


def test_a_run_that_fails_before_anything_is_saved_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail("run.toml")
    assert names(tmp_path) == []


def test_what_was_saved_before_a_failure_is_kept_and_named(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        fail("product.h5")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in caught.value.__notes__[0]
    assert (kept / "product.h5").read_text() == "hours of computing"
    with pytest.warns(UserWarning, match="left by a killed run. --resume"):
        write("scan")
    with pytest.warns(UserWarning, match="It is removed"):
        write("scan", overwrite=True)
    assert names(tmp_path) == ["scan"]


@pytest.mark.filterwarnings("ignore:.*was left by a killed run")
def test_a_replacement_that_was_cut_short_is_finished_by_the_next_run(tmp_path, monkeypatch):
    write("scan")
    Path("scan/note.txt").write_text("mine")
    rename = Path.rename

    def killed(self, target):
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            write("scan", overwrite=True, product_h5="new")
    assert not Path("scan").exists()
    with pytest.raises(FileExistsError, match="scan exists"):
        write("scan")
    assert Path("scan/note.txt").read_text() == "mine"

    def killed_later(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_settle", killed_later)
        with pytest.raises(KeyboardInterrupt):
            write("scan", overwrite=True, product_h5="new")
    assert Path("scan/product.h5").read_text() == "new"
    write("scan", overwrite=True)
    assert Path("scan/note.txt").read_text() == "mine"
    assert names(tmp_path) == ["scan"]


def test_something_that_has_come_to_be_there_since_is_not_replaced(tmp_path):
    def run():
        with results_folder("scan") as results:
            (results.temporary / "product.h5").write_text("p")
            (results.temporary / "provenance.json").write_text("{}")
            Path("scan").mkdir()
            Path("scan/thesis.tex").write_text("mine")
            results.publish()

    with pytest.raises(FileExistsError, match="since the run began") as caught:
        run()
    assert "What was saved by then" in caught.value.__notes__[0]
    assert names("scan") == ["thesis.tex"]


def test_a_folder_grows_in_place_unless_there_is_an_earlier_result(tmp_path):
    with results_folder("training", in_place=True) as results:
        assert results.temporary == tmp_path / "training"
        (results.temporary / "provenance.json").write_text("{}")
        (results.temporary / "state.safetensors").write_text("s")
        results.publish()
    with replacing("training/generator.safetensors") as half_written:
        half_written.touch()
        left = half_written.with_name(half_written.name.replace("generator", "state"))
        left.touch()  # by a run that was killed
        with results_folder("training", resume=True, in_place=True) as results:
            assert results.temporary == results.earlier == tmp_path / "training"
        assert not left.exists()
        half_written.touch()
    with results_folder("training", overwrite=True, in_place=True) as results:
        assert results.temporary != tmp_path / "training"
        (results.temporary / "train.toml").write_text("t")
        (results.temporary / "state.safetensors").write_text("new")
    assert Path("training/state.safetensors").read_text() == "s"
    with results_folder("training", resume=True, in_place=True) as results:
        assert results.earlier == results.temporary != tmp_path / "training"


MOUNTED = """
import os, sys
from ptychi_neural.runs.folders import results_folder
for overwrite in (False, True):
    with results_folder(sys.argv[1], overwrite) as results:
        (results.temporary / "product.h5").write_text(str(overwrite))
        (results.temporary / "provenance.json").write_text("{}")
        results.publish()
print(sorted(os.listdir(sys.argv[1])), open(sys.argv[1] + "/product.h5").read())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["-t tmpfs none", "--bind elsewhere"])
def test_real_mount_points_are_filled_from_inside(tmp_path, how):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mount").mkdir()
    if subprocess.run(f"mount {how} mount", shell=True, cwd=tmp_path).returncode != 0:
        pytest.skip("mounting is not permitted")
    try:
        done = subprocess.run(
            [sys.executable, "-c", MOUNTED, "mount"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout == "['product.h5', 'provenance.json'] True\n", done.stderr
        assert names(tmp_path) == ["elsewhere", "mount"]
    finally:
        subprocess.run(["umount", "mount"], cwd=tmp_path, check=True)


def test_a_name_that_is_not_utf_8_is_refused_by_name():
    with pytest.raises(ValueError, match=r"caf\\xe9: the folder's name is not UTF-8.*--output"):
        write(os.fsdecode(b"results/caf\xe9"))
    assert not Path("results").exists()
