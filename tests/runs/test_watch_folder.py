"""A watched folder: each scan is reconstructed once, whatever comes between."""

import json
import shutil
import signal

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptychi_neural.cli import app
from ptychi_neural.runs import watch_folder
from ptychi_neural.runs.configuration import RunFileError
from ptychi_neural.runs.one_writer import WrittenByOther
from ptychi_neural.runs.watch_folder import FolderWatch
from ptychi_neural.scans import read_product, write_scan
from ptychi_neural.simulation import write_simulation

TEMPLATE = """
[data]
diffraction = "{scan}/diffraction.h5"
product = "{scan}/product.h5"

[reconstructor_options]
num_epochs = 0
default_device = "cpu"
random_seed = 0
start = { n_iterations = 2 }
"""


@pytest.fixture
def folders(simulated, tmp_path):
    """A folder with two scans, a template, and the results folder."""
    for name in ("first", "second"):
        write_simulation(simulated, tmp_path / "scans" / name)
    (tmp_path / "template.toml").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path / "scans", tmp_path / "template.toml", tmp_path / "results"


def watch(folders, **kwargs):
    lines = []
    FolderWatch(*folders, settle_s=0, say=lines.append, **kwargs).run(every_s=0.01, once=True)
    return lines


def state_of(folders):
    return json.loads((folders[2] / "watch.json").read_text())["scans"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ('data = { diffraction = "/data/{scan}.h5" }', "has to be relative to the watched folder"),
        ("data = 3", "data: Input should be an object, not 3"),
    ],
)
def test_a_template_that_names_no_scans_of_the_folder_is_refused(data, told, tmp_path):
    (tmp_path / "template.toml").write_text(data)
    with pytest.raises(RunFileError, match=told):
        FolderWatch(tmp_path, tmp_path / "template.toml", tmp_path / "results")


@pytest.mark.parametrize(
    ("pattern", "name"), [("{scan}{scan}.h5", "abab.h5"), ("[0]{scan}*.h5", "[0]ab*.h5")]
)
def test_names_of_scans_may_have_any_characters_around_them(pattern, name, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / name).write_text("no scan")
    (tmp_path / "template.toml").write_text(f"data = {{ diffraction = '{pattern}' }}")
    (told,) = watch((tmp_path / "scans", tmp_path / "template.toml", tmp_path / "results"))
    assert told.startswith("ab: set aside: ")


def test_each_scan_is_reconstructed_once(folders, simulated):
    lines = watch(folders)
    assert [line.split(": ")[:2] for line in lines] == [["first", "done"], ["second", "done"]]
    for name in ("first", "second"):
        assert np.abs(read_product(folders[2] / name / "product.h5").object - 1).max() > 0.05
    before = (folders[2] / "first" / "product.h5").stat().st_mtime_ns
    assert watch(folders) == []
    write_simulation(simulated, folders[0] / "third")
    assert [line.split(":")[0] for line in watch(folders)] == ["third"]
    assert (folders[2] / "first" / "product.h5").stat().st_mtime_ns == before


def test_what_cannot_be_read_is_set_aside_until_it_changes(folders, simulated):
    (folders[0] / "first" / "diffraction.h5").write_bytes(b"half written")
    lines = watch(folders)
    assert lines[0].startswith("first: set aside: ")
    assert "diffraction.h5" in lines[0]
    assert lines[1].startswith("second: done")
    assert state_of(folders)["first"]["state"] == "set aside"
    assert watch(folders) == []
    assert watch(folders, retry=True)[0].startswith("first: set aside")
    write_simulation(simulated, folders[0] / "first", overwrite=True)
    assert watch(folders)[0].startswith("first: done")
    assert state_of(folders)["first"]["state"] == "done"


def test_messages_name_no_flag_that_the_command_does_not_have(folders, capsys):
    watch(folders, changes={"data": {"mask": "missing.npy"}})
    told = [scan["reason"] for scan in state_of(folders).values()]
    assert all("data.mask: no file" in reason for reason in told)
    assert "--data" not in capsys.readouterr().err + "".join(told)


def test_a_scan_waits_for_all_of_its_files_and_until_they_are_written(folders, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watch_folder.time, "monotonic", lambda: now[0])
    taken = []
    monkeypatch.setattr(FolderWatch, "_reconstruct", lambda self, name: taken.append(name))
    product = folders[0] / "first" / "product.h5"
    product.rename(folders[0] / "later.h5")
    watching = FolderWatch(*folders, settle_s=10)

    def look():
        return [n for n, files in watching._waiting() if watching._has_settled(n, files)]

    assert look() == []
    now[0] = 11
    assert look() == ["second"]
    shutil.copy(folders[0] / "later.h5", product)
    assert look() == ["second"]
    now[0] = 20
    with product.open("ab") as file:
        file.write(b"more")
    assert look() == ["second"]
    now[0] = 31
    assert look() == ["first", "second"]


