"""Checks of what a run goes on from: an error names what is wrong, and the remedy."""

import logging

from ptychi.data_structures.parameter_group import PlanarPtychographyParameterGroup

from ptychi_neural.scans import check_positions, check_start
from ptychi_neural.scans.checks import closeness

logger = logging.getLogger(__name__)


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


def warn_of_closeness(group: PlanarPtychographyParameterGroup) -> None:
    """Warn of positions that hardly move the beam, as those in micrometres do not."""
    told = closeness(
        group.probe_positions.data.numpy(force=True),
        tuple(group.probe.shape),
        tuple(group.object.shape),
        group.object.options.pixel_size_m,
    )
    if told is not None:
        logger.warning("probe_position_x_px, probe_position_y_px: %s", told)


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
