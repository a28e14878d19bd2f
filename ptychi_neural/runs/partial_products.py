"""Products of a reconstruction under way, as ptychodus's reconstruction subprocess writes them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ptychi.api.task import PtychographyTask
from ptychi.reconstructors.base import IterativeReconstructor

from ptychi_neural.counted import counted
from ptychi_neural.runs.attend import after
from ptychi_neural.runs.progress import tell
from ptychi_neural.runs.run_scan import reconstructed
from ptychi_neural.scans import Scan, write_product


@contextmanager
def partial_products(
    tasks: Sequence[PtychographyTask], scan: Scan, folder: Path, every: int
) -> Iterator[None]:
    """Write ``product.NNNNNN.h5`` after every so many epochs, and tell each as a checkpoint.

    Parameters
    ----------
    tasks : sequence of PtychographyTask
        Tasks of any engines, which run in this order.
    scan : Scan
        Their scan.
    folder : Path
        The folder that gets the products.
    every : int
        Epochs from one product to the next.
    """

    def of(task: PtychographyTask) -> Callable[[], None]:
        def write() -> None:
            losses = [pair for each in tasks for pair in _losses(each)]
            n_done = len(losses)
            if n_done % every:
                return
            path = folder / f"product.{n_done:06d}.h5"
            found = reconstructed(scan, task, f"under way, {counted(n_done, 'epochs')}")
            try:
                write_product(path, found, losses, overwrite=True)
            except OSError as error:  # A disk without room for it does not end the run.
                warnings.warn(f"{path} could not be written: {error}", stacklevel=2)
            else:
                tell("checkpoint", epoch=n_done, path=str(path))

        return write

    with ExitStack() as followed:
        for task in tasks:
            tracker = _reconstructor(task).loss_tracker
            followed.enter_context(after(tracker, "conclude_epoch", of(task)))
        yield


def _reconstructor(task: PtychographyTask) -> IterativeReconstructor:
    assert isinstance(task.reconstructor, IterativeReconstructor)
    return task.reconstructor


def _losses(task: PtychographyTask) -> list[tuple[int, float]]:
    """Epochs, counted from 0, and their losses."""
    table = _reconstructor(task).loss_tracker.table[["epoch", "loss"]].dropna()
    return [(int(epoch), float(loss)) for epoch, loss in table.itertuples(index=False)]
