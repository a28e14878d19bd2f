"""The frames of several ranks: each on one of them, neighbours on all, the same pixels hidden;
and the sums over ranks, with their gradients."""

import numpy as np
import pytest
import torch
from ptychi.io_handles import PtychographyDataset
from torch.utils.data import DataLoader

from ptychi_neural.physics.pixel_splits import PixelSplits
from ptychi_neural.physics.ranks import (
    Share,
    SharedDataset,
    deal_batches,
    part_of_mean,
    rank,
    shares,
    sum_gradients,
    summed,
    summed_numbers,
)
from several_ranks import on_ranks


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_each_frame_is_on_one_rank_and_the_shares_are_alike(n):
    for n_frames in (n, 83):
        dealt = shares(n_frames, n)
        assert torch.equal(torch.cat(dealt).sort().values, torch.arange(n_frames))
        sizes = [len(frames) for frames in dealt]
        assert max(sizes) - min(sizes) <= 1
        assert all(torch.equal(frames, frames.sort().values) for frames in dealt)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_neighbours_and_every_other_frame_are_dealt_to_all(n):
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    corner = ((rows < 6) & (columns < 6)).flatten()
    chequered = ((rows + columns) % 2 == 0).flatten()
    for some in (corner, chequered):
        sizes = [int(some[frames].sum()) for frames in shares(144, n)]
        assert max(sizes) <= 1.4 * int(some.sum()) / n


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
    loader = DataLoader(dataset, batch_sampler=[[5, 0, 1], [0, 2]])
    deal_batches(loader)
    (index, counts), (no_index, no_counts) = loader
    assert torch.equal(index, torch.tensor([5, 1]))
    assert torch.equal(counts[:, 0, 0], torch.tensor([5.0, 1.0]))
    assert (len(no_index), no_counts.shape) == (0, (0, 4, 4))


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
    mean = tensor.mean()
    assert part_of_mean(mean, 3) is mean


def parts_of_mean():
    """Parts of a mean over the counts 0; 1, 2; and of none on the last of three ranks."""
    torch.distributed.init_process_group("gloo")
    own = (torch.tensor([0.0]), torch.tensor([1.0, 2.0]), torch.empty(0))[rank()]
    own.requires_grad_()
    part = part_of_mean(own.mean(), len(own))
    part.backward()
    return part.item(), own.grad.tolist()


def test_ranks_add_up_to_a_mean_of_all():
    of_ranks = on_ranks(3, parts_of_mean)
    np.testing.assert_allclose([part for part, _ in of_ranks], [0, 1, 0])
    gradients = [each for _, gradient in of_ranks for each in gradient]
    np.testing.assert_allclose(gradients, [1 / 3] * 3)


def gradients_of_sums():
    """Gradients of a product of sums over ranks, of which each rank lacks one term."""
    torch.distributed.init_process_group("gloo")
    own = torch.tensor([2.0, 3.0, 5.0j], requires_grad=True)
    terms = own * (torch.arange(3) != rank())
    total = summed(terms)
    part = (total[0] * total[1] * total[2]).abs() if rank() == 0 else 0 * total.abs().sum()
    part.backward()
    unused, of_one = (torch.ones(2, requires_grad=True) for _ in range(2))
    if rank() == 2:
        of_one.grad = torch.full((2,), 7.0)
    sum_gradients([own, unused, of_one])
    return total.detach().tolist(), own.grad.tolist(), unused.grad, of_one.grad.tolist()


def test_a_gradient_through_a_sum_is_that_of_all_ranks():
    # L = |s_0 s_1 s_2| = 240 with s_i = 2 x_i, of which two ranks have one x_i each:
    # dL / dx_i = L s_i / |s_i|^2 on both.
    for total, of_own, unused, of_one in on_ranks(3, gradients_of_sums):
        np.testing.assert_allclose(total, [4, 6, 10j])
        np.testing.assert_allclose(of_own, [120, 80, 48j])
        assert unused is None
        assert of_one == [7, 7]
