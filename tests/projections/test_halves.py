"""Halves of a scan, each of which covers what the whole scan covers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychi_neural.projections.halves import interleaved_halves


def test_halves_of_a_raster_are_the_fields_of_a_chequerboard():
    y, x = (index.flatten() for index in torch.meshgrid(*2 * [torch.arange(9)], indexing="ij"))
    order = torch.randperm(81, generator=torch.Generator().manual_seed(0))
    positions = 3.0 * torch.stack([y, x], -1)[order]
    for half in interleaved_halves(positions):
        assert ((y + x)[order][half] % 2).unique().numel() == 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=60),
    st.integers(0, 1),
)
@settings(deadline=None, max_examples=40)
def test_halves_share_all_frames_and_neighbours_are_parted(points, far):
    positions = torch.tensor(points, dtype=torch.float64)
    positions[::2] += 1000.0 * far
    first, second = interleaved_halves(positions)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(points)))
    for i in set(first.tolist()):
        distances = (positions - positions[i]).norm(dim=1)
        distances[i] = torch.inf
        nearest = (distances == distances.min()).nonzero()[:, 0]
        if len(nearest) == 1:  # It is then the spanning tree's neighbour.
            assert nearest[0] in second
