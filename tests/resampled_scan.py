"""One scan with frames of any size, and generators that work with all of them."""

import numpy as np
from ptychi.api.task import PtychographyTask

from trained_generators import SPECTRAL

NO_BLOCK = {name: value for name, value in SPECTRAL.items() if name != "block"}
RESIZABLE = [
    SPECTRAL | {"architecture": "fno"},
    NO_BLOCK | {"architecture": "ffno"},
    NO_BLOCK | {"architecture": "uno"},
]
"""Operators without convolutions of more than one pixel."""


def resampled(n, pixel=None):
    """36 noise-free frames of n x n of the same object, illuminated by the same probe, with
    object pixels of 16 / n unless said."""
    pixel = pixel or 16 / n
    size = round(24 / pixel) + n
    y, x = (np.indices((size, size)) - (size - 1) / 2) * pixel
    phase = 0.6 * np.sin(2 * np.pi * y / 9 + 0.4) * np.cos(2 * np.pi * x / 11)
    object_ = (1 - 0.1 * np.cos(2 * np.pi * (x + y) / 13)) * np.exp(1j * phase)
    v, u = (np.indices((n, n)) - (n - 1) / 2) * pixel
    probe = np.exp(-(u**2 + v**2) / 2 / 3.0**2 + 0.03j * (u**2 + v**2))
    probe *= np.sqrt(1e5 / (np.abs(probe) ** 2).sum()) / n
    steps = 2 * np.arange(6) - 5
    positions = np.array([(a, b) for a in steps for b in steps]) / pixel
    patterns = []
    for position in positions:
        top, left = np.round(size / 2 + position - n / 2).astype(int)
        patch = object_[top : top + n, left : left + n]
        patterns.append(np.abs(np.fft.fftshift(np.fft.fft2(probe * patch))) ** 2)
    return np.array(patterns), positions, probe[None, None], object_


def resampled_task(options, n, pixel=None):
    patterns, positions, probe, truth = resampled(n, pixel)
    return PtychographyTask(
        options,
        diffraction_data=patterns,
        object_data=np.ones((1, *truth.shape), complex),
        probe_data=probe,
        probe_position_x_px=positions[:, 1],
        probe_position_y_px=positions[:, 0],
    )


def relative_error(predicted, truth):
    weight = predicted.weight > 0.3 * predicted.weight.max()
    ours, theirs = predicted.object[0][weight], truth[weight]
    ours = ours * np.vdot(ours, theirs) / np.vdot(ours, ours)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
