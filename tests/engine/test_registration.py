"""The engine in pty-chi's registry, beside the stock engines."""

import subprocess
import sys

import ptychi.api as api
import pytest
from ptychi.api.registry import RECONSTRUCTOR_OPTIONS_MAP

import ptychi_neural.api as napi


def test_registration_happens_once_and_lists_the_engine():
    import ptychi.maps

    lookup = ptychi.maps.get_reconstructor_by_enum
    napi.register()
    assert ptychi.maps.get_reconstructor_by_enum is lookup
    groups = RECONSTRUCTOR_OPTIONS_MAP[napi.NeuralReconstructors.NEURAL]
    assert groups["reconstructor_options"] is napi.NeuralReconstructorOptions
    assert set(groups) == set(RECONSTRUCTOR_OPTIONS_MAP[api.Reconstructors.LSQML])


STOCK_RUN = """
import sys, hashlib, numpy as np
{imports}
import ptychi.api as api
from ptychi.api.task import PtychographyTask
rng = np.random.default_rng(0)
digest = hashlib.sha256()
for engine in (api.LSQMLOptions, api.RPIEOptions, api.AutodiffPtychographyOptions):
    options = engine()
    options.reconstructor_options.default_device = "cpu"
    options.reconstructor_options.random_seed = 1
    options.reconstructor_options.batch_size = 4
    probe = np.ones((1, 1, 8, 8)) * np.exp(1j * np.linspace(0, 1, 8))
    task = PtychographyTask(
        options,
        diffraction_data=np.random.default_rng(2).poisson(9, (12, 8, 8)),
        object_data=np.ones((1, 24, 24), complex), probe_data=probe,
        probe_position_x_px=np.linspace(-5, 5, 12), probe_position_y_px=np.linspace(4, -4, 12),
    )
    task.run(3)
    for name in ("object", "probe"):
        digest.update(task.get_data_to_cpu(name, as_numpy=True).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_stock_engines_give_bit_identical_results_with_and_without_the_import():
    def run(imports):
        code = STOCK_RUN.format(imports=imports)
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout

    assert run("import ptychi_neural") == run("") != ""


def test_the_options_are_found_by_name_as_those_of_every_engine():
    """This is how ptychodus resolves the options of a reconstruction."""
    stated = napi.NeuralPtychographyOptions().get_dict()
    options_class = getattr(api, stated["options_class_name"])
    assert options_class().load_from_dict(stated, strict=True).get_dict() == stated
