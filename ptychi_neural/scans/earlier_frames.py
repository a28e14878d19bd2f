"""What is known of a scan from the frames that came before a block, in memory that does not grow
with their number but by a few numbers for each.

A pixel that is cut off, sticks or flashes, or a frame of dark counts, may show in many frames
together only, of which a block has too few.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_LEVELS = 4
"""Number of different largest counts that are tallied: the largest and those compared with it."""

NEAR_SATURATION = 0.05
"""Part of the largest count within which other counts are compared with it."""

MOST_IN_SAMPLE = 32
"""Frames in a sample of those that came."""

LARGEST_SAMPLE = 2**24
"""Counts in the sample."""

FEWEST_IN_SAMPLE = 4

MOST_FAINT_PIXELS = 1000
"""Pixels that count in a frame up to which it is kept until it can be told from dark ones: of more,
its own shape tells."""

MOST_FAINT = 1000
"""Faint frames, or groups of them, whose counts are kept."""

FAINT_ARRAYS = ("rows", "places", "counts")


@dataclass
class Levels:
    """How often pixels reach the largest of all counts, and those next to it."""

    values: NDArray[np.float64]
    """(k,) different counts, the largest first."""

    tallies: NDArray[np.int64]
    """(k, h, w) how often each pixel had each of them."""

    near: NDArray[np.int64]
    """(h, w) how often it had a count next to the largest."""

    @classmethod
    def of(cls, frames: NDArray[Any], valid: NDArray[np.bool_]) -> "Levels":
        """Those of (n, h, w) counts in the valid pixels."""
        shape = valid.shape
        of_pixels = np.where(valid, frames.max(axis=0, initial=0), 0).astype(np.float64)
        least = largest = float(of_pixels.max(initial=0))
        for _ in range(N_LEVELS - 1):  # At least so many different counts are not below it.
            least = float(of_pixels.max(initial=0, where=of_pixels < least))
        least = min(least, (1 - NEAR_SATURATION) * largest)
        y, x = np.nonzero(valid & (of_pixels >= least) & (of_pixels > 0))
        counts = frames[:, y, x]
        values = -np.unique(-counts[counts >= least].astype(np.float64))[:N_LEVELS]
        tallies = np.zeros((len(values), *shape), np.int64)
        for tally, value in zip(tallies, values):
            tally[y, x] = (counts == value).sum(axis=0)
        near = np.zeros(shape, np.int64)
        near[y, x] = _is_near(counts, largest).sum(axis=0)
        return cls(values, tallies, near)

    def among(self, valid: NDArray[np.bool_]) -> "Levels":
        """Those of the valid pixels alone."""
        tallies = np.where(valid, self.tallies, 0)
        found = tallies.any(axis=(1, 2))
        return Levels(self.values[found], tallies[found], np.where(valid, self.near, 0))

    def joined(self, other: "Levels") -> "Levels":
        """Those of the frames of both.

        Where the largest count rises a little, counts are taken to be near it that may have
        become too small for that.
        """
        values = -np.union1d(-self.values, -other.values)
        tallies = np.zeros((len(values), *self.near.shape), np.int64)
        near = np.zeros_like(self.near)
        for part in (self, other):
            tallies[np.searchsorted(-values, -part.values)] += part.tallies
            if len(part.values) and part.values[0] == values[0]:
                near += part.near
            elif len(part.values) and _is_near(part.values[0], values[0]):
                near += part.near + part.tallies[0]
        return Levels(values[:N_LEVELS], tallies[:N_LEVELS], near)


def _is_near(counts: Any, largest: float) -> Any:
    return (counts > (1 - NEAR_SATURATION) * largest) & (counts < largest)


@dataclass
class PixelHistory:
    """What the pixels have counted in the frames that were kept."""

    n_frames: int
    largest: NDArray[np.float64]
    """(h, w) largest counts."""

    first: NDArray[np.float64]
    """(h, w) counts in the first frame."""

    same: NDArray[np.bool_]
    """(h, w) True where all others are equal to it."""

    levels: Levels
    sample: NDArray[np.float32]
    """(m, h, w) counts of every ``stride``-th frame."""

    stride: int = 1

    @classmethod
    def empty(cls, frame_shape: tuple[int, ...]) -> "PixelHistory":
        """That of no frame."""
        nothing = np.zeros(frame_shape)
        levels = Levels(np.zeros(0), np.zeros((0, *frame_shape), int), nothing.astype(int))
        sample = np.zeros((0, *frame_shape), np.float32)
        return cls(0, nothing, nothing, np.ones(frame_shape, bool), levels, sample)

    def joined(self, frames: NDArray[Any], valid: NDArray[np.bool_]) -> "PixelHistory":
        """That of more frames, (n, h, w) counts, in the pixels that are valid by now."""
        if len(frames) == 0:
            return self
        first = self.first if self.n_frames else frames[0].astype(np.float64)
        largest = np.maximum(self.largest, frames.max(axis=0))
        same = self.same & (frames == first).all(axis=0)
        levels = self.levels.among(valid).joined(Levels.of(frames, valid))
        chosen = frames[(-self.n_frames) % self.stride :: self.stride]
        sample, stride = np.concatenate([self.sample, chosen.astype(np.float32)]), self.stride
        most = int(np.clip(LARGEST_SAMPLE // first.size, FEWEST_IN_SAMPLE, MOST_IN_SAMPLE))
        while len(sample) > most:
            sample, stride = sample[::2], 2 * stride
        n_frames = self.n_frames + len(frames)
        return PixelHistory(n_frames, largest, first, same, levels, sample, stride)


@dataclass
class FaintFrame:
    """A frame that may turn out to be dark, or several such frames together."""

    rows: NDArray[np.int64]
    """Which of the earlier frames it is."""

    places: NDArray[np.int64]
    """(k,) pixels that count, in the flat frame."""

    counts: NDArray[np.float64]
    """(k,) what they count."""

    @classmethod
    def of(cls, rows: ArrayLike, frame: NDArray[Any]) -> "FaintFrame":
        """That of the (h, w) counts of frames together."""
        places = np.flatnonzero(frame)
        return cls(np.asarray(rows, np.int64), places, frame.ravel()[places].astype(np.float64))

    def image(self, pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(h, w) counts in some pixels."""
        image = np.zeros(pixels.shape)
        image.ravel()[self.places] = self.counts
        return np.where(pixels, image, 0)


