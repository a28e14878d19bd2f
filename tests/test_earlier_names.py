"""Names of modules that earlier scripts import."""

import importlib
from types import ModuleType

import pytest

from ptychi_neural.earlier_names import EARLIER


@pytest.mark.parametrize("earlier", EARLIER)
def test_an_earlier_name_gives_what_today_s_module_has(earlier):
    old = importlib.import_module(f"ptychi_neural.{earlier}")
    today = importlib.import_module(f"ptychi_neural.{EARLIER[earlier]}")
    public = [
        name
        for name, value in vars(today).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    assert public
    assert all(getattr(old, name) is getattr(today, name) for name in public)


def test_scripts_written_for_earlier_names_find_their_objects():
    from ptychi_neural.api.enums import Architectures
    from ptychi_neural.api.options import GeneratorOptions
    from ptychi_neural.inference import load_generator
    from ptychi_neural.io.run_file import parse_changes, read_run_file
    from ptychi_neural.training_state import load_training_state, save_training_state
    from ptychi_neural.workflows.reconstruct import build_task, load
    from ptychi_neural.workflows.training_file import read_training_file

    from ptychi_neural.io import load_scan, write_product
    from ptychi_neural.workflows import ENGINES, benchmark, compare, infer, train

    assert GeneratorOptions().architecture is Architectures.UNROLLED
    assert "lsqml" in ENGINES
    assert all(
        callable(name)
        for name in (
            *(load_generator, load_scan, write_product, parse_changes, read_run_file),
            *(load_training_state, save_training_state, benchmark, compare, infer, train),
            *(build_task, load, read_training_file),
        )
    )
