"""Fixtures that more than one test file needs."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real scans, kept beside the repository; tests that need them skip where they are absent."""
    repository = Path(__file__).resolve().parents[1]
    folder = repository / os.environ.get("PTYCHI_NEURAL_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"no measured data in {folder}")
    return folder
