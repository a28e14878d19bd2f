"""Architectures, lifters and networks that are registered outside of the package."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_what_a_script_registers_is_at_home_in_the_package():
    """``outside.py`` registers some of each, in a process of its own, and tests them."""
    file = Path(__file__).with_name("outside.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(file)]
    done = subprocess.run(command, cwd=file.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