@dataclass
class EarlierFrames:
    """What is known of a scan from the frames that came before a block."""

    valid: NDArray[np.bool_]
    """(h, w) True for pixels that are no known defect."""

    counts: NDArray[np.float64]
    """(h, w) sum of the counts of the frames that were kept."""

    light: NDArray[np.float64]
    """(n_frames,) counts of each of them."""

    pixels: PixelHistory
    faint: list[FaintFrame] = field(default_factory=list)
    cut_off: float = np.inf
    """Largest number that the detector counts, where pixels were found to saturate."""

    @classmethod
    def none(cls, valid: NDArray[np.bool_]) -> "EarlierFrames":
        """What is known before the first frame: the pixels that are valid."""
        shape = valid.shape
        return cls(valid, np.zeros(shape), np.zeros(0), PixelHistory.empty(shape))

    @property
    def n_frames(self) -> int:
        """Number of frames that were kept."""
        return len(self.light)

    def joined(
        self,
        frames: NDArray[Any],
        light: NDArray[np.float64],
        valid: NDArray[np.bool_],
        weak: float,
    ) -> "EarlierFrames":
        """What is known with more frames.

        Parameters
        ----------
        frames : ndarray
            (n, h, w) repaired counts.
        light : ndarray
            (n,) counts of each in the valid pixels.
        valid : ndarray
            (h, w) True for pixels that are no known defect by now.
        weak : float
            Part of the brightest frame's light below which a frame may turn out to be dark.
        """
        every = np.concatenate([self.light, light])
        is_faint = every < weak * every.max(initial=0)
        faint = list(self.faint)
        if self.n_frames and not faint and is_faint[: self.n_frames].all():
            faint.append(FaintFrame.of(np.arange(self.n_frames), self.counts))
        for row in np.flatnonzero(is_faint[self.n_frames :] & (light > 0)):
            of_row = FaintFrame.of([self.n_frames + row], np.where(valid, frames[row], 0))
            faint += [of_row] * (len(of_row.places) <= MOST_FAINT_PIXELS)
        counts = np.where(valid, self.counts + frames.sum(axis=0, dtype=np.float64), 0)
        pixels = self.pixels.joined(frames, valid)
        return EarlierFrames(valid, counts, every, pixels, faint[-MOST_FAINT:], self.cut_off)

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps: arrays, numbers, None, and dictionaries of them."""
        pixels = vars(self.pixels) | {"levels": vars(self.pixels.levels)}
        of_faint = {name: [getattr(some, name) for some in self.faint] for name in FAINT_ARRAYS}
        faint = {name: np.concatenate([[], *arrays]) for name, arrays in of_faint.items()}
        ends = {
            f"ends of {name}": np.cumsum([len(array) for array in arrays], dtype=np.int64)
            for name, arrays in of_faint.items()
        }
        return {
            "valid": self.valid,
            "counts": self.counts,
            "light": self.light,
            "cut_off": self.cut_off if np.isfinite(self.cut_off) else None,
            "pixels": pixels,
            "faint": faint | ends,
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> "EarlierFrames":
        """What ``state_dict`` gave, or earlier versions wrote, which kept less."""
        known = cls.none(state["valid"])
        known.counts, known.light = state["counts"], state["light"]
        if state.get("pixels") is None:
            return known
        pixels = dict(state["pixels"])
        levels = Levels(**pixels.pop("levels"))
        known.pixels = PixelHistory(**pixels, levels=levels)
        known.cut_off = np.inf if state["cut_off"] is None else float(state["cut_off"])
        split = [
            np.split(state["faint"][name], state["faint"][f"ends of {name}"][:-1])
            for name in FAINT_ARRAYS
        ]
        known.faint = [
            FaintFrame(rows.astype(np.int64), places.astype(np.int64), counts)
            for rows, places, counts in zip(*split)
            if len(rows)
        ]
        return known
