"""Some frames of a scan, to try things on."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ptychi_neural.counted import counted
from ptychi_neural.scans.scan import Scan, middle, select_frames


class Frames(BaseModel):
    """Which frames of a scan are reconstructed.

    Frames are counted in the order of their positions. Those from ``start`` to ``stop`` are taken,
    of these the ones in the window, and of these every so many-th.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(default=0, ge=0)
    """The first frame that is taken."""

    stop: int | None = Field(default=None, ge=1)
    """The first frame after those that are taken; None: the scan ends before it."""

    window_px: Annotated[float, Field(gt=0)] | None = None
    """Side, in object pixels, of the square in the middle of the scan in which positions are kept;
    None: all are."""

    every: int = Field(default=1, ge=1)
    """Of the remaining frames, one of so many is kept."""

    numbers: Literal["all", "odd", "even"] = "all"
    """Of these, the ones whose numbers in the scan are odd or even, as halves to compare."""

    def indexes(
        self, positions_px: NDArray[np.floating], numbers: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """(n_kept,) indexes of the frames among (n, 2) positions (y, x) in object pixels.

        Their (n,) numbers count from 0 where there are none.

        Raises
        ------
        ValueError
            If none is left.

        Examples
        --------
        >>> line = np.stack([np.zeros(9), np.arange(9)], axis=1)
        >>> Frames(start=1, every=3).indexes(line), Frames(window_px=2).indexes(line)
        (array([1, 4, 7]), array([3, 4, 5]))
        >>> Frames(numbers="odd").indexes(line[:3], np.array([3, 4, 7]))
        array([0, 2])
        """
        kept = np.arange(len(positions_px))[self.start : self.stop]
        if self.window_px is not None:
            among = positions_px[kept]
            distance = np.abs(among - middle(among)).max(axis=1, initial=0)
            kept = kept[distance <= self.window_px / 2]
        kept = kept[:: self.every]
        if self.numbers != "all":
            is_odd = (kept if numbers is None else numbers[kept]) % 2 == 1
            kept = kept[is_odd == (self.numbers == "odd")]
        if not len(kept):
            stated = self.model_dump(exclude_defaults=True).items()
            keys = ", ".join(f"{key} = {value}" for key, value in stated)
            n = counted(len(positions_px), "frames")
            raise ValueError(f"data.frames = {{ {keys} }} leaves none of {n}: choose others.")
        return kept

    def of(self, scan: Scan) -> Scan:
        """The scan with these frames only."""
        return select_frames(scan, self.indexes(scan.positions_px, scan.frame_indexes))
