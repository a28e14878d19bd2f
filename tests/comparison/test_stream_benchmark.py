"""Throughput of streams, as a table."""

import pandas as pd

from ptychi_neural.comparison.benchmark import stream_benchmark


def test_streams_are_timed_beside_their_networks(tmp_path):
    page = stream_benchmark(
        tmp_path, frame_size=16, n_blocks=1, n_side=8, accelerations=[(), ("bfloat16",)]
    )
    table = pd.read_csv(tmp_path / "table.csv").set_index("generator")
    assert list(table.index) == 2 * ["cnn"] + 2 * ["hybrid_uno"]
    assert set(table["faster by"]) <= {"-", "bfloat16"}
    assert (table["faster by"].iloc[::2] == "-").all()
    assert (table[["network frames/s", "stream frames/s", "latency ms", "object ms"]] > 0).all(
        axis=None
    )
    ratio = table["stream CPU ms/frame"] / table["network CPU ms/frame"]
    assert (abs(table["overhead %"] - 100 * (ratio - 1)) < 1e-6).all()
    for name in table.index:
        assert f"| {name}" in page.read_text()
