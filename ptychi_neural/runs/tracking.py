"""Curves of a run for TensorBoard and MLflow, made of the events that it tells."""

import importlib
from collections.abc import Callable
from typing import Any

Tracker = Callable[[str, dict[str, Any]], None]
"""A function that takes the name of an event and its values."""

STEPS = {"epoch": "epoch", "validation": "epoch", "iteration": "iteration"}
"""Events whose values are points of curves, and the value that counts them."""

EXTRAS = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow"}
"""Kinds of trackers, which are extras of this package, and the modules that they need."""


def tracker(destination: str) -> Tracker:
    """What writes the numbers of events to a tracking tool.

    Parameters
    ----------
    destination : str
        ``"tensorboard:FOLDER"``, or ``"mlflow:URI"`` with the URI of a server or of a database
        (``mlflow:sqlite:///runs.db``); without a URI it is that of the environment variable
        ``MLFLOW_TRACKING_URI``.

    Raises
    ------
    ValueError
        If it is neither, or the tool is not installed.
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
    log = _tensorboard(module, where) if kind == "tensorboard" else _mlflow(module, where)

    def take(event: str, values: dict[str, Any]) -> None:
        if event not in STEPS:
            return
        counter = STEPS[event]
        for name, value in values.items():
            if name not in (counter, "num_epochs", "elapsed_s") and isinstance(value, int | float):
                log(f"projections/{name}" if event == "iteration" else name, value, values[counter])

    return take


def _tensorboard(module: Any, folder: str) -> Callable[[str, float, int], None]:
    writer = module.SummaryWriter(folder)

    def log(name: str, value: float, step: int) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()

    return log


def _mlflow(module: Any, uri: str) -> Callable[[str, float, int], None]:
    if uri:
        module.set_tracking_uri(uri)
    module.set_experiment("ptychi-neural")
    module.start_run()  # It ends with the process.

    def log(name: str, value: float, step: int) -> None:
        module.log_metric(name, value, step=step)

    return log
