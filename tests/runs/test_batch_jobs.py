"""The batch jobs of the documentation, with a scheduler that runs them at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptychi_neural.scans import read_product, write_diffraction, write_product

PAGE = Path(__file__).parents[2] / "docs" / "at_the_beamline.md"

SBATCH = r"""#!/bin/sh
for last; do :; done
case "$*" in
*--wrap*) exec sh -c "$last" ;;
esac
range=$(sed -n 's/^#SBATCH.*--array=\([0-9-]*\).*/\1/p' "$last")
[ -n "$range" ] || exec sh "$last"
for i in $(seq "${range%-*}" "${range#*-}"); do
    SLURM_ARRAY_TASK_ID=$i sh "$last" || exit 1
done
"""

KEYS = """
[reconstructor_options]
num_epochs = 0
default_device = "cpu"
start = { n_iterations = 2 }
"""

SCANS = ("S1", "S2")


def documented(word):
    """The only shell script of the page that has a word in it."""
    (script,) = (s for s in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S) if word in s)
    return script


@pytest.fixture
def submit(tmp_path, simulated):
    """Submit arguments to the scheduler, in a folder with two scans."""
    for name in SCANS:
        (tmp_path / name).mkdir()
        write_diffraction(tmp_path / name / "diffraction.h5", simulated.scan.patterns)
        write_product(tmp_path / name / "product.h5", simulated.scan)
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    path = os.pathsep.join(
        [str(sbatch.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    )

    def submit(*arguments):
        command = ["sbatch", *arguments]
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)

    return submit


@pytest.mark.slow
def test_an_array_reconstructs_each_scan(submit, tmp_path):
    (tmp_path / "template.toml").write_text(KEYS)
    (tmp_path / "scans.txt").write_text("\n".join(SCANS) + "\n")
    script = documented("SLURM_ARRAY_TASK_ID")
    assert "--array=1-40" in script
    (tmp_path / "job.sh").write_text(script.replace("1-40", "1-2"))
    submit("job.sh")
    for name in SCANS:
        assert len(read_product(tmp_path / "results" / name / "product.h5").positions_px) == 64


@pytest.mark.slow
def test_a_job_of_several_processes_reconstructs_a_scan(submit, tmp_path):
    data = '[data]\ndiffraction = "S1/diffraction.h5"\n'
    (tmp_path / "my_scan.toml").write_text(data + KEYS.replace("num_epochs = 0", ""))
    script = documented("torchrun")
    assert "--nproc-per-node=4" in script
    (tmp_path / "job.sh").write_text(
        script.replace("node=4", "node=2").replace("THREADS=2", "THREADS=1")
    )
    submit("job.sh")
    assert read_product(tmp_path / "results" / "my_scan" / "product.h5").object.any()


@pytest.mark.slow
def test_a_job_watches_a_folder_once(submit, tmp_path):
    (line,) = re.findall(r"^ +sbatch (.*)$", PAGE.read_text(), re.M)
    options, command = re.fullmatch(r'(.*) --wrap "(.*)"', line).groups()
    data = '[data]\ndiffraction = "{scan}/diffraction.h5"\nproduct = "{scan}/product.h5"\n'
    (tmp_path / "template.toml").write_text(data + KEYS)
    assert "/data/today" in command
    submit(*options.split(), "--wrap", command.replace("/data/today", ".") + " --settle 0")
    for name in SCANS:
        assert (tmp_path / "results" / "template" / name / "product.h5").exists()
