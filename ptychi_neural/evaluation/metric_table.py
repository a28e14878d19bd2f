"""The metrics that benchmarks and comparisons tell, each declared by one entry.

A script adds a metric of its own by ``METRICS["name"] = Metric(...)``. It is then in the records,
tables and figures of benchmarks and in the reports of comparisons.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ptychi_neural.evaluation.metrics import (
    ComplexImage,
    Mask,
    error_by_band,
    phase_correlation,
    ssim_amplitude_phase,
)
from ptychi_neural.evaluation.resolution import HALF, fourier_ring_correlation, resolution_px

BAND_EDGES = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
"""Edges, in cycles per pixel, of the bands of spatial frequency of ``error_by_band``."""


@dataclass(frozen=True)
class Metric:
    """A metric of an aligned object."""

    heading: str
    """Heading in reports and label of axes."""

    compute: Callable[[ComplexImage, ComplexImage, Mask], float | list[float]]
    """Function of the (H, W) object, the (H, W) object it is compared with, and the (H, W) area."""

    format: str | None = ".3f"
    """Format of its numbers in reports. None: it is a list, which only records hold."""

    recorded_against: Collection[str] = ("ground truth", "reference")
    """What benchmarks compute it against."""

    in_comparisons: bool = True
    """Whether the report of a comparison has a column for it."""

    @property
    def column(self) -> str:
        """The heading as a name of columns of ``comparison.csv``."""
        return self.heading.lower().replace(" ", "_")

    def measure(
        self, ours: ComplexImage, theirs: ComplexImage, area: Mask
    ) -> float | list[float] | None:
        """Compute the metric; None where it has no value.

        That is so where the reference is flat, or the area smaller than a window of SSIM.
        """
        try:
            return self.compute(ours, theirs, area)
        except ValueError:
            return None


def _resolution(ours: ComplexImage, theirs: ComplexImage, area: Mask) -> float:
    return resolution_px(fourier_ring_correlation(ours, theirs, area), HALF)


METRICS: dict[str, Metric] = {
    "ssim_amplitude": Metric(
        "amplitude SSIM",
        lambda *compared: ssim_amplitude_phase(*compared).amplitude,
        recorded_against=("ground truth",),
        in_comparisons=False,
    ),
    "ssim_phase": Metric(
        "phase SSIM",
        lambda *compared: ssim_amplitude_phase(*compared).phase,
        recorded_against=("ground truth",),
    ),
    "frc_resolution_px": Metric(
        "period resolved (px)",
        _resolution,
        ".2f",
        recorded_against=("ground truth",),
        in_comparisons=False,
    ),
    "error_by_band": Metric(
        "error by band",
        lambda ours, theirs, area: error_by_band(ours, theirs, BAND_EDGES, area).tolist(),
        format=None,
        recorded_against=("ground truth",),
        in_comparisons=False,
    ),
    "phase_correlation": Metric(
        "phase correlation",
        phase_correlation,
        recorded_against=("reference",),
        in_comparisons=False,
    ),
}
"""Metrics by their names in records and tables. Relative complex error and held-out likelihood are
not among them, because every snapshot of a run has them."""
