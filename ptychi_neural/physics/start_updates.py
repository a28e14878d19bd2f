"""The updates of the objects that a generator starts from, kept while they stay as they are."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ptychi_neural.physics.shifted_probes import Sources


class StartUpdates:
    """A memory of the updates of the starts, one for each split of the pixels that is not seen."""

    def __init__(self) -> None:
        self._sources = Sources()
        self._updates: dict[int | None, tuple[Tensor, Tensor]] = {}

    def get(
        self,
        split: int | None,
        start: Tensor,
        sources: Sequence[Tensor],
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor | None:
        """The update of a start, computed anew where it, or a source, has changed.

        Parameters
        ----------
        split : int, optional
            The split that is not seen.
        start : Tensor
            (n_slices, H, W) object.
        sources : sequence of Tensor
            What the update is made from beside the start and the counts.
        compute : callable
            Gives the update of an object by all frames.

        Returns
        -------
        Tensor or None
            (n_slices, H, W) update; None where gradients of a source are asked for, as it changes
            with every batch then.
        """
        if any(source.requires_grad for source in sources):
            return None
        if self._sources.have_changed(sources):
            self._updates = {}
        known, update = self._updates.get(split, (None, None))
        if update is None or known is not start:
            update = compute(start)
            self._updates[split] = start, update
        return update
