"""Which detector pixels may be seen, and which are to be predicted."""

import torch

from irregular_scan import make_task
from ptychi_neural.physics import scan_physics
from ptychi_neural.physics.pixel_splits import PixelSplits


def test_held_out_pixels_reach_neither_input_nor_update():
    task = make_task(13, held_out=0.2)
    scan = task.reconstructor.scan
    frames = scan.frames
    held_out = scan.held_out(frames)
    assert 0.15 < held_out.float().mean() < 0.25
    before = [
        scan.patterns(frames),
        scan.correction(frames, scan.start_patches(frames)).exit_waves[0],
    ]
    task.dataset.patterns = torch.where(held_out, 1000.0, task.dataset.patterns)
    torch.testing.assert_close(before[0], scan.patterns(frames))
    after = scan.correction(frames, scan.start_patches(frames))
    torch.testing.assert_close(before[1], after.exit_waves[0])


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


def test_on_a_cpu_a_pass_over_the_frames_takes_what_its_caches_hold(monkeypatch):
    scan = make_task(13, held_out=0.2).reconstructor.scan
    assert [len(batch) for batch in scan.batches] == [len(scan.frames)]
    whole = scan.update(scan.start)
    monkeypatch.setattr(scan_physics, "CACHED_NUMBERS", 5 * scan.model.probe.data[0].numel() + 1)
    assert [len(batch) for batch in scan.batches[:-1]] == [5] * (len(scan.batches) - 1)
    assert torch.equal(torch.cat(scan.batches), scan.frames)
    torch.testing.assert_close(scan.update(scan.start), whole)
    monkeypatch.setattr(scan_physics, "CACHED_NUMBERS", 1)
    assert {len(batch) for batch in scan.batches} == {1}
