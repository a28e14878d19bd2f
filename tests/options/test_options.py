"""Options as files keep them, and those that are refused."""

import json

import pytest

import ptychi_neural.api as napi
from small_tasks import make_task, neural_options


def test_options_round_trip_through_json():
    options = neural_options(architecture="cascaded", n_modes=[6, 4, 4])
    options.reconstructor_options.generator.cascaded.n_blocks = 2
    options.reconstructor_options.consistency.stitch_weighting = "uniform"
    saved = json.loads(json.dumps(options.get_dict()))
    loaded = napi.NeuralPtychographyOptions()
    loaded.load_from_dict(saved, strict=True)
    assert json.loads(json.dumps(loaded.get_dict())) == saved
    assert loaded.reconstructor_options.generator.architecture is napi.Architectures.CASCADED


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o: setattr(o.object_options, "optimizable", False), "object_options.optimizable"),
        (
            lambda o: setattr(o.object_options.smoothness_constraint, "enabled", True),
            "object_options.smoothness_constraint",
        ),
        (
            lambda o: setattr(o.probe_options.power_constraint, "enabled", True),
            "probe_options.power_constraint",
        ),
        (lambda o: setattr(o.probe_options, "pixel_size_m", 3.0), "probe_options.pixel_size_m"),
        (
            lambda o: setattr(o.reconstructor_options.generator.cnn, "depth", 2),
            "generator.cnn",
        ),
        (
            lambda o: setattr(o.reconstructor_options.generator, "optimizer", "lbfgs"),
            "generator.optimizer",
        ),
        (
            lambda o: (
                setattr(o.reconstructor_options.generator, "architecture", "unrolled"),
                setattr(o.reconstructor_options.consistency, "scope", "scan"),
            ),
            "consistency.scope",
        ),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused_by_name(simulated, change, named):
    options = neural_options()
    change(options)
    with pytest.raises(ValueError, match=named):
        make_task(options, simulated.scan)
