"""Random weights and patterns that are the same in every run."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


collect_ignore = ["outside.py"]
"""It has a process of its own: see ``test_register.py``."""