def test_a_master_is_tried_again_when_the_data_that_it_links_arrive(folders, simulated):
    scans = folders[0]
    shutil.rmtree(scans / "second")
    (scans / "first" / "diffraction.h5").unlink()
    with h5py.File(scans / "first" / "diffraction.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("data_1.h5", "/entry/data/data")
    lines = watch(folders)
    assert lines[0].startswith("first: set aside: ")
    assert "data_1.h5" in lines[0]
    assert watch(folders) == []
    with h5py.File(scans / "first" / "data_1.h5", "w") as file:
        file["entry/data/data"] = simulated.scan.patterns
    assert watch(folders)[0].startswith("first: done")


def test_two_watches_share_the_scans_of_a_folder(folders, monkeypatch):
    first = FolderWatch(*folders, settle_s=0, say=(lines := []).append)
    whole, others = watch_folder.reconstruct, []

    def beside_another(run, target, *args, **kwargs):
        if target.name == "second" and not others:  # The other has begun it, and ends it later.
            others.append(target)
            raise WrittenByOther(f"{target}: another run writes to it.")
        return whole(run, target, *args, **kwargs)

    monkeypatch.setattr(watch_folder, "reconstruct", beside_another)
    second = FolderWatch(*folders, settle_s=0, say=(seconds := []).append)
    second.run(every_s=0.01, once=True)  # It notes what the first has not yet read.
    assert [line.split(": ")[:2] for line in seconds] == [["first", "done"], ["second", "done"]]
    assert first.run(every_s=0.01, once=True) is False
    assert lines == []
    assert {name: noted["state"] for name, noted in state_of(folders).items()} == {
        "first": "done",
        "second": "done",
    }


def test_a_state_that_cannot_be_read_is_named(folders):
    folders[2].mkdir()
    (folders[2] / "watch.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"watch.json does not tell.*remove it"):
        FolderWatch(*folders)


def interrupt(monkeypatch):
    """Let every reconstruction tell that it was interrupted."""
    whole = watch_folder.reconstruct

    def interrupted(*args, **kwargs):
        result = whole(*args, **kwargs)
        result.stopped = "interrupted"
        return result

    monkeypatch.setattr(watch_folder, "reconstruct", interrupted)


def test_an_interrupted_scan_ends_the_watch_and_is_done_anew(folders, monkeypatch):
    shutil.rmtree(folders[0] / "second")
    with monkeypatch.context() as patch:
        interrupt(patch)
        lines = watch(folders)
    assert [line.split(": ")[:2] for line in lines] == [["first", "interrupted"]]
    assert [line.split(": ")[:2] for line in watch(folders)] == [["first", "done"]]
    assert state_of(folders)["first"]["state"] == "done"


def test_the_command_tells_that_it_was_interrupted(folders, monkeypatch):
    interrupt(monkeypatch)
    command = ["watch", *map(str, folders[:2]), "--output", str(folders[2]), "--settle", "0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130, done.output
    assert set(state_of(folders)) == {"first"}


def test_a_signal_that_comes_while_a_result_is_saved_ends_the_watch_after_it(folders, monkeypatch):
    whole = watch_folder.reconstruct

    def signalled(*args, **kwargs):
        result = whole(*args, **kwargs)
        signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(watch_folder, "reconstruct", signalled)
    command = ["watch", *map(str, folders[:2]), "--output", str(folders[2]), "--settle", "0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130, done.output
    assert {name: scan["state"] for name, scan in state_of(folders).items()} == {"first": "done"}


def test_what_could_not_be_saved_is_told(folders, monkeypatch):
    whole = watch_folder.reconstruct

    def incomplete(*args, **kwargs):
        result = whole(*args, **kwargs)
        result.unsaved.append("loss.png")
        return result

    monkeypatch.setattr(watch_folder, "reconstruct", incomplete)
    assert all(line.endswith("incomplete, without loss.png") for line in watch(folders))
    assert state_of(folders)["second"]["state"] == "done"


def test_an_error_of_the_program_does_not_end_the_watch(folders, monkeypatch):
    def broken(*args, **kwargs):
        raise TypeError("no such thing")

    monkeypatch.setattr(watch_folder, "reconstruct", broken)
    assert watch(folders) == [
        f"{n}: set aside: TypeError: no such thing" for n in ("first", "second")
    ]


def test_the_command_watches_whole_scan_files(folders, simulated):
    scans, template, results = folders
    write_scan(scans / "alone.cxi", simulated.scan, "cxi")
    write_scan(scans / ".hidden.cxi", simulated.scan, "cxi")
    contents = TEMPLATE.replace("{scan}/diffraction.h5", "{scan}.cxi")
    template.write_text(contents.replace('product = "{scan}/product.h5"', ""), encoding="utf-8")
    command = ["watch", str(scans), str(template), "--output", str(results), "--once"]
    done = CliRunner().invoke(app, [*command, "--settle", "0"])
    assert done.exit_code == 0, done.output
    assert "alone: done" in done.output
    assert set(state_of(folders)) == {"alone"}
    (scans / "broken.cxi").write_bytes(b"half written")
    quiet = CliRunner().invoke(app, [*command, "--settle", "0", "--quiet", "--retry"])
    assert "broken: set aside" in quiet.output


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("{scan}/diffraction.h5", "diffraction.h5", "write {scan}"),
        ("num_epochs", "num_epoch", "num_epoch"),
        ("product =", "produkt =", r"data\.produkt"),
        ("[data]", "[data]\nbin = 0", r"data\.bin"),
        ("[data]", "[data]\ncenter = [1, 2]", r"data\.center"),
    ],
)
def test_a_template_is_checked_before_the_watch_begins(folders, before, after, message):
    folders[1].write_text(TEMPLATE.replace(before, after), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        FolderWatch(*folders)


def test_a_folder_that_is_missing_is_named(folders):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        FolderWatch(folders[0] / "nowhere", folders[1])
