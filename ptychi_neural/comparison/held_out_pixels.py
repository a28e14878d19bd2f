"""Detector pixels that no engine of a comparison sees, and by which all of them are judged.

The likelihood of the counts at these pixels, given an object and a probe, worsens when a fit begins
to follow the noise. It needs no ground truth.
"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.forward_models import PlanarPtychographyForwardModel
from scipy import ndimage
from scipy.special import gammaln, xlogy

from ptychi_neural.options import NeuralPtychographyOptions
from ptychi_neural.physics.fixed_detector import FixedDetectorForwardModel
from ptychi_neural.physics.losses import POISSON_EPS
from ptychi_neural.scans import Scan
from ptychi_neural.scans.defects import arbitrary_unit
from ptychi_neural.simulation.simulate import CHUNK_SIZE, build_forward_model

HELD_OUT_FRACTION = 0.03
"""Share of the valid detector pixels that comparisons hold out by default."""


def hold_out(scan: Scan, fraction: float = HELD_OUT_FRACTION, seed: int = 0) -> NDArray[np.bool_]:
    """Choose random detector pixels, the same in all frames, among the valid ones.

    Parameters
    ----------
    scan : Scan
        The scan.
    fraction : float
        Share of the valid pixels, above 0 and below 1.
    seed : int
        Seed of the choice.

    Returns
    -------
    ndarray
        (h, w) True where held out.

    Raises
    ------
    ValueError
        If the fraction is out of range, or none or all of the pixels would be held out.

    Examples
    --------
    >>> frames = np.ones((2, 10, 10))
    >>> probe = np.ones((1, 1, 10, 10), complex)
    >>> hold_out(Scan(frames, np.zeros((2, 2)), probe, probe[0], 1e-8), 0.05).sum().item()
    5
    """
    valid = np.flatnonzero(_valid(scan))
    n_held_out = round(fraction * len(valid))
    if not 0 < n_held_out < len(valid):
        raise ValueError(
            f"held_out = {fraction} holds out {n_held_out} of {len(valid)} valid pixels; the "
            f"default is {HELD_OUT_FRACTION}."
        )
    held_out = np.zeros(scan.patterns.shape[-2:], bool)
    held_out.flat[np.random.default_rng(seed).choice(valid, n_held_out, replace=False)] = True
    return held_out


def withhold(scan: Scan, held_out: NDArray[np.bool_]) -> Scan:
    """Copy a scan without what was counted at held-out pixels.

    The pixels are masked as invalid. Some engines read sums over all pixels all the same (LSQML
    scales the probe by them). Held-out pixels therefore get the counts of the nearest pixel that
    is left.

    Parameters
    ----------
    scan : Scan
        The scan.
    held_out : ndarray
        (h, w) from ``hold_out``.
    """
    kept = _valid(scan) & ~held_out
    y, x = ndimage.distance_transform_edt(~kept, return_distances=False, return_indices=True)
    patterns = scan.patterns.copy()
    patterns[:, held_out] = scan.patterns[:, y[held_out], x[held_out]]
    return dataclasses.replace(scan, patterns=patterns, valid_pixel_mask=kept)


@torch.no_grad()
def held_out_likelihood(
    object: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    scan: Scan,
    held_out: NDArray[np.bool_],
    options: PtychographyTaskOptions | None = None,
    opr_mode_weights: NDArray[np.floating] | None = None,
) -> float:
    """Mean negative logarithm of the Poisson likelihood of the counts at held-out pixels.

    The forward model that the engine of the options fits predicts the intensities: in the near
    field the neural engine's keeps the detector where it is, pty-chi's does not. They are scaled
    so that they and the measured counts have the same sum over the other valid pixels, because an
    engine may keep another scale in mid-run.

    Parameters
    ----------
    object : ndarray
        (n_slices, H, W) object.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe.
    positions_px : ndarray
        (n, 2) positions (y, x) in pixels.
    scan : Scan
        The scan with its counts at held-out pixels.
    held_out : ndarray
        (h, w) from ``hold_out``.
    options : PtychographyTaskOptions, optional
        Of the engine's task: geometry and propagation. None: far field, one slice.
    opr_mode_weights : ndarray, optional
        (n, n_opr_modes) weights of the probe's OPR modes.

    Returns
    -------
    float
        In nats per pixel and frame. It is not finite where the prediction is not, and NaN where
        nothing is held out.
    """
    options = options or PtychographyTaskOptions()
    is_neural = isinstance(options, NeuralPtychographyOptions)
    model = build_forward_model(
        object,
        probe,
        positions_px,
        options,
        opr_mode_weights,
        held_out.shape,
        FixedDetectorForwardModel if is_neural else PlanarPtychographyForwardModel,
    )
    valid = _valid(scan)
    kept = valid & ~held_out
    total, predicted = 0.0, []
    for indices in torch.arange(len(positions_px)).split(CHUNK_SIZE):
        intensities = model(indices)
        if options.data_options.fft_shift:
            intensities = torch.fft.fftshift(intensities, dim=(-2, -1))
        frames = intensities.numpy(force=True)
        total += frames[:, kept].sum(dtype=np.float64)
        predicted.append(frames[:, held_out].astype(np.float64))
    counts = scan.patterns[:, held_out].astype(np.float64)
    unit = arbitrary_unit(scan.patterns, valid)
    counts /= unit
    with np.errstate(all="ignore"):
        light = scan.patterns[:, kept].sum(dtype=np.float64) / unit
        mean = np.concatenate(predicted) * (light / total)
        losses = mean - xlogy(counts, mean + POISSON_EPS) + gammaln(counts + 1)
    return float(losses.mean()) if losses.size else np.nan


def _valid(scan: Scan) -> NDArray[np.bool_]:
    """(h, w) True where the detector works."""
    if scan.valid_pixel_mask is None:
        return np.ones(scan.patterns.shape[-2:], bool)
    return scan.valid_pixel_mask
