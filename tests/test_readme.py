"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptychi_neural.runs.run_file import read_run_file

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_script_runs(tmp_path):
    script = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert "num_epochs = 60" in script
    script = script.replace("num_epochs = 60", "num_epochs = 1")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_the_run_file_is_valid(tmp_path):
    contents = re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1]
    for name in ("diffraction.h5", "product.h5"):
        (tmp_path / name).touch()
    (tmp_path / "my_scan.toml").write_text(contents, encoding="utf-8")
    run = read_run_file(tmp_path / "my_scan.toml")
    assert run.options.probe_options.optimizable


def test_files_and_pages_that_are_linked_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 8
    assert [link for link in links if not (REPOSITORY / link).is_file()] == []
