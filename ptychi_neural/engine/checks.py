"""Checks of what a task is built from: an error with a remedy, or a mask with a warning."""

import logging

import numpy as np
import torch
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup
from ptychi.io_handles import PtychographyDataset

from ptychi_neural.scans import check_positions, check_start
from ptychi_neural.scans.markers import marked_counts

logger = logging.getLogger(__name__)

LARGEST_BAD_SHARE = 0.1
"""Largest share of detector pixels that is masked without asking."""


def check_data(group: PlanarPtychographyParameterGroup, dataset: PtychographyDataset) -> None:
    """Check probe, object, positions and patterns; mask detector pixels that are not counts.

    Parameters
    ----------
    group : PlanarPtychographyParameterGroup
        Object, probe, positions.
    dataset : PtychographyDataset
        Patterns and valid-pixel mask, which may be changed.

    Raises
    ------
    ValueError
        Naming what is wrong and the remedy.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode: nothing can be fitted in it; build tasks outside.")
    check_start_of(group)
    _mask_bad_pixels(dataset)
    valid = dataset.valid_pixel_mask.to(dataset.patterns.device)
    if not valid.any():
        raise ValueError("valid_pixel_mask: no pixel is valid; valid pixels are True.")
    counts = (dataset.patterns * valid).sum(dim=(-2, -1))
    if counts.max() == 0:
        raise ValueError("diffraction_data: no counts in any frame on valid pixels.")
    n_empty = int((counts == 0).sum())
    if n_empty > 0:
        logger.warning(
            "%d of %d frames have no counts: they pull the object towards zero where they are. "
            "Leave them out if the beam was off.",
            n_empty,
            len(counts),
        )


def check_start_of(group: PlanarPtychographyParameterGroup) -> None:
    """Check that object, probe, positions and OPR weights are finite, and let light through.

    Raises
    ------
    ValueError
        Naming what is wrong and the remedy.
    """
    for parameter in (group.probe_positions, group.opr_mode_weights, group.object.slice_spacings):
        if not parameter.data.isfinite().all():
            raise ValueError(f"{parameter.name}: has NaN or Inf; give finite values.")
    check_start(
        group.object.data.numpy(force=True),
        group.probe.data.numpy(force=True),
        names=("object_data", "probe_data"),
    )


def check_inside(group: PlanarPtychographyParameterGroup) -> None:
    """Check that the patches of all positions lie inside the object, once its origin is known.

    Raises
    ------
    ValueError
        Naming the unit in which the positions seem to be, or the size of object that they need.
    """
    try:
        check_positions(
            group.probe_positions.data.numpy(force=True),
            tuple(group.probe.shape),
            tuple(group.object.shape),
            group.object.options.pixel_size_m,
            origin=group.object.pos_origin_coords.numpy(force=True),
        )
    except ValueError as error:
        raise ValueError(f"probe_position_x_px, probe_position_y_px: {error}") from error


def _mask_bad_pixels(dataset: PtychographyDataset) -> None:
    patterns = dataset.patterns
    bad = ~torch.isfinite(patterns) | (patterns < 0)
    share = float(bad.any(dim=0).double().mean())
    if share > LARGEST_BAD_SHARE:
        raise ValueError(
            f"diffraction_data: {share:.0%} of the detector pixels have NaN, Inf or negative "
            "counts in some frame. Give counts, not logarithms or background-subtracted values, "
            "or mask the pixels with valid_pixel_mask."
        )
    marked = marked_counts(torch.where(bad, 0.0, patterns).numpy(force=True))
    if marked is not None:
        markers = marked.among(np.ones(len(patterns), dtype=bool))
        bad = bad | torch.as_tensor(markers, device=bad.device)
    bad_pixels = bad.any(dim=0)
    if not bad_pixels.any():
        return
    logger.warning(
        "%d detector pixels have NaN, Inf or negative counts, or a detector's gap marker, in some "
        "frame and were masked.",
        int(bad_pixels.sum()),
    )
    dataset.patterns = torch.where(bad, 0.0, patterns)
    dataset.valid_pixel_mask = dataset.valid_pixel_mask & ~bad_pixels.to(
        dataset.valid_pixel_mask.device
    )
