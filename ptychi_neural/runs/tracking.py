"""Settings, curves and pictures of a run for TensorBoard and MLflow, made of what it tells."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

Tracker = Callable[[str, dict[str, Any]], None]
"""A function that takes the name of an event and its values."""

STEPS = {"epoch": "epoch", "validation": "epoch", "iteration": "iteration"}
"""Events whose values are points of curves, and the value that counts them."""

EXTRAS = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}
"""Kinds of trackers, which are extras of this package, and the modules that they need."""

SETTINGS = "settings"
"""The event that tells trackers, and nobody else, what differs from the defaults."""

LONGEST_VALUE = 500
"""Characters of a setting that are tracked."""


class Tool(Protocol):
    """A tracking tool."""

    def settings(self, values: Mapping[str, str]) -> None:
        """Take settings by their names."""

    def number(self, name: str, value: float, step: int) -> None:
        """Take a point of a curve."""

    def picture(self, path: Path) -> None:
        """Take a picture from its file."""


def tracker(destination: str) -> Tracker:
    """What writes the settings, numbers and pictures of a run to a tracking tool.

    Parameters
    ----------
    destination : str
        ``"tensorboard:FOLDER"``, or ``"mlflow:URI"`` with the URI of a server or of a database
        (``mlflow:sqlite:///runs.db``); without a URI it is that of the environment variable
        ``MLFLOW_TRACKING_URI``.

    Raises
    ------
    ValueError
        If it is neither, or the tool is not installed or does not answer.
    """
    kind, _, where = destination.partition(":")
    if kind not in EXTRAS or (kind == "tensorboard" and not where):
        raise ValueError(
            f"--track {destination}: write tensorboard:FOLDER, mlflow:URI, or mlflow alone."
        )
    try:
        module: Any = importlib.import_module(EXTRAS[kind])
    except ImportError as error:
        raise ValueError(
            f"--track {kind}: it is not installed ({error}); install the extra: "
            f"pip install 'ptychi-neural[{kind}]'."
        ) from error
    try:
        if kind == "tensorboard":
            tool: Tool = _TensorBoard(module, where)
        else:
            tool = _MLflow(module, where)
    except Exception as error:
        raise ValueError(
            f"--track {destination}: it cannot be written to, check it or leave it out: {error}"
        ) from error

    def take(event: str, values: dict[str, Any]) -> None:
        if event == SETTINGS:
            tool.settings({name: str(value)[:LONGEST_VALUE] for name, value in values.items()})
        if event == "finished":
            result = Path(values["path"])
            for path in sorted((result if result.is_dir() else result.parent).glob("*.png")):
                tool.picture(path)
        if event not in STEPS:
            return
        counter = STEPS[event]
        for name, value in values.items():
            if name not in (counter, "num_epochs", "elapsed_s") and isinstance(value, int | float):
                curve = f"projections/{name}" if event == "iteration" else name
                tool.number(curve, value, values[counter])

    return take


class _TensorBoard:
    """A folder of TensorBoard's."""

    def __init__(self, module: Any, folder: str) -> None:
        self.writer = module.SummaryWriter(folder)

    def settings(self, values: Mapping[str, str]) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
        self.writer.add_text("settings", f"| key | value |\n|---|---|\n{rows}")
        self.writer.flush()

    def number(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, path: Path) -> None:
        from matplotlib.image import imread

        self.writer.add_image(path.stem, imread(path)[..., :3], dataformats="HWC")
        self.writer.flush()


class _MLflow:
    """A run of MLflow's."""

    def __init__(self, module: Any, uri: str) -> None:
        self.module = module
        if uri:
            module.set_tracking_uri(uri)
        module.set_experiment("ptychi-neural")
        module.start_run()  # It ends with the process.

    def settings(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():  # Many at a time are refused.
            self.module.log_param(name, value)
        if folder := values.get("output.folder"):
            self.module.set_tag("mlflow.runName", Path(folder).name)

    def number(self, name: str, value: float, step: int) -> None:
        self.module.log_metric(name, value, step=step)

    def picture(self, path: Path) -> None:
        self.module.log_artifact(str(path))
