"""Lengths in pictures: bars of round lengths, and units of axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing matplotlib takes a second
    from matplotlib.axes import Axes

UNITS = (("mm", 1e-3), ("µm", 1e-6), ("nm", 1e-9), ("pm", 1e-12))


def length_unit(length_m: float) -> tuple[float, str]:
    """How many of a unit a metre is, and the unit, in which a length is 1 or more.

    Examples
    --------
    >>> length_unit(3e-7)
    (1000000000.0, 'nm')
    """
    name, unit_m = next(((n, u) for n, u in UNITS if length_m >= u * (1 - 1e-9)), UNITS[-1])
    return float(f"{1 / unit_m:.6g}"), name


def scale_bar(width_m: float) -> tuple[float, str]:
    """A length of 1, 2 or 5 times a power of ten, of about a quarter of a width, with its label.

    Examples
    --------
    >>> scale_bar(3.1e-6)
    (5e-07, '500 nm')
    """
    wanted = width_m / 4
    power = 10.0 ** math.floor(math.log10(wanted))
    length_m = max(step * power for step in (1, 2, 5) if step * power <= wanted * (1 + 1e-9))
    scale, unit = length_unit(length_m)
    return float(f"{length_m:.6g}"), f"{length_m * scale:.4g} {unit}"


def add_scale_bar(ax: Axes, width_px: int, pixel_size_m: float | None) -> None:
    """Draw a scale bar into an image whose axes count pixels.

    Parameters
    ----------
    ax : Axes
        Axes of the image.
    width_px : int
        Width of the image.
    pixel_size_m : float, optional
        Size of a pixel; None where it is unknown, with which the bar is in pixels.
    """
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length, label = scale_bar(width_px if pixel_size_m is None else width_px * pixel_size_m)
    if pixel_size_m is None:
        label = f"{length:.4g} px"
    bar = AnchoredSizeBar(
        ax.transData,
        length / (pixel_size_m or 1),
        label,
        "lower right",
        pad=0.4,
        borderpad=0.5,
        sep=3,
        frameon=True,
        color="black",
        size_vertical=width_px / 100,
        fontproperties=FontProperties(size="small"),
    )
    bar.patch.set(alpha=0.75, edgecolor="none")
    ax.add_artist(bar)
