"""Short descriptions of files and folders of scans and results."""

import json
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from scipy.spatial import cKDTree

from ptychi_neural.counted import counted
from ptychi_neural.runs.configuration import read_json
from ptychi_neural.scans import Scan, read_diffraction, read_product
from ptychi_neural.scans.hdf5 import damage_told, opened
from ptychi_neural.scans.scan import UNKNOWN_PIXEL_M
from ptychi_neural.scans.scan_names import named

GENERATOR = ".safetensors"
"""Ending of the files of generators."""


def summarize(path: str | Path) -> dict[str, str]:
    """Describe a diffraction file, a product, a folder of both, a generator or a result.

    Parameters
    ----------
    path : str or Path
        HDF5 file, a generator, or a folder with ``product.h5`` and perhaps ``diffraction.h5``.
        Where the folder holds a result, its provenance and metrics are described as well.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it holds neither patterns nor a product.
    """
    path = Path(path)
    if path.suffix == GENERATOR:
        return _generator(path)
    if not path.is_dir():
        with opened(path) as file:
            is_product = isinstance(file.get("probe_position_x_m"), h5py.Dataset)
        return _product(named(read_product(path), path)) if is_product else _diffraction(path)
    product = path / "product.h5"
    summary = _product(named(read_product(product), product)) if product.is_file() else {}
    if (path / "diffraction.h5").is_file():
        summary |= _diffraction(path / "diffraction.h5")
    for name in ("provenance.json", "metrics.json"):
        if (path / name).is_file():
            content = read_json(path / name)
            summary |= {key: f"{value}" for key, value in content.items() if key != "command"}
    return summary


def is_result(path: Path) -> bool:
    """Whether ``summarize`` is to describe it: a folder of a result, or a generator."""
    told = ("product.h5", "provenance.json")
    return path.suffix == GENERATOR or any((path / name).is_file() for name in told)


def _generator(path: Path) -> dict[str, str]:
    """What a saved generator is, without torch."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; check the path.")
    with damage_told(path):
        with safe_open(path, framework="numpy") as file:
            told = json.loads((file.metadata() or {}).get("ptychi_neural", "{}"))
        if "generator" not in told:
            raise ValueError("holds no generator; name one that train or reconstruct has saved.")
        scans = told.get("scans", [])
        sizes = sorted({_pixel_size(scan["pixel_size_m"]) for scan in scans})
        return {
            "architecture": told["generator"]["architecture"],
            "width": f"{told['generator']['width']}",
            "patterns": f"{tuple(told['patch_shape'])} pixels",
            "slices": f"{told['n_slices']}",
            "loss function": told["loss_function"],
            "trained on": f"{counted(len(scans), 'scans')} of pixel size {', '.join(sizes)}"
            if scans
            else "one scan, to which it was fitted",
        } | {name: f"{told[name]}" for name in ("epochs", "score") if name in told}


def overlap(positions_px: NDArray[np.floating], probe: NDArray[np.complexfloating]) -> float:
    """Linear overlap, 1 - step / diameter, of neighbouring positions.

    The step is the median distance to the nearest neighbour. The diameter is that of a disc of
    area (sum I)^2 / sum I^2, where I is the intensity of all probe modes.

    Parameters
    ----------
    positions_px : ndarray
        (n, 2) positions in pixels.
    probe : ndarray
        (n_opr_modes, n_modes, h, w) probe; the first OPR mode counts.

    Examples
    --------
    >>> y, x = np.indices((64, 64)) - 32
    >>> disc = (np.hypot(y, x) < 10).astype(complex)[None, None]
    >>> round(overlap(np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0]]), disc), 2)
    0.75
    """
    intensity = (np.abs(probe[0]) ** 2).sum(axis=0)
    area = intensity.sum() ** 2 / (intensity**2).sum()
    return float(1 - step(positions_px) / (2 * np.sqrt(area / np.pi)))


def step(positions_px: NDArray[np.floating]) -> float:
    """Median distance to the nearest neighbour."""
    distances, _ = cKDTree(positions_px).query(positions_px, k=2)
    return float(np.median(distances[:, 1]))


def _product(scan: Scan) -> dict[str, str]:
    extent = np.ptp(scan.positions_px, axis=0)
    wavelength = scan.wavelength_m
    summary = {
        "name": scan.name,
        "comments": scan.comments,
        "object": f"{scan.object.shape} pixels (slices, height, width)",
        "probe": f"{scan.probe.shape} (OPR modes, modes, height, width)",
        "pixel size": _pixel_size(scan.pixel_size_m),
        "wavelength": "unknown" if wavelength is None else f"{wavelength:.4g} m",
        "positions": f"{len(scan.positions_px)} over {extent[0]:.1f} x {extent[1]:.1f} pixels",
    }
    if len(scan.positions_px) > 1:
        summary["step"] = f"{step(scan.positions_px):.2f} pixels"
        summary["overlap"] = f"{overlap(scan.positions_px, scan.probe):.0%}"
    return summary


def _pixel_size(size_m: float) -> str:
    return "unknown" if size_m == UNKNOWN_PIXEL_M else f"{size_m:.4g} m"


def _diffraction(path: Path) -> dict[str, str]:
    patterns, mask = read_diffraction(path)
    counts = patterns.sum(axis=(1, 2), dtype=np.float64)
    invalid = 0 if mask is None else int((~mask).sum())
    return {
        "patterns": f"{patterns.shape} {patterns.dtype}",
        "counts per frame": f"{counts.mean():.4g} ({counts.min():.4g} to {counts.max():.4g})",
        "largest count": f"{patterns.max():.6g}",
        "masked pixels": f"{invalid}",
    }
