"""The check of counts for a scan whose frames arrive in blocks."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptychi_neural.scans.counts import PixelNumbers, Repaired, as_counts, repair
from ptychi_neural.scans.earlier_frames import EarlierFrames


class StreamedCounts:
    """Repairs blocks of frames with what all blocks together tell.

    A later block may show that frames of an earlier one were not what they seemed: a pixel is
    dead, or a frame far brighter than the rest. Then ``outdated`` is True, and the frames should
    be taken in once more after ``begin_again``, which keeps what is known of pixels and frames.

    Parameters
    ----------
    valid_pixel_mask : ndarray, optional
        (h, w) True where the detector works. Without it dead and hot pixels are looked for.
    pixel_numbers : tuple of ndarray, optional
        Numbers of rows and columns by which pixels are named, as for ``repair``.
    """

    def __init__(
        self,
        valid_pixel_mask: NDArray[np.bool_] | None = None,
        pixel_numbers: PixelNumbers | None = None,
    ) -> None:
        self._given, self._pixel_numbers = valid_pixel_mask, pixel_numbers
        self._earlier: EarlierFrames | None = None
        self._numbers: list[int] = []
        self._odd_before = False
        self.dropped: set[int] = set()
        """Numbers of frames that do not belong to the scan."""
        self.outdated = False
        """Whether earlier frames have to be taken in once more."""

    @property
    def valid_pixel_mask(self) -> NDArray[np.bool_] | None:
        """(h, w) True for pixels that are no defect as far as is known; None if none is known."""
        if self._earlier is None or self._earlier.valid.all():
            return self._given
        return self._earlier.valid

    @property
    def light(self) -> NDArray[np.float64]:
        """(n_frames,) counts of the frames that were kept, in rising order."""
        return np.zeros(0) if self._earlier is None else np.sort(self._earlier.light)

    def add(self, patterns: ArrayLike, numbers: NDArray[np.integer]) -> Repaired:
        """Repair a block of frames.

        Parameters
        ----------
        patterns : array_like
            (n, h, w) counts, DC at the image centre.
        numbers : ndarray
            (n,) numbers of the frames.

        Raises
        ------
        ValueError
            If the patterns are no counts, or most of the detector is broken.
        """
        patterns = as_counts(patterns)
        earlier = self._earlier or EarlierFrames.none(np.ones(patterns.shape[1:], bool))
        known = np.isin(numbers, list(self.dropped))
        if known.any():
            patterns, numbers = patterns[~known], numbers[~known]
        block = repair(
            patterns,
            self._given,
            frame_numbers=numbers,
            pixel_numbers=self._pixel_numbers,
            whole_scan=False,
            earlier=earlier,
        )
        self.dropped.update(numbers[~block.kept].tolist())
        odd = block.odd_before
        if odd is not None and odd.any():
            self.dropped.update(np.array(self._numbers)[odd].tolist())
            self._odd_before = True
        self._numbers += numbers[block.kept].tolist()
        self._earlier = block.known or earlier
        valid = self._earlier.valid
        masked_later = earlier.n_frames > 0 and bool((earlier.valid & ~valid).any())
        self.outdated = self.outdated or self._odd_before or masked_later
        kept = ~known
        kept[~known] = block.kept
        return block._replace(kept=kept)

    def trust(self, valid_pixel_mask: NDArray[np.bool_] | None) -> None:
        """Take over the (h, w) mask that another check has found, which repairs the frames."""
        self._given, self._earlier = valid_pixel_mask, None

    def begin_again(self) -> None:
        """Forget the frames, but neither those that do not belong nor the bad pixels.

        Pixels that seemed to be bad beside a frame that does not belong are looked at anew.
        """
        if self._earlier is not None:
            known = self._earlier
            valid = np.ones_like(known.valid) if self._odd_before else known.valid
            self._earlier = EarlierFrames.none(valid)
            if not self._odd_before:
                self._earlier.cut_off = known.cut_off
        self._numbers, self.outdated, self._odd_before = [], False, False

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps: arrays, truth values and None."""
        return {
            "given": self._given,
            "earlier": None if self._earlier is None else self._earlier.state_dict(),
            "numbers": np.array(self._numbers, np.int64),
            "dropped": np.array(sorted(self.dropped), np.int64),
            "odd_before": self._odd_before,
            "outdated": self.outdated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        self._given, earlier = state["given"], state.get("earlier")
        if "valid" in state and state["valid"] is not None:  # as earlier versions wrote it
            earlier = state
        self._earlier = None if earlier is None else EarlierFrames.of_state(earlier)
        self._numbers = state["numbers"].tolist()
        self.dropped = set(state["dropped"].tolist())
        self._odd_before, self.outdated = state["odd_before"], state["outdated"]
