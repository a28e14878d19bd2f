"""The stitch-and-extract layer against a pixel-by-pixel oracle, and its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ptychi_neural.api as napi
from irregular_scan import PATCH, H, W, complex_random, make_scan, make_task


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_placement_and_extraction_are_adjoint(seed):
    task = make_task(seed, n_slices=2)
    stitching = task.reconstructor.model.stitching
    rng = np.random.default_rng(seed)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 2, PATCH, PATCH))
    canvas = torch.tensor(complex_random(rng, 2, H, W))
    left = torch.sum(stitching.place(patches, positions).conj() * canvas)
    right = torch.sum(patches.conj() * stitching.extract(canvas, positions))
    assert abs(left - right) <= 1e-10 * abs(left)


def test_threads_do_not_change_what_is_placed(monkeypatch):
    scan = make_scan(n_positions=400, patch=16)
    monkeypatch.setattr("ptychi.maths._allow_nondeterministic_algorithms", False)
    positions = scan.model.positions(scan.frames)
    patches = torch.rand(400, 1, 16, 16, dtype=torch.float32)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        canvases = [scan.model.stitching.place(patches, positions) for _ in range(20)]
    finally:
        torch.set_num_threads(n_threads)
    assert not canvases[0].is_complex()
    assert all(torch.equal(canvas, canvases[0]) for canvas in canvases)


def numpy_stitch(patches, positions, weights):
    """Oracle: pixel by pixel, over every patch that covers the pixel."""
    sums = np.zeros((H, W), complex)
    totals = np.zeros((H, W))
    for patch, (y, x) in zip(patches, positions):
        top = int(np.floor(np.rint(y) + H / 2 - PATCH / 2))
        left = int(np.floor(np.rint(x) + W / 2 - PATCH / 2))
        for i in range(PATCH):
            for j in range(PATCH):
                sums[top + i, left + j] += weights[i, j] * patch[i, j]
                totals[top + i, left + j] += weights[i, j]
    return sums, totals


@pytest.mark.parametrize("weighting", list(napi.StitchWeightings))
def test_stitch_agrees_with_a_numpy_oracle_on_irregular_positions(weighting):
    task = make_task(1, stitch_weighting=weighting)
    scan = task.reconstructor.scan
    rng = np.random.default_rng(1)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    probe_intensity = np.abs(task.get_data_to_cpu("probe", as_numpy=True)[0, 0]) ** 2
    weights = (
        np.ones((PATCH, PATCH))
        if weighting == napi.StitchWeightings.UNIFORM
        else probe_intensity / probe_intensity.max()
    )
    sums, totals = numpy_stitch(patches[:, 0].numpy(), positions.detach().numpy(), weights)
    covered = totals > 1e-6
    expected = np.where(covered, sums / np.where(covered, totals, 1), scan.start[0].numpy())
    stitched = scan.model.stitching.accumulate(patches, positions).object(scan.start)
    np.testing.assert_allclose(stitched[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighting", list(napi.StitchWeightings))
def test_extraction_after_stitching_is_a_projection(weighting):
    task = make_task(2, stitch_weighting=weighting)
    stitching, start = task.reconstructor.model.stitching, task.reconstructor.scan.start
    positions = task.probe_positions.data
    rng = np.random.default_rng(2)
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    once = stitching(patches, positions, start)
    twice = stitching(once, positions, start)
    torch.testing.assert_close(twice, once, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(once, patches)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_stitching_does_not_amplify_anywhere(seed):
    task = make_task(seed)
    stitching, start = task.reconstructor.model.stitching, task.reconstructor.scan.start
    rng = np.random.default_rng(seed)
    positions = task.probe_positions.data
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    consistent = stitching(patches, positions, start)
    assert consistent.abs().max() <= patches.abs().max() * (1 + 1e-12)


def test_gradients_of_stitch_and_extract_are_right():
    task = make_task(3, n_positions=4)
    stitching, start = task.reconstructor.model.stitching, task.reconstructor.scan.start
    positions = task.probe_positions.data.detach()
    rng = np.random.default_rng(3)
    patches = torch.tensor(complex_random(rng, 4, 1, PATCH, PATCH)).requires_grad_()
    index = torch.arange(4)

    def layer(patches):
        return stitching(patches[index], positions, start)

    assert torch.autograd.gradcheck(layer, (patches,), fast_mode=True)


def test_translating_all_positions_translates_the_stitched_object():
    task = make_task(4)
    stitching = task.reconstructor.model.stitching
    rng = np.random.default_rng(4)
    positions = task.probe_positions.data.detach()
    patches = torch.tensor(complex_random(rng, len(positions), 1, PATCH, PATCH))
    here = stitching.accumulate(patches, positions)
    there = stitching.accumulate(patches, positions + torch.tensor([2.0, -1.0]))
    for a, b in zip(here, there):
        torch.testing.assert_close(b, a.roll((2, -1), dims=(-2, -1)))


def test_scan_scope_stitches_the_latest_patches_of_the_other_positions():
    task = make_task(11, scope="scan")
    scan, latest = task.reconstructor.scan, task.reconstructor.latest
    rng = np.random.default_rng(11)
    n = len(task.dataset)
    latest.patches = torch.tensor(complex_random(rng, n, 1, PATCH, PATCH))
    latest.refresh(task.probe_positions.data)
    members = torch.tensor([2, 5, 7])
    new = torch.tensor(complex_random(rng, 3, 1, PATCH, PATCH))
    everything = latest.patches.clone()
    everything[members] = new
    expected = scan.model.stitching.accumulate(everything, task.probe_positions.data)
    stitched = scan.stitched_along(latest).accumulate(members, new).object(scan.start)
    torch.testing.assert_close(stitched, expected.object(scan.start))
    torch.testing.assert_close(latest.total.weighted_patches, expected[0])
