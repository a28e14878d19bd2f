"""The frames of several ranks: each on one of them, neighbours together, the same pixels hidden."""

import pytest
import torch
from ptychi.io_handles import PtychographyDataset

from ptychi_neural.physics.pixel_splits import PixelSplits
from ptychi_neural.physics.ranks import Share, SharedDataset, shares, summed, summed_numbers


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_each_frame_is_on_one_rank_and_the_shares_are_alike(n):
    positions = torch.rand(83, 2, generator=torch.Generator().manual_seed(0))
    dealt = shares(positions, n)
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(83))
    sizes = [len(frames) for frames in dealt]
    assert max(sizes) - min(sizes) <= 2
    assert all(torch.equal(frames, frames.sort().values) for frames in dealt)


def test_neighbours_stay_together():
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(12.0), indexing="ij")
    positions = torch.stack([y.flatten(), x.flatten()], 1)
    left, middle, right = (positions[frames] for frames in shares(positions, 3))
    assert left[:, 1].max() < middle[:, 1].min()
    assert middle[:, 1].max() < right[:, 1].min()


def test_a_rank_has_the_patterns_of_its_own_frames_alone():
    patterns = torch.arange(6.0)[:, None, None].expand(6, 4, 4)
    own = torch.tensor([1, 4, 5])
    share = Share(own, 6)
    dataset = SharedDataset(PtychographyDataset(patterns[own], fft_shift=False), share)
    assert len(dataset) == 6
    assert torch.equal(share.of(torch.tensor([5, 0, 1])), torch.tensor([5, 1]))
    index, counts = dataset[torch.tensor([5, 1])]
    assert torch.equal(index, torch.tensor([5, 1]))
    assert torch.equal(counts[:, 0, 0], torch.tensor([5.0, 1.0]))
    with pytest.raises(IndexError, match="another rank"):
        dataset[0]


def test_the_pixels_of_a_frame_are_dealt_alike_whoever_has_it():
    own = torch.tensor([0, 3, 4])
    whole, some = (
        PixelSplits((6, 8, 8), 3, 0.1, 7, torch.device("cpu"), share)
        for share in (None, Share(own, 6))
    )
    assert len(some.labels) == 3
    wanted = torch.tensor([4, 0])
    assert torch.equal(some.held_out(wanted), whole.held_out(wanted))
    assert torch.equal(some.seen(wanted, 1), whole.seen(wanted, 1))
    assert torch.equal(some.predicted(wanted, 2), whole.predicted(wanted, 2))


def test_one_process_sums_nothing():
    tensor = torch.ones(3)
    assert summed(tensor) is tensor
    assert summed_numbers(1.5, 2) == (1.5, 2)
