"""docs/options.md is what the options say of themselves."""

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def test_the_page_of_options_is_what_the_command_writes():
    # In a process of its own: other tests register architectures and lifters.
    command = [sys.executable, "-m", "ptychi_neural.options.reference"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert written == PAGE.read_text(encoding="utf-8"), f"run: {' '.join(command[1:])} > {PAGE}"
