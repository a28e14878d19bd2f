"""Scans of shadow images."""

import numpy as np
from scipy import ndimage


def shadow_scan(pixel, seed=0):
    """Windows into a smooth object, at positions in units of which a pixel has this size."""
    rng = np.random.default_rng(seed)
    object_ = 1 + 0.3 * ndimage.gaussian_filter(rng.normal(size=(120, 120)), 2) / 0.14
    corners = rng.integers(0, 60, (80, 2))
    corners = corners[np.lexsort(corners.T)]
    y, x = np.indices((48, 48)) - 24
    light = 1e3 * np.exp(-(y**2 + x**2) / 400)
    frames = np.array([light * object_[a : a + 48, b : b + 48].clip(0) for a, b in corners])
    return rng.poisson(frames).astype(np.uint32), corners * pixel
