"""Lengths in pictures are those of the scan."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from ptychi_neural.evaluation import comparison_figure, loss_figure
from ptychi_neural.evaluation import comparison_figures as figures
from ptychi_neural.evaluation import figures as loss_figures
from ptychi_neural.evaluation.scale_bars import add_scale_bar

METRES = {"µm": 1e-6, "nm": 1e-9, "pm": 1e-12}


def bar_of(ax):
    """Length in pixels and label of the scale bar in some axes."""
    (bar,) = [artist for artist in ax.get_children() if isinstance(artist, AnchoredSizeBar)]
    return bar.size_bar.get_children()[0].get_width(), bar.txt_label.get_text()


@pytest.mark.parametrize("pixel_size_m", [2e-8, 3.3e-9, 1.1e-11, None])
def test_a_scale_bar_is_as_long_as_it_says(pixel_size_m):
    ax = Figure().subplots()
    add_scale_bar(ax, 120, pixel_size_m)
    length_px, label = bar_of(ax)
    number, unit = re.fullmatch(r"([\d.]+) (\S+)", label).groups()
    told_px = float(number) if unit == "px" else float(number) * METRES[unit] / pixel_size_m
    assert length_px == pytest.approx(told_px)
    assert 12 <= length_px <= 30


@pytest.fixture
def drawn(monkeypatch):
    """Figures that would be saved."""
    found = []
    for module in (figures, loss_figures):
        monkeypatch.setattr(module, "save_figure", lambda figure, *args: found.append(figure))
    return found


def test_engines_side_by_side_have_a_scale_bar_and_lengths(drawn):
    rng = np.random.default_rng(0)
    reference = np.exp(0.3j * rng.normal(size=(60, 60)))
    objects = {"lsqml": reference + 0.1 * rng.normal(size=(60, 60))}
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    comparison_figure("a.png", objects, reference, "truth", mask, pixel_size_m=2e-8)
    axes = drawn[0].axes
    assert bar_of(axes[0]) == (10.0, "200 nm")
    assert any(re.search(r"px \(\d+(\.\d+)? nm\)", text.get_text()) for text in axes[7].texts)


@pytest.mark.parametrize(
    ("values", "scale"), [([0.39, 0.38, 0.392], "linear"), ([9, 1, 0.5], "log")]
)
def test_losses_of_less_than_a_decade_have_a_linear_axis(drawn, values, scale):
    loss_figure("a.png", {"epoch": [0, 1, 2], "loss": values})
    assert drawn[0].axes[0].get_yscale() == scale


@pytest.mark.parametrize("ramp", [False, True])
def test_phases_of_engines_are_free_of_a_ramp_that_nobody_knows(drawn, ramp):
    y, x = np.indices((60, 60))
    plain = np.exp(0.3j * np.random.default_rng(0).normal(size=(60, 60)))
    sloped = plain * np.exp(1j * (0.02 * y - 0.01 * x + 2))
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    comparison_figure("a.png", {"lsqml": sloped}, sloped, "rpie", mask, ramp=ramp)
    for row in (0, 1):
        phase = drawn[0].axes[4 * row + 1].images[0].get_array()
        design = np.stack([y[mask], x[mask], np.ones(mask.sum())], axis=1)
        slope = np.linalg.lstsq(design, np.ravel(phase), rcond=None)[0][:2]
        expected = (0.0, 0.0) if ramp else (0.02, -0.01)
        np.testing.assert_allclose(slope, expected, atol=3e-3)
