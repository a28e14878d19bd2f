"""Options of validation: detector pixels that nothing else sees tell which state is the best."""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass


@dataclass
class ValidationOptions(Options):
    """Stopping where it is best: by the likelihood of pixels that nothing else sees."""

    held_out: float = PydanticField(default=0.03, ge=0, lt=0.5)
    """Share of the detector pixels of each pattern, drawn at random with the run's seed, that are
    kept out of input, updates and loss. When a run ends, the state that predicts them best is
    what the task holds. 0: no validation, the last state is the result, unless it predicts all
    pixels far worse than the initial reconstruction."""

    patience: int | None = PydanticField(default=50, ge=1)
    """Epochs without a better prediction after which a run ends. None: run all epochs."""

    trial_epochs: int | None = PydanticField(default=20, ge=1)
    """Epochs without a better prediction by the network after which a run ends while the initial
    reconstruction predicts them still better. Until the network does, only two splits of the pixels
    have a start of their own, as those of the others cost as much time as many epochs. None, or no
    ``patience``: all have one at once."""

    least_gain: float = PydanticField(default=0.03, ge=0, lt=1)
    """Share of all that the network has gained on the initial reconstruction, which it has to gain
    within ``trial_epochs`` for a run to go on. 0, or no ``patience`` or
    ``trial_epochs``: gains may be as small as they like."""
