"""Choices of the neural engine, as ``StrEnum`` members: ``"hybrid_uno"`` in a run file means
``Architectures.HYBRID_UNO``."""

from enum import StrEnum, auto


class NeuralReconstructors(StrEnum):
    """Keys under which the engine is known to pty-chi."""

    NEURAL = auto()


class Architectures(StrEnum):
    """Generators: networks from diffraction patterns to local object patches."""

    CASCADED = auto()
    """A: blocks at constant resolution, then a convolutional U-Net refiner."""
    HYBRID_UNO = auto()
    """B: U-shaped operator, spectral encoder and convolutional decoder."""
    CNN = auto()
    """C: convolutional encoder, one decoder each for amplitude and phase (PtychoPINN)."""
    UNROLLED = auto()
    """Unrolled iterations of a data-consistency update and a small network."""
    FNO = auto()
    """Spectral blocks at constant resolution."""
    FFNO = auto()
    """Spectral layers factorised into axes."""
    UNO = auto()
    """neuraloperator's U-NO: spectral layers at several resolutions, with skips."""
    U_FNO = auto()
    """Spectral blocks, the last of them with a small U-Net in the local path."""
    HYBRID_U_FNO = auto()
    """Convolutions at high resolution, spectral blocks at the lowest."""
    GNO = auto()
    """B, with the codes of neighbouring scan positions mixed by a graph operator or attention."""
    DIP = auto()
    """Deep image prior: the whole object from fixed noise."""


class Lifters(StrEnum):
    """What a one-shot generator sees of a diffraction pattern."""

    CNN = auto()
    """Amplitudes over their scan-wide root mean square, through the shallow CNN."""
    LOG = auto()
    """log(1 + counts), standardised over each pattern."""
    SQRT = auto()
    """Amplitudes, standardised over each pattern."""
    STANDARDIZED = auto()
    """log(1 + counts), each detector pixel standardised over the scan."""
    BACKPROJECTION = auto()
    """First update of a projection engine: real and imaginary channels in real space."""


class Blocks(StrEnum):
    FNO = auto()
    """act(spectral(x) + conv1x1(x)): Li et al., ICLR 2021, Eq. 2."""
    PTYCHO = auto()
    """x + act(spectral(x) + conv3x3(x))."""
    COMPLEX = auto()
    """As ptycho, with complex features and weights: half of the channels are imaginary parts."""


class Heads(StrEnum):
    AMPLITUDE_PHASE = auto()
    """Sigmoid amplitude with a learned or given maximum, phase pi * tanh."""
    REAL_IMAGINARY = auto()
    """Unbounded real and imaginary parts around 1 + 0i."""


class Downsamplings(StrEnum):
    STRIDED = auto()
    MEAN = auto()
    MAX = auto()


class Upsamplings(StrEnum):
    TRANSPOSED = auto()
    BILINEAR = auto()


class Fusions(StrEnum):
    CONCATENATE = auto()
    ADD = auto()


class SkipSources(StrEnum):
    """What passes across from the encoder to the decoder."""

    LOCAL = auto()
    """The output of a block's local path."""
    BLOCK = auto()
    """The output of the block."""
    OFF = auto()
    """Nothing: there are no skips."""


class SpectralLevels(StrEnum):
    """Which levels have spectral paths; blocks of the others are their local path alone."""

    ALL = auto()
    """All of them."""
    ENCODER = auto()
    """Those of the encoder, above the lowest resolution."""
    BOTTLENECK = auto()
    """That of the lowest resolution."""
    OFF = auto()
    """None of them."""


class CascadeLinks(StrEnum):
    """What passes from the first stage of a cascade to the second."""

    IMAGE = auto()
    """A rough object: two channels for each slice, amplitude and phase (or real and imaginary)."""
    FEATURES = auto()
    """The feature map itself."""


class StitchWeightings(StrEnum):
    UNIFORM = auto()
    """Plain average of overlapping patches."""
    PROBE_INTENSITY = auto()
    """Average weighted by the probe's intensity: a patch counts where it was illuminated."""


class StitchScopes(StrEnum):
    BATCH = auto()
    """The patches of the minibatch."""
    SCAN = auto()
    """The minibatch with gradient, every other position's latest prediction without."""


class UnrolledNetworks(StrEnum):
    """The correcting network of an unrolled generator."""

    DILATED = auto()
    """Flat dilated convolutions."""
    UNET = auto()
    """Convolutional U-Net."""
    HYBRID_UNO = auto()
    """Spectral encoder, convolutional decoder."""
    SPECTRAL = auto()
    """A stack of spectral blocks (FNO)."""
    FFNO = auto()
    """Spectral layers factorised into axes."""
    UNO = auto()
    """neuraloperator's U-NO."""
    U_FNO = auto()
    """Spectral blocks with a small U-Net in the local path."""
    HYBRID_U_FNO = auto()
    """Convolutional U-Net with spectral blocks at the lowest resolution."""


class NeighbourMixings(StrEnum):
    """How the codes of neighbouring scan positions are mixed."""

    GNO = auto()
    """neuraloperator's graph operator: a learned kernel of the distance between the positions."""
    ATTENTION = auto()
    """Attention, biased by a learned function of the distance."""


class PriorInputs(StrEnum):
    """What a deep image prior makes the object of."""

    NOISE = auto()
    """Fixed Gaussian noise."""
    COORDINATES = auto()
    """The coordinates of the pixels."""
