"""The plan beyond one machine: its passes sum what they should, and its volumes are theirs."""

from pathlib import Path

import numpy as np
import pytest

from communication_of_ranks import (
    COMPLEX,
    Plan,
    costs,
    extents,
    grid_of,
    main,
    pass_seconds,
    summed_by_passes,
)


@pytest.mark.parametrize("side", [8, 21], ids=["next tiles overlap", "tiles after the next, too"])
def test_four_passes_sum_what_tiles_share(side):
    rng = np.random.default_rng(0)
    vertical, horizontal = extents(12, 4, 3.0, side), extents(12, 3, 2.5, side)
    whole = np.zeros((vertical[-1, 1], horizontal[-1, 1]))
    arrays = []
    for top, bottom in vertical:
        arrays.append([])
        for left, right in horizontal:
            arrays[-1].append(rng.normal(size=(bottom - top, right - left)))
            whole[top:bottom, left:right] += arrays[-1][-1]
    summed_by_passes(arrays, vertical, horizontal)
    for (top, bottom), of_row in zip(vertical, arrays):
        for (left, right), array in zip(horizontal, of_row):
            np.testing.assert_allclose(array, whole[top:bottom, left:right], atol=1e-12)


def test_the_volume_of_the_table_is_what_a_tile_inside_sends():
    plan, n = Plan(positions=24, side=16, step=4.0), 9
    tiles = extents(24, 3, 4.0, 16)
    arrays = [[np.zeros((np.ptp(v), np.ptp(h))) for h in tiles] for v in tiles]
    of_all = summed_by_passes(arrays, tiles, tiles)  # 12 borders of tiles, each forth and back
    _, whole, tiled = costs(plan, n)
    probe = 2 * 8 / 9 * COMPLEX * 16**2
    assert tiled.sent - probe == pytest.approx(4 * COMPLEX * of_all / 24)
    assert whole.sent - probe == pytest.approx(2 * 8 / 9 * COMPLEX * (23 * 4 + 16) ** 2)


def test_tiles_wait_where_they_share_something_with_the_one_after_the_next():
    plan = Plan(latency=1.0, bandwidth=np.inf)
    assert pass_seconds(plan, extents(12, 4, 3.0, 8), 1) == 2
    assert pass_seconds(plan, extents(12, 4, 3.0, 21), 1) == 2 * 3
    assert pass_seconds(plan, extents(12, 1, 3.0, 8), 1) == 0


def test_a_rank_alone_sends_nothing_and_has_everything():
    n_frames, whole, tiled = costs(Plan(), 1)
    assert (n_frames, whole.sent, tiled.sent) == (512**2, 0, 0)
    assert whole.memory == tiled.memory
    assert grid_of(1) == (1, 1)
    assert grid_of(4096) == (64, 64)


def test_the_page_has_the_table_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["communication_of_ranks.py"])
    main()
    page = Path(__file__).parents[2] / "docs" / "beyond_one_machine.md"
    assert capsys.readouterr().out in page.read_text(encoding="utf-8")
