"""Run files that ``init`` fills in from a scan."""

import tomllib

import numpy as np
import pytest

from ptychi_neural.runs.init_file import write_run_file
from shadow_scans import shadow_scan

PIXEL_M = 2.5e-7
NEAR = ("data.focus_object_distance_m=-0.1", "data.photon_energy_eV=1e4")


@pytest.mark.parametrize(
    ("changes", "is_transposed", "orientation"),
    [
        ((), False, {}),
        ((), True, {"transpose": True}),
        (NEAR, False, {"flip_y": True, "flip_x": True}),
    ],
)
def test_upside_down_shadows_are_turned_in_the_near_field_alone(
    tmp_path, changes, is_transposed, orientation
):
    """In the far field they are upside down on one side of the focus; frames that are turned then
    give the complex conjugate of the object."""
    frames, positions = shadow_scan(PIXEL_M)
    stored = frames[:, ::-1, ::-1]
    np.save(tmp_path / "frames.npy", stored.swapaxes(1, 2) if is_transposed else stored)
    np.savetxt(tmp_path / "positions.csv", positions, delimiter=",", header="y,x")
    changes = (f"data.pixel_size_m={PIXEL_M}", *changes)
    path, hints = write_run_file(
        tmp_path / "frames.npy", tmp_path / "positions.csv", tmp_path / "run.toml", changes
    )
    data = tomllib.loads(path.read_text())["data"]
    found = {name: data[name] for name in ("transpose", "flip_y", "flip_x") if name in data}
    assert found == orientation
    assert any("out of focus" in hint for hint in hints) == (not changes[1:])
