"""What docs/ says is so."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import ptychi_neural.api as napi
from ptychi_neural.runs.run_file import read_run_file
from ptychi_neural.runs.training_file import read_training_file

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), DOCS.parent / "CONTRIBUTING.md"]

RUN_BLOCKS = """
import re, sys
text = open(sys.argv[1], encoding="utf-8").read()
for number, block in enumerate(re.findall(r"```python\\n(.*?)```", text, re.DOTALL), 1):
    exec(compile(block, f"block {number}", "exec"), {"__name__": "__main__"})
"""
"""Runs each Python block of a page with no names from the others: every example is complete."""


def blocks(page, language):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_examples_of_extensions_run(tmp_path):
    command = [sys.executable, "-c", RUN_BLOCKS, str(DOCS / "extending.md")]
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"plain.safetensors", "scan.npz", "two-doses"}


@pytest.mark.slow
def test_a_command_of_ones_own_reconstructs_a_format_of_ones_own(tmp_path):
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"\n\n( +import our_lab.*? main\(\))\n", text, re.DOTALL)
    (tmp_path / "ours.py").write_text(textwrap.dedent(command))
    (example,) = (b for b in blocks("extending.md", "python") if "class OurLab" in b)
    classes, use = example.split("scan = simulate(")
    (tmp_path / "our_lab.py").write_text(classes)
    (tmp_path / "write.py").write_text(f"from our_lab import *\nscan = simulate({use}")
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    for arguments in (
        "write.py",
        "ours.py init scan.npz",
        "ours.py reconstruct scan.toml --set reconstructor_options.num_epochs=0",
    ):
        command = [sys.executable, *arguments.split()]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "scan" / "product.h5").is_file()


def test_the_run_files_are_valid(tmp_path):
    for name in ("diffraction.h5", "product.h5", "reference.h5"):
        (tmp_path / name).touch()
    files = blocks("run_files.md", "toml")
    assert len(files) == 2
    for i, contents in enumerate(files):
        (tmp_path / f"{i}.toml").write_text(contents, encoding="utf-8")
        read_run_file(tmp_path / f"{i}.toml")


def test_the_training_file_is_valid(tmp_path):
    (tmp_path / "my_scan").mkdir()
    for name in ("diffraction.h5", "product.h5"):
        (tmp_path / "my_scan" / name).touch()
    contents = blocks("training.md", "toml")[0]
    (tmp_path / "train.toml").write_text(contents, encoding="utf-8")
    assert len(read_training_file(tmp_path / "train.toml").scans) == 2


def test_the_table_of_options_states_options_that_exist_and_their_defaults():
    text = (DOCS / "measured.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\S+?) \|", text, re.MULTILINE)
    assert len(rows) > 10
    for name, stated in rows:
        value = napi.NeuralReconstructorOptions()
        for part in name.split("."):
            value = getattr(value, part)
        stated = stated.strip("`")
        if isinstance(value, float):
            assert float(stated) == value, name
        else:
            assert stated == str(value).lower(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_sections_that_are_linked_exist(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        if section:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
            assert section in anchors, link
