"""Checkpoints of a reconstruction, from which a killed one goes on as if it had never ended."""

import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w
from ptychi.api.task import PtychographyTask

from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.engine.state import load_training_state, save_training_state
from ptychi_neural.engine.state_files import damage_told
from ptychi_neural.runs.attend import after, is_interrupted
from ptychi_neural.runs.configuration import differing, read_keys
from ptychi_neural.runs.progress import say, tell
from ptychi_neural.runs.run_file import RunFile

CHECKPOINT = "checkpoint.safetensors"
"""State of the neural engine between two epochs or two iterations."""


class Checkpoints:
    """Saves the state of a task of the neural engine between two epochs or two iterations of an
    initial reconstruction, every few minutes, and when the run was told to stop.

    Parameters
    ----------
    folder : Path
        The folder that gets the checkpoint.
    interval_s : float
        Seconds from one checkpoint to the next. 0: whenever there is one to write.
    """

    def __init__(self, folder: Path, interval_s: float) -> None:
        self.path = folder / CHECKPOINT
        self.interval_s = interval_s
        self._last = time.monotonic()
        self._fails = False

    @contextmanager
    def kept(self, task: PtychographyTask) -> Iterator[None]:
        """Save checkpoints of a task while it runs. Other engines have no state to save."""
        reconstructor = task.reconstructor
        if not isinstance(reconstructor, NeuralReconstructor):
            yield
            return
        begin_epoch = reconstructor.run_pre_epoch_hooks

        def save_where_due() -> None:
            if is_interrupted() or time.monotonic() - self._last >= self.interval_s:
                self.save(reconstructor)

        def save_first() -> None:
            save_where_due()
            begin_epoch()

        reconstructor.run_pre_epoch_hooks = save_first  # type: ignore[method-assign]
        try:
            with after(reconstructor.start, "pause", save_where_due):
                yield
        finally:
            del reconstructor.run_pre_epoch_hooks

    def save(self, reconstructor: NeuralReconstructor) -> None:
        """Save the state. A disk without room for it does not end the run."""
        try:
            save_training_state(self.path, reconstructor)
        except Exception as error:  # OSError, or what safetensors makes of it
            if not self._fails:
                say(f"warning: no checkpoint could be written: {error}")
            self._fails = True
            return
        finally:
            self._last = time.monotonic()
        self._fails = False
        tell("checkpoint", epoch=reconstructor.current_epoch, path=str(self.path))


def load_checkpoint(folder: Path, task: PtychographyTask) -> bool:
    """Give a newly built task the state of a folder's checkpoint; tell whether there is one.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or that of another scan or of other options.
    """
    path, reconstructor = folder / CHECKPOINT, task.reconstructor
    if not path.is_file() or not isinstance(reconstructor, NeuralReconstructor):
        return False
    try:
        load_training_state(path, reconstructor)
        if reconstructor.current_epoch > reconstructor.n_epochs:
            raise ValueError(
                f"{path}: is damaged: it is in epoch {reconstructor.current_epoch} of "
                f"{reconstructor.n_epochs}."
            )
    except ValueError as error:
        raise ValueError(f"{error} To begin anew: --overwrite, or another --output.") from error
    return True


def take_seeds(run: RunFile, earlier: Path) -> None:
    """Give engines without a seed those of the run to resume."""
    theirs = _contents(earlier)
    sections = [theirs, theirs.get("refine", {})]
    for stage, section in zip(run.stages, sections):
        options = stage.options.reconstructor_options
        if options.random_seed is None:
            with damage_told(earlier / "run.toml"):
                options.random_seed = section.get("reconstructor_options", {}).get("random_seed")


def check_same(run: RunFile, earlier: Path) -> None:
    """Check that a run, whose tasks are built, is the one to resume.

    Raises
    ------
    ValueError
        If other keys than those of ``[output]`` differ.
    """
    ours, theirs = tomllib.loads(tomli_w.dumps(run.filled_in())), _contents(earlier)
    for contents in (ours, theirs):
        contents.pop("output", None)
    if different := differing(ours, theirs):
        raise ValueError(
            f"{earlier}: was begun with other {', '.join(different)}. Resume with the same, or "
            "begin anew with --output FOLDER."
        )


def _contents(earlier: Path) -> dict:
    path = earlier / "run.toml"
    if not path.is_file():
        raise FileNotFoundError(f"{earlier}: holds no reconstruction to resume.")
    return read_keys(path)
