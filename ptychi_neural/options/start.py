"""Options of the initial reconstruction, from which the generator starts."""

from ptychi.api.options.base import Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass


@dataclass
class StartOptions(Options):
    """The initial reconstruction: accelerated projections without a network.

    Every pattern's counts are imposed on its exit wave - by their modulus, or as the Poisson
    likelihood weights them where it is the loss and the probe is known -, the back-projected
    patches are stitched into one object, and the object carries momentum.
    """

    n_iterations: int | None = PydanticField(default=None, ge=0, le=100_000)
    """Number of iterations over the whole scan before the first epoch; fewer where no step lowers
    the loss any more. None: from the counts per object pixel (see ``iterations_per_root_count``),
    because more iterations follow finer features of the likelihood, which are noise where light is
    scarce; and with the Poisson loss no further than to the best prediction of the held-out pixels
    (see ``held_out_rise``)."""

    iterations_per_root_count: float = PydanticField(default=9.0, gt=0)
    """An open number of iterations is this times the root of the counts per object pixel, with
    updates that are divided by the contrast transfer. An iteration follows finer differences of the
    likelihood the later it comes, as 1 / k^2, and light tells noise from object down to differences
    of 1 / counts."""

    iterations_per_root_count_undivided: float = PydanticField(default=15.0, gt=0)
    """The same where updates are not divided, as while the probe is refined."""

    fewest_iterations: int = PydanticField(default=60, ge=0)
    """Smallest number of iterations where the number is open."""

    most_iterations: int = PydanticField(default=200, ge=0)
    """Largest number of iterations where the number is open. At 1e6 photons per frame and steps of
    12 px, 200 instead of 120 divided iterations lower the error from .033 to .013."""

    most_split_iterations: int = PydanticField(default=120, ge=0)
    """Largest number of iterations without a split of the pixels, where the number is open and
    updates are divided: what little overlap leaves to be found after these is coarse, and not for
    the network to learn."""

    defocus_range: float = PydanticField(default=3.0, ge=0)
    """The defocus of a probe that is refined is looked for first, by trial, up to so many radians
    rms of the phase of its Fourier transform; where this has no phase, as of the root of a mean
    pattern, up to where the beam fills the frame, at most 18. 0: it is not. Far field only."""

    defocus_iterations: int = PydanticField(default=8, ge=1)
    """Number of iterations that each trial has."""

    defocus_counts: float = PydanticField(default=2e5, gt=0, le=1e15)
    """Total counts of the frames, in the middle of the scan, that trials see."""

    fewest_defocus_frames: int = PydanticField(default=64, ge=1)
    """Smallest number of these frames."""

    first_probe_iteration: int = PydanticField(default=10, ge=0)
    """Number of iterations with a known or found defocus after which the probe is refined too,
    where positions or the weights of several OPR modes are; else that is as late as an open number
    of iterations without it ends."""

    noise_iteration: int = PydanticField(default=20, ge=1)
    """Number of iterations after which it is refined in any case where what is predicted errs by
    more than ``noise_deviance``."""

    sweeps: int = PydanticField(default=3, ge=0)
    """Number of sweeps, which update the object by a tenth of the frames after the other, that are
    tried every ``noise_iteration`` iterations where these seem to be in a trap, until they do not
    help. A trap looks like fringes with the period of the scan, and updates by all frames at once
    do not leave it. 0: none."""

    trapped_deviance: float = PydanticField(default=1.5, gt=1)
    """Poisson deviance of all counts, in units of what noise alone makes of it, from which this
    seems so. Scans that come to the truth have 1.1 to 1.3 by then, trapped ones 2 and more."""

    joint_iterations: int = PydanticField(default=120, ge=0)
    """Number of iterations, where the number is open, in which the probe is refined along with
    positions, OPR modes, or an object that errs by more than the noise: it takes as many whatever
    the light, and more fit noise. There are up to twice as many while the deviance of held-out
    pixels is above 1.2 times what noise makes of it and falls by 2 % in ``noise_iteration``
    iterations."""

    last_joint_iterations: int = PydanticField(default=40, ge=0)
    """The same where the object has come to the noise without, and for the likelihood's last ones
    where moduli have brought it there; of these up to ``joint_iterations`` while the same tells to
    go on. Held-out pixels tell which of the two is taken. Before these last ones the probe has
    ``noise_iteration`` alone."""

    most_joint_split_iterations: int = PydanticField(default=60, ge=0)
    """Largest number of iterations without a split of the pixels where the probe is refined: it is
    found by then, and with 120 the error is the same. With 30 the epochs gain nothing on some
    scans."""

    refine_in_epochs: bool = True
    """Whether the generator's epochs go on refining what the initial reconstruction has refined:
    probe, positions, OPR weights. On simulated scans, where all else is known, three modes at 1e4
    photons err 4 to 9 % less without. On the measured Siemens star, where the probe takes up what
    the model lacks, the network gains nothing without."""

    held_out_rise: float = PydanticField(default=0.02, gt=0)
    """Nats per held-out pixel above the lowest likelihood loss at which iterations whose number is
    open end and go back, and above which they go back in the end. It is watched from
    ``first_divided_iteration`` on where the probe is refined. Noise that they fit costs up to 0.006
    on simulated scans with a known probe, whatever becomes of the error; on a cryo-electron scan
    whose probe is refined it costs 0.02 to 0.05, and the network does far better from where they
    were best."""

    noise_deviance: float = PydanticField(default=2.0, gt=0)
    """Poisson deviance per held-out pixel up to which the prediction errs by hardly more than the
    noise, so that a ``held_out_rise`` ends the iterations. Noise alone makes about 1. Above it, as
    on bright scans while the probe is found, nats tell of the dose: the deviance also has to rise
    by ``relative_rise``."""

    relative_rise: float = PydanticField(default=0.1, gt=0)
    """Rise of the deviance above its minimum, relative to it, at which iterations end where it is
    more than ``noise_deviance``."""

    held_out_wait: int = PydanticField(default=20, ge=0)
    """Number of iterations since the lowest held-out loss before a rise ends them, as momentum
    makes it oscillate, the more so while a probe is found."""

    rest_change: float = PydanticField(default=0.02, ge=0, le=1)
    """Change of the coarse object in ten iterations, beside its contrast, below which it rests.
    Iterations that refine probe or positions, whose number is open, end then, once held-out pixels
    were predicted best ``held_out_wait`` iterations ago: what comes later is noise. Coarse are
    means over blocks of a quarter of the frame. 0: they do not."""

    momentum: float = PydanticField(default=0.97, ge=0, lt=1)
    """Largest momentum. It grows as k / (k + 3) with the iterations. 0.9 needs twice as many
    iterations where overlap is low."""

    regularization: float = PydanticField(default=1e-3, ge=1e-8, le=0.5)
    """Added to the probe intensity in the back-projection, relative to its maximum."""

    largest_change: float = PydanticField(default=3.0, ge=1e-3, le=1e6)
    """Largest relative change of a Fourier component of an exit wave in one step of the Poisson
    likelihood: a photon where almost none was predicted would ask for any."""

    transfer_floor: float | None = PydanticField(default=0.1, ge=1e-4, le=100)
    """With a known probe, updates are divided by the probe's contrast transfer plus this, so that
    coarse phase, which the data tell least of, comes as fast as the rest: with steps of 4 px the
    error after 40 iterations is less than half. None: not divided."""

    rim: float = PydanticField(default=0.1, ge=1e-6, le=1)
    """Share of the largest illumination below which divided updates, and the phase gradients of the
    first moments, are damped: there the contrast transfer is another, and the division would spread
    its noise."""

    short_step: float = PydanticField(default=0.5, ge=1e-3, le=1)
    """Length of the steps of object and probe where both are updated, as full steps would correct
    the same error twice and their common scale would oscillate; and of divided updates."""

    shortening: float = PydanticField(default=0.7, gt=0, lt=1)
    """Factor by which divided steps become shorter when the loss has risen."""

    most_rises: int = PydanticField(default=6, ge=1)
    """Number of rises of the loss in a row, each with a shorter step, after which no step lowers
    the loss and the iterations end."""

    pupil_phase_gain: float = PydanticField(default=4.0, gt=0, le=100)
    """Steps of the phase of the probe's Fourier transform, relative to those of all else: patterns
    tell of it only through the object's contrast. With 4, a probe of 30 % more defocus is found in
    75 to 100 iterations instead of 125 to 200. Far field only."""

    first_divided_iteration: int | None = PydanticField(default=40, ge=0)
    """Number of iterations after which updates are divided by the contrast transfer of the present
    probe, where the probe is refined: the moduli are fitted by then, but for coarse phase, which
    comes slowly undivided. On a scan with 30 % more defocus, 80 iterations
    reach an error of .020 instead of .044. None: never."""

    joint_transfer_floor: float = PydanticField(default=0.1, ge=1e-4, le=100)
    """What is added to the contrast transfer then."""

    largest_rise: float = PydanticField(default=1.3, gt=1)
    """Rise of the loss above its lowest at which iterations that lower the moduli's difference go
    back to where it was lowest, take shorter steps and divide no longer."""

    transfer_stride: int = PydanticField(default=20, ge=1)
    """Number of iterations after which the contrast transfer is taken anew from the probe."""

    first_position_iteration: int = PydanticField(default=10, ge=0)
    """Number of iterations before the positions are refined, where they are and the probe is known:
    the object's slopes tell nothing until then. Where the probe is refined too, it comes first:
    positions wait until updates are divided (see ``first_divided_iteration``). With 30 % more
    defocus and positions 1 px off, they end 0.36 px off instead of 0.59."""

    first_affine_iteration: int = PydanticField(default=60, ge=0)
    """Number of iterations before positions take up what an affine map would do to all of them (a
    scale, a rotation, a shear), which early errors of the probe would drive far. At 5e7 counts per
    frame it brings the error from .031 to .011 after positions that were 1 px off."""

    position_step: float = PydanticField(default=0.5, gt=0, le=10)
    """Length of a step of the positions, relative to that which fits each frame best."""

    position_momentum: float = PydanticField(default=0.8, ge=0, lt=1)
    """Share of a position's last displacement that is added to its step."""

    first_weight_iteration: int = PydanticField(default=15, ge=0)
    """Number of iterations before the OPR weights are refined, where they are."""

    weight_step: float = PydanticField(default=0.5, gt=0, le=1)
    """Length of a step of the OPR weights, relative to that which fits each frame best."""

    frame_damping: float = PydanticField(default=0.1, gt=0)
    """Added to the system of each frame, relative to the mean of all frames: what a frame tells
    little of changes less."""

    moment_iterations: int = PydanticField(default=0, ge=0)
    """With a known probe and patterns of the far field, so many early iterations also turn the
    object by the coarse phase that the patterns' first moments tell of (differential phase
    contrast): 16 iterations come as far as 32 without. 0: none."""

    first_moment_iteration: int = PydanticField(default=3, ge=0)
    """Number of iterations before the moments are used: coarse amplitude is missing until then, and
    the moments tell of it too."""

    moment_step: float = PydanticField(default=0.5, gt=0, le=1)
    """Share of the phase found by the moments that is taken: the same iteration finds a part of it
    by itself."""

    moment_floor: float = PydanticField(default=0.3, gt=0)
    """Added to the response, by spatial frequency, of the stitched phase gradients to those of the
    object, before they are divided by it."""

    alternate_halves: bool = False
    """With a known probe, all iterations but the last few see every second frame, in turn with the
    others: half the time, and the same object where half of the frames still overlap well."""

    share_of_halves: float = PydanticField(default=0.85, ge=0, le=1)
    """Share of the iterations that alternate between halves; the last see all of the scan."""

    total_variation: float | None = PydanticField(default=None, ge=0, le=10)
    """Weight of total-variation denoising of real and imaginary part of the projected object
    (Chambolle, J. Math. Imaging Vis. 20, 89 (2004)), in units of the object. None: the one of
    ``total_variation_weights`` that predicts the held-out pixels best, with 2 to 8 % less error
    than without; 0 where there are no such pixels. A generator is saved with the weight of its
    training."""

    total_variation_weights: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    """Weights that are tried where ``total_variation`` is open."""

    from_empty: bool = False
    """Start from an empty object (1 + 0i) instead of the task's."""
