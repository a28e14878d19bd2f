"""The quality of a reconstruction: alignment, metrics, resolution, figures."""

from ptychi_neural.evaluation.alignment import Alignment, align, scanned_area
from ptychi_neural.evaluation.comparison_figures import comparison_figure, error_over_time_figure
from ptychi_neural.evaluation.coverage import Coverage, coverage
from ptychi_neural.evaluation.figures import loss_figure, reconstruction_figure
from ptychi_neural.evaluation.metric_table import METRICS, Metric
from ptychi_neural.evaluation.metrics import (
    AmplitudePhase,
    amplitude_correlation,
    complex_error,
    contrast,
    error_by_band,
    phase_correlation,
    psnr_amplitude_phase,
    ssim_amplitude_phase,
)
from ptychi_neural.evaluation.positions import position_rms
from ptychi_neural.evaluation.resolution import (
    ONE_SEVENTH,
    RingCorrelation,
    fourier_ring_correlation,
    half_bit_threshold,
    resolution_px,
)

__all__ = [
    "METRICS",
    "ONE_SEVENTH",
    "Alignment",
    "AmplitudePhase",
    "Coverage",
    "Metric",
    "RingCorrelation",
    "align",
    "amplitude_correlation",
    "comparison_figure",
    "complex_error",
    "contrast",
    "coverage",
    "error_by_band",
    "error_over_time_figure",
    "fourier_ring_correlation",
    "half_bit_threshold",
    "loss_figure",
    "phase_correlation",
    "position_rms",
    "psnr_amplitude_phase",
    "reconstruction_figure",
    "resolution_px",
    "scanned_area",
    "ssim_amplitude_phase",
]
