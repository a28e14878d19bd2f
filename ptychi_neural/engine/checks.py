"""Checks of what a run goes on from: an error names what is wrong, and the remedy."""

import logging
import math

import torch
from ptychi.api.enums import BatchingModes
from ptychi.api.options.base import ReconstructorOptions
from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup

from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.scans import check_positions, check_start
from ptychi_neural.scans.checks import closeness, sparseness

logger = logging.getLogger(__name__)

WIDER = 1.7
"""Ratio of the pixels that the light of the probe alone would fall on to those of the patterns,
above which the probe is another one: with the true probe it is at most 1.2, with a pupil of twice
the diameter 2 to 4."""


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


def warn_of_mistakes(scan: ScanPhysics) -> None:
    """Warn of positions that hardly move the beam, and of a probe of other optics.

    Parameters
    ----------
    scan : ScanPhysics
        The whole scan, with the probe that was handed in. All ranks have to ask.
    """
    model = scan.model
    positions, probe_shape = model.probe_positions.data.numpy(force=True), tuple(model.probe.shape)
    of_object = tuple(model.object.shape), model.object.options.pixel_size_m
    told = closeness(positions, probe_shape, *of_object) or sparseness(positions, probe_shape)
    if told is not None:
        logger.warning("probe_position_x_px, probe_position_y_px: %s", told)
    if not model.is_far_field:  # There a sample does not only spread the light.
        return
    of_probe, of_patterns = lit_pixels(scan)
    if of_probe > WIDER * of_patterns:
        logger.warning(
            "probe_data: its light would fall on %.0f pixels of the detector without a sample, "
            "that of the patterns falls on %.0f, although a sample only spreads it: the probe is "
            "that of another pixel size, energy or aperture. Correct these, or start from "
            'mean_pattern_probe (data.probe.kind = "mean_pattern").',
            of_probe,
            of_patterns,
        )


@torch.no_grad()
def lit_pixels(scan: ScanPhysics) -> tuple[float, float]:
    """Pixels on which the light of the probe alone would fall, and that of the mean pattern does.

    The number of pixels of an intensity I is ``(sum I)^2 / sum I^2``. In the far field the mean
    pattern of many positions is that of the probe alone, convolved with the power spectrum of the
    object: it cannot be on fewer pixels. The converse tells nothing, since objects that scatter
    strongly spread the light over any number of pixels.

    Parameters
    ----------
    scan : ScanPhysics
        The whole scan, in the far field.

    Returns
    -------
    of_probe, of_patterns : float
        ``of_patterns`` is infinite where it is not known: where there are so few counts that their
        noise is half of ``sum I^2``.
    """
    total = torch.zeros_like(scan.valid, dtype=torch.float64)
    for batch in scan.batches:
        total += scan.model.measured(batch).sum(0, dtype=torch.float64).to(total)
    total = torch.where(scan.valid, summed(total), 0.0)
    noise, squares = total.sum(), total.square().sum()
    # Of the modes the brightest, since others may have been filled in.
    modes = scan.model.probe.data[0]
    brightest = modes[modes.abs().square().sum((-2, -1)).argmax()]
    wave = scan.model.forward_far_field(brightest[None, None])
    alone = scan.model.conform_to_detector_size(wave.abs().square().sum(1))[0].double()
    alone = torch.where(scan.valid, alone / alone.max(), 0.0)
    of_probe = float(alone.sum().square() / alone.square().sum())
    if not squares > 2 * noise:
        return of_probe, math.inf
    return of_probe, float(total.sum().square() / (squares - noise))


def check_batches(group: PlanarPtychographyParameterGroup, options: ReconstructorOptions) -> None:
    """Check that there are positions enough to be dealt into batches of neighbours.

    Raises
    ------
    ValueError
        If some would be empty, because frames share a position.
    """
    positions = group.probe_positions.data
    n_batches = math.ceil(len(positions) / options.batch_size)
    n_distinct = len(positions.unique(dim=0))
    if options.batching_mode == BatchingModes.COMPACT and n_distinct < n_batches:
        raise ValueError(
            f"probe_position_x_px, probe_position_y_px: {n_distinct} different positions of "
            f"{len(positions)} frames cannot be dealt into {n_batches} compact batches; check "
            'them, or set reconstructor_options.batching_mode = "random".'
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
