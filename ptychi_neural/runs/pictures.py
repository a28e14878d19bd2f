"""Amplitude, unwrapped phase and probe as 32-bit TIFF, and as PNG with scale bars."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.restoration import unwrap_phase

from ptychi_neural import evaluation
from ptychi_neural.evaluation.figures import (
    COLOUR_PERCENTILES,
    MAX_PROBE_MODES,
    hue_and_brightness,
)
from ptychi_neural.evaluation.scale_bars import add_scale_bar
from ptychi_neural.scans import Scan

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Pictures:
    """What is to be seen of a reconstruction: real images of the scanned area."""

    amplitude: NDArray[np.float32]
    """(n_slices, h, w) amplitude of the object, NaN outside the scanned area."""

    phase: NDArray[np.float32]
    """(n_slices, h, w) unwrapped phase in radians, of median 0, NaN outside the scanned area."""

    probe: NDArray[np.complexfloating]
    """(n_modes, h, w) incoherent modes of the first OPR mode."""

    pixel_size_m: float | None
    """None where it is unknown."""


def pictures_of(scan: Scan) -> Pictures:
    """Amplitude and unwrapped phase of the scanned area, cut to its bounding box.

    Positions in one line span no area; their object is shown as a whole.

    Parameters
    ----------
    scan : Scan
        A scan with its reconstructed object and probe.
    """
    area = shown_area(scan)
    rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    outside = ~area[box]
    amplitude = np.abs(scan.object[:, *box]).astype(np.float32)
    phase = np.stack([unwrapped(slice_[box], ~outside) for slice_ in scan.object])
    amplitude[:, outside] = np.nan
    return Pictures(amplitude, phase.astype(np.float32), scan.probe[0], scan.known_pixel_size_m)


def shown_area(scan: Scan) -> NDArray[np.bool_]:
    """(H, W) True in the scanned area; everywhere if positions are in one line."""
    try:
        return evaluation.scanned_area(scan.positions_px, scan.object.shape)
    except ValueError:
        return np.ones(scan.object.shape[-2:], dtype=bool)


def unwrapped(slice_: NDArray[np.complexfloating], area: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Unwrap the phase of one slice.

    Parameters
    ----------
    slice_ : ndarray
        (h, w) complex object.
    area : ndarray
        (h, w) True where the phase means something.

    Returns
    -------
    ndarray
        (h, w) phase in radians with median 0 inside the area, NaN outside.

    Examples
    --------
    >>> ramp = np.exp(1j * np.linspace(0, 20, 64))[None, :] * np.ones((8, 1))
    >>> float(np.ptp(unwrapped(ramp, np.ones((8, 64), bool))).round(6))
    20.0
    """
    wrapped = np.angle(slice_ * np.exp(-1j * np.angle(slice_[area].sum())))
    phase = unwrap_phase(wrapped if area.all() else np.ma.masked_array(wrapped, ~area))
    phase = np.ma.filled(phase, np.nan)
    return phase - np.nanmedian(phase)


def write_tiff(folder: Path, pictures: Pictures) -> None:
    """Write 32-bit TIFF with the pixel size, which ImageJ reads: a page each slice or mode."""
    images = {
        "object_amplitude": pictures.amplitude,
        "object_phase": pictures.phase,
        "probe_amplitude": np.abs(pictures.probe),
        "probe_phase": np.angle(pictures.probe),
    }
    size_m = pictures.pixel_size_m
    pixels_per_um = 1.0 if size_m is None else 1e-6 / size_m
    for name, stack in images.items():
        tifffile.imwrite(
            folder / f"{name}.tif",
            stack.astype(np.float32),
            imagej=True,
            resolution=(pixels_per_um, pixels_per_um),
            metadata={"unit": "pixel" if size_m is None else "um", "axes": "ZYX"},
        )


def write_png(folder: Path, pictures: Pictures) -> None:
    """Write ``object_amplitude.png``, ``object_phase.png`` and ``probe.png`` with scale bars."""
    for name, figure in (
        ("object_amplitude", amplitude_figure(pictures)),
        ("object_phase", phase_figure(pictures)),
        ("probe", probe_figure(pictures)),
    ):
        save_png(figure, folder / f"{name}.png")


def amplitude_figure(pictures: Pictures) -> Figure:
    """The amplitude of every slice, all with the same limits."""
    return _images(pictures.amplitude, "amplitude", "gray", pictures.pixel_size_m)


def phase_figure(pictures: Pictures) -> Figure:
    """The unwrapped phase of every slice, all with the same limits."""
    return _images(pictures.phase, "phase (rad)", "inferno", pictures.pixel_size_m)


def probe_figure(pictures: Pictures) -> Figure:
    """The strongest incoherent modes with their shares of the power: phase as hue, amplitude as
    brightness."""
    from matplotlib.figure import Figure

    power = (np.abs(pictures.probe) ** 2).sum(axis=(-2, -1))
    n_modes = min(len(power), MAX_PROBE_MODES)
    figure = Figure(figsize=(3.2 * n_modes, 3.5), layout="constrained")
    for k, ax in enumerate(figure.subplots(1, n_modes, squeeze=False)[0]):
        ax.imshow(hue_and_brightness(pictures.probe[k]), interpolation="nearest")
        ax.set_title(f"mode {k + 1}: {power[k] / power.sum():.1%}" if len(power) > 1 else "probe")
        ax.set_axis_off()
        add_scale_bar(ax, pictures.probe.shape[-1], pictures.pixel_size_m)
    return figure


def save_png(figure: Figure, file: Path | IO[bytes]) -> None:
    """Write a figure as PNG into a file, in the place of an earlier one, or into a stream."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    if isinstance(file, Path):
        file.write_bytes(buffer.getvalue())
    else:
        file.write(buffer.getvalue())


def _images(
    stack: NDArray[np.float32], title: str, palette: str, pixel_size_m: float | None
) -> Figure:
    """Images beside each other with one colour bar."""
    from matplotlib.figure import Figure

    n, height, width = stack.shape
    shown = stack[np.isfinite(stack)]
    low, high = np.percentile(shown, COLOUR_PERCENTILES)
    each = 4.5 * min(1.0, width / height), 4.5 * min(1.0, height / width)
    figure = Figure(figsize=(n * each[0] + 1.0, each[1] + 0.4), layout="constrained")
    axes = figure.subplots(1, n, squeeze=False)[0]
    for k, (ax, image) in enumerate(zip(axes, stack)):
        drawn = ax.imshow(image, cmap=palette, vmin=low, vmax=high, interpolation="nearest")
        if n > 1:
            ax.set_title(f"slice {k + 1}")
        ax.set_axis_off()
        add_scale_bar(ax, width, pixel_size_m)
    figure.colorbar(drawn, ax=axes, shrink=0.85, label=title)
    return figure
