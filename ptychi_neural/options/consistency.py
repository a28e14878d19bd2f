"""Options of the layer that stitches patches to one object and cuts consistent ones out of it."""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass

from ptychi_neural.options.choices import StitchScopes, StitchWeightings


@dataclass
class ConsistencyOptions(Options):
    """The stitch-and-extract layer."""

    stitch_weighting: StitchWeightings = StitchWeightings.PROBE_INTENSITY
    """How patches that overlap are averaged. A plain average instead of one weighted with the
    probe's intensity errs two to three times as much."""

    scope: StitchScopes = StitchScopes.BATCH
    """Which patches are stitched while the generator is fitted: of a batch or of the scan."""

    canvas_update_stride: int = PydanticField(default=5, ge=1)
    """Epochs between assemblies of the scan-wide object in ``task.object``, with which held-out
    pixels are predicted. It is always assembled at the end of a run."""
