"""Which detector pixels may be seen, and which are to be predicted."""

import torch

from irregular_scan import make_task
from ptychi_neural.physics.pixel_splits import PixelSplits


def test_held_out_pixels_reach_neither_input_nor_update():
    task = make_task(13, held_out=0.2)
    scan = task.reconstructor.scan
    frames = scan.frames
    held_out = scan.held_out(frames)
    assert 0.15 < held_out.float().mean() < 0.25
    before = [
        scan.patterns(frames),
        scan.correction(frames, scan.start_patches(frames)).exit_waves,
    ]
    task.dataset.patterns = torch.where(held_out, 1000.0, task.dataset.patterns)
    torch.testing.assert_close(before[0], scan.patterns(frames))
    after = scan.correction(frames, scan.start_patches(frames))
    torch.testing.assert_close(before[1], after.exit_waves)


def test_splits_partition_the_pixels_that_are_not_held_out():
    pixels = PixelSplits((7, 16, 16), 3, 0.1, seed=5, device=torch.device("cpu"))
    indices = torch.arange(7)
    of_splits = torch.stack([pixels.predicted(indices, split) for split in range(3)])
    everything = torch.cat([of_splits, pixels.held_out(indices)[None]])
    assert (everything.sum(0) == 1).all()
    assert (of_splits.float().mean((1, 2, 3)) - 0.3).abs().max() < 0.05
    for split in range(3):
        seen = pixels.seen(indices, split)
        assert torch.equal(seen, of_splits.any(0) & ~of_splits[split])
    again = PixelSplits((7, 16, 16), 3, 0.1, seed=5, device=torch.device("cpu"))
    assert torch.equal(again.labels, pixels.labels)
