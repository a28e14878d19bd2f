"""What the README says is so."""

import re
import subprocess
import sys
from pathlib import Path

import ptychi_neural.api as napi

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_script_runs(tmp_path):
    script = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert "num_epochs = 60" in script
    script = script.replace("num_epochs = 60", "num_epochs = 1")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_the_table_of_options_states_options_that_exist_and_their_defaults():
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\S+?) \|", README, re.MULTILINE)
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
