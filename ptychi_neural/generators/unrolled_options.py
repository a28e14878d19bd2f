"""Options of the unrolled generator, to whose networks other files add."""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField

from ptychi_neural.options.choices import UnrolledNetworks
from ptychi_neural.options.open_choices import open_dataclass


@open_dataclass
class UnrolledOptions(Options):
    """Unrolled generator: data-consistency updates, each corrected by a small network."""

    n_iterations: int = PydanticField(default=1, ge=1, le=1000)
    """Number of unrolled iterations (K)."""

    shared_weights: bool = True
    """One network for all iterations, or one for each."""

    network: UnrolledNetworks = UnrolledNetworks.DILATED
    """The correcting network."""

    n_layers: int = PydanticField(default=4, ge=1, le=100)
    """Blocks (dilated, spectral) or levels (U-Net, hybrid U-NO) of the network. Four dilated blocks
    see 21 pixels far; two see 7, and err 1 to 5 % more where light is scarce."""

    symmetric: bool = True
    """Train in random orientations (flips, transposition) of the object, and average the
    correction over them when it is applied."""

    averaged_orientations: int = PydanticField(default=8, ge=1, le=8)
    """Number of the eight orientations over which the correction is averaged. A network that was
    fitted to one scan errs up to 4 % less with all of them than with two, one that was trained on
    many scans less than 1 %."""

    n_splits: int = PydanticField(default=4, ge=1, le=100)
    """Splits of the measured pixels. In each epoch the network sees a start and updates made
    without the pixels of one split, and the loss is that of this split: what it learns is to
    predict, not to copy the noise. 1: input and loss see the same pixels. Nothing is hidden by
    splitting if the task's object has already been fitted to the data."""

    gradient_iterations: int | None = PydanticField(default=None, ge=1)
    """Number of last iterations through which the gradient passes. None: all."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""

    residual_gain: float = PydanticField(default=0.3, gt=0)
    """Gain of a residual branch of the network at first: the network begins close to linear."""

    correction_scale: float = PydanticField(default=0.3, gt=0)
    """Scale of the network's output, in deviations of the object."""

    batch_pixels: int = PydanticField(default=2**22, ge=1)
    """Detector pixels of a batch where ``batch_size`` is open: the network passes the whole object
    in each batch, so that batches are as large as memory allows."""
