"""Every option of pty-chi is honoured, or refused by name."""

import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

import ptychi_neural.api as napi
from ptychi_neural.options.honoured import HONOURED, REFUSED, entry_of, fields_of
from ptychi_neural.options.refusals import unsupported_options

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pty_chi_options.md"


def test_each_of_pty_chi_s_options_is_honoured_or_refused_and_none_both():
    names = list(fields_of(napi.NeuralPtychographyOptions()))
    assert len(names) > 200
    for name in names:
        honoured, refused = entry_of(name, HONOURED), entry_of(name, REFUSED)
        assert (honoured is None) != (refused is None), name


def test_the_tables_name_nothing_that_pty_chi_has_not():
    names = list(fields_of(napi.NeuralPtychographyOptions()))
    for entry in (*HONOURED, *REFUSED):
        assert any(name == entry or name.startswith(f"{entry}.") for name in names), entry


OTHERWISE = {
    "object_options.optimizable": False,
    "object_options.optimizer": "adam",
    "object_options.step_size": 0.5,
    "object_options.optimizer_params": {"betas": [0.9, 0.99]},
    "probe_options.pixel_size_m": 3.0,
    "probe_options.pixel_size_aspect_ratio": 2.0,
    "probe_options.eigenmode_update_relaxation": 0.5,
    "probe_position_options.correction_options.correction_type": "cross_correlation",
    "probe_position_options.correction_options.differentiation_method": "gaussian",
    "probe_position_options.correction_options.cross_correlation_scale": 100,
    "probe_position_options.correction_options.cross_correlation_real_space_width": 0.1,
    "probe_position_options.correction_options.cross_correlation_probe_threshold": 0.5,
    "probe_position_options.correction_options.slice_for_correction": 0,
    "opr_mode_weight_options.update_relaxation": 0.5,
    "reconstructor_options.forward_model_params": {"low_memory_mode": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_by_name(name):
    options = napi.NeuralPtychographyOptions()
    *group, last = name.split(".")
    owner = reduce(getattr, group, options)
    value = getattr(owner, last)
    if name in OTHERWISE:
        setattr(owner, last, OTHERWISE[name])
    elif last == "experimental":
        value.deep_image_prior_options.enabled = True
    elif last == "optimization_plan":
        value.start = 3
    elif last == "forward_model_class":
        setattr(owner, last, "base")
    else:
        value.enabled = True
    assert any(problem.startswith(f"{name}:") for problem in unsupported_options(options))
    with pytest.raises(ValueError, match=re.escape(name)):
        options.check()


def test_defaults_are_not_refused():
    options = napi.NeuralPtychographyOptions()
    assert list(unsupported_options(options)) == []
    options.probe_options.pixel_size_m = options.object_options.pixel_size_m
    assert list(unsupported_options(options)) == []


def test_the_document_is_what_the_command_writes():
    command = [sys.executable, "-m", "ptychi_neural.options.honoured"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert DOCUMENT.read_text(encoding="utf-8") == written
