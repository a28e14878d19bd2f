"""What ranks would send each other in an iteration: whole canvases, as today, or halos of tiles.

    python tests/communication_of_ranks.py [--bandwidth 12.5e9] [--latency 5e-6] [...]

prints a table of a large scan over 1 to 4096 ranks. Nothing is computed of the scan: messages are
counted one by one, and each takes latency + bytes / bandwidth.

Tiles are those of the gradient decomposition (Wang et al., SC22, "Image gradient decomposition for
parallel and memory-efficient ptychographic reconstruction"): a rank has a rectangle of scan
positions and the part of the object that their frames cover. Sums over frames are made by four
passes, down and up, then right and left, in each of which a tile sends what it shares with the next
one: down, what has been added up so far; up, the whole. A tile that shares nothing with the one
after the next does not wait for it.
"""

import argparse
import math
from typing import NamedTuple

import numpy as np

COMPLEX, REAL = 8, 4
"""Bytes of a number in single precision."""


class Plan(NamedTuple):
    """A scan, and what it is reconstructed with."""

    positions: int = 512
    """Along a side of the scan."""

    side: int = 256
    """Pixels of a frame."""

    step: float = 32.0
    """Pixels from one position to the next."""

    modes: int = 1
    """Modes of the probe."""

    canvases: int = 8
    """Complex numbers that are kept for each pixel of the object."""

    frame_seconds: float = 1e-2
    """Time of an iteration for each frame."""

    bandwidth: float = 12.5e9
    """Bytes a second that a rank sends, and receives meanwhile."""

    latency: float = 5e-6
    """Seconds before the first byte of a message arrives."""

    def message(self, n_bytes: float) -> float:
        """Seconds that a message takes."""
        return self.latency + n_bytes / self.bandwidth

    def all_reduced(self, n_bytes: float, n: int) -> tuple[float, float]:
        """Bytes that each of n ranks sends for a sum over all, and seconds, by halving and
        doubling, which is the least that is known."""
        if n == 1:
            return 0.0, 0.0
        sent = 2 * (n - 1) / n * n_bytes
        return sent, 2 * math.ceil(math.log2(n)) * self.latency + sent / self.bandwidth


def grid_of(n: int) -> tuple[int, int]:
    """Rows and columns of n ranks, as square as can be.

    >>> grid_of(8)
    (4, 2)
    """
    columns = max(k for k in range(1, math.isqrt(n) + 1) if n % k == 0)
    return n // columns, columns


def extents(n_positions: int, n_parts: int, step: float, side: int) -> np.ndarray:
    """(n_parts, 2) first pixel, and first after the last, of what the frames of each part cover.

    >>> extents(4, 2, 3.0, 10).tolist()
    [[0, 13], [6, 19]]
    """
    bounds = np.linspace(0, n_positions, n_parts + 1).round()
    first, last = bounds[:-1] * step, (bounds[1:] - 1) * step
    return np.stack([np.floor(first), np.ceil(last) + side], 1).astype(int)


def shared(tiles: np.ndarray) -> np.ndarray:
    """(n - 1,) pixels along an axis that each of (n, 2) tiles shares with the next.

    >>> shared(extents(4, 2, 3.0, 10)).tolist()
    [7]
    """
    return np.maximum(tiles[:-1, 1] - tiles[1:, 0], 0)


def pass_seconds(plan: Plan, tiles: np.ndarray, across: float) -> float:
    """Seconds of two passes along an axis, forth and back, over tiles of ``across`` pixels."""
    times = [plan.message(COMPLEX * n * across) if n else 0.0 for n in shared(tiles)]
    waits = [False, *(tiles[2:, 0] < tiles[:-2, 1])]
    total = 0.0
    for in_turn in (times, times[::-1]):
        ended = [0.0]
        for seconds, is_chained in zip(in_turn, waits):
            ended.append(seconds + is_chained * ended[-1])
        total += max(ended)
        waits = [False, *waits[:0:-1]]
    return total


class Cost(NamedTuple):
    """What an iteration costs each rank at most."""

    memory: float
    """Bytes."""

    sent: float
    """Bytes."""

    seconds: float
    """Of what is sent."""


def costs(plan: Plan, n: int) -> tuple[float, Cost, Cost]:
    """Frames of a rank at most, and what n ranks cost with whole canvases, and with tiles."""
    rows, columns = grid_of(n)
    vertical, horizontal = (
        extents(plan.positions, parts, plan.step, plan.side) for parts in (rows, columns)
    )
    whole = float(extents(plan.positions, 1, plan.step, plan.side)[0, 1]) ** 2
    height, width = (np.diff(tiles, axis=1).max() for tiles in (vertical, horizontal))
    n_frames = math.ceil(plan.positions / rows) * math.ceil(plan.positions / columns)
    of_frames = n_frames * plan.side**2 * (REAL + 1)  # counts, and the label of the pixel
    probe_sent, probe_seconds = plan.all_reduced(COMPLEX * plan.modes * plan.side**2, n)
    sent, seconds = plan.all_reduced(COMPLEX * whole, n)
    today = Cost(
        of_frames + plan.canvases * COMPLEX * whole, sent + probe_sent, seconds + probe_seconds
    )
    down, right = (int(shared(tiles).max(initial=0)) for tiles in (vertical, horizontal))
    n_sent = sum(  # Tiles inside send forth and back, the first and the last but once.
        min(parts - 1, 2) * pixels * across
        for pixels, across, parts in ((down, width, rows), (right, height, columns))
    )
    passes = pass_seconds(plan, vertical, width) + pass_seconds(plan, horizontal, height)
    tiled = Cost(
        of_frames + plan.canvases * COMPLEX * float(height * width),
        COMPLEX * float(n_sent) + probe_sent,
        passes + probe_seconds,
    )
    return n_frames, today, tiled


def summed_by_passes(
    arrays: list[list[np.ndarray]], vertical: np.ndarray, horizontal: np.ndarray
) -> int:
    """Sum tiles where they overlap, in place, by the four passes; give the numbers sent by all."""
    n_sent = 0
    for axis, tiles in ((0, vertical), (1, horizontal)):
        lines = [list(line) for line in (zip(*arrays) if axis == 0 else arrays)]
        for line in lines:
            along = [array if axis == 0 else array.T for array in line]
            pieces = shared(tiles)
            for i, n in enumerate(pieces):
                along[i + 1][:n] += along[i][len(along[i]) - n :]
            for i, n in reversed(list(enumerate(pieces))):
                along[i][len(along[i]) - n :] = along[i + 1][:n]
            n_sent += 2 * sum(int(n) * along[0].shape[1] for n in pieces)
    return n_sent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in Plan()._asdict().items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help="%(default)s"
        )
    parser.add_argument("--ranks", type=int, nargs="+", default=[4**k for k in range(7)])
    arguments = vars(parser.parse_args())
    ranks = arguments.pop("ranks")
    plan = Plan(**arguments)
    of_both = [f"{kind}: {what}" for kind in ("whole", "tiles") for what in ("GB", "GB sent", "s")]
    print(f"| ranks | frames | compute s | {' | '.join(of_both)} |")
    print(f"|{9 * '---|'}")
    for n in ranks:
        n_frames, today, tiled = costs(plan, n)
        cells = [f"{n}", f"{n_frames}", f"{n_frames * plan.frame_seconds:.3g}"]
        for cost in (today, tiled):
            cells += [f"{cost.memory / 1e9:.3g}", f"{cost.sent / 1e9:.3g}", f"{cost.seconds:.2g}"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
