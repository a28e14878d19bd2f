"""The catalogue of engines, which run files and comparisons share."""

import pytest
from typer.testing import CliRunner

from ptychi_neural import comparison, workflows
from ptychi_neural.cli import app
from ptychi_neural.runs import run_file
from ptychi_neural.runs.engines import CATALOGUE


def test_run_files_name_every_engine_but_no_variant():
    assert list(run_file.ENGINES) == [
        *("neural", "lsqml", "rpie", "epie", "pie", "dm", "raar", "bh", "autodiff")
    ]
    for name, options_class in run_file.ENGINES.items():
        assert options_class is CATALOGUE[name].options_class


def test_comparisons_offer_the_engines_that_have_settings_for_them():
    assert list(comparison.ENGINES) == [
        *("neural", "network-off", "network-off-tv", "lsqml", "lsqml-poisson"),
        *("rpie", "dm", "autodiff"),
    ]
    assert workflows.ENGINES is comparison.ENGINES
    shown = CliRunner().invoke(app, ["compare", "--help"]).output
    assert ", ".join(comparison.ENGINES) in " ".join(shown.split())


@pytest.mark.parametrize("name", [name for name, e in CATALOGUE.items() if e.variant_of])
def test_a_variant_has_the_options_of_the_engine_that_it_is_a_variant_of(name):
    engine = CATALOGUE[name]
    assert engine.options_class is CATALOGUE[engine.variant_of].options_class
    assert engine.comparison_settings
