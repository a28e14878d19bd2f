"""Options of the losses whose weighted sum a fit of the generator lowers."""

from collections.abc import Iterator
from dataclasses import field

from ptychi.api.options.base import FeatureOptions, OptimizationPlan, Options
from pydantic import Field as PydanticField
from pydantic.dataclasses import dataclass


@dataclass
class LikelihoodOptions(FeatureOptions):
    """The loss that `loss_function` names, between predicted and measured counts."""

    enabled: bool = True
    """Whether it is part of the sum."""

    weight: float = PydanticField(default=1.0, gt=0)
    """Weight in the sum."""

    optimization_plan: OptimizationPlan = field(default_factory=OptimizationPlan)
    """Epochs in which it counts: `start`, `stop` and `stride`, as of all of pty-chi's plans."""


@dataclass
class AmplitudeErrorOptions(FeatureOptions):
    """Mean absolute error of the amplitudes, the square roots of the counts."""

    enabled: bool = False
    """Whether it is part of the sum."""

    weight: float = PydanticField(default=1.0, gt=0)
    """Weight in the sum."""

    counts_above: float | None = PydanticField(default=None, ge=0)
    """Masked: the mean is taken over the pixels that measured more counts than this. None: over
    all pixels that count."""

    optimization_plan: OptimizationPlan = field(default_factory=OptimizationPlan)
    """Epochs in which it counts: `start`, `stop` and `stride`."""


@dataclass
class ObjectErrorOptions(FeatureOptions):
    """Squared relative error of the object where it was illuminated, after one complex scale.

    It needs the true object, which simulated scans of a training have: it is for pre-training.
    """

    enabled: bool = False
    """Whether it is part of the sum."""

    weight: float = PydanticField(default=1.0, gt=0)
    """Weight in the sum."""

    optimization_plan: OptimizationPlan = field(default_factory=OptimizationPlan)
    """Epochs in which it counts: `start`, `stop` and `stride`."""


@dataclass
class FitLossOptions(Options):
    """What a fit of the generator lowers: a weighted sum of losses, each in its range of epochs.

    Projections and held-out pixels go by `loss_function` alone, whatever is mixed here.
    """

    likelihood: LikelihoodOptions = field(default_factory=LikelihoodOptions)

    amplitude_error: AmplitudeErrorOptions = field(default_factory=AmplitudeErrorOptions)

    object_error: ObjectErrorOptions = field(default_factory=ObjectErrorOptions)

    def problems(self, n_epochs: int) -> Iterator[str]:
        """Tell what leaves epochs without a loss.

        Where k progressions cover 2^k numbers in a row, they cover all (Crittenden and Vanden
        Eynden, Proc. AMS 24, 475 (1970)): it suffices to look at some epochs after each change.
        """
        terms = (self.likelihood, self.amplitude_error, self.object_error)
        plans = [term.optimization_plan for term in terms]
        changes = {0, *(plan.start for plan in plans), *(plan.stop or 0 for plan in plans)}
        looked_at = {change + i for change in changes for i in range(2 ** len(terms))}
        for epoch in sorted(epoch for epoch in looked_at if 0 <= epoch < n_epochs):
            if not any(term.is_enabled_on_this_epoch(epoch) for term in terms):
                yield (
                    f"reconstructor_options.fit_loss: no loss counts in epoch {epoch}; enable one "
                    "there, or set optimization_plan.stop = None"
                )
                return
