"""Search for the settings of a run file that predict held-out pixels best, with Optuna."""

import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import tomli_w

from ptychi_neural.counted import counted, uncountable
from ptychi_neural.engine.reconstructor import NeuralReconstructor
from ptychi_neural.options import NeuralReconstructorOptions
from ptychi_neural.runs.attend import interruptible
from ptychi_neural.runs.configuration import (
    differing,
    flattened,
    merged,
    parse_changes,
    read_keys,
)
from ptychi_neural.runs.growing_folder import alone_in
from ptychi_neural.runs.one_writer import place_of
from ptychi_neural.runs.progress import Bar, say
from ptychi_neural.runs.reconstruct import reconstruct
from ptychi_neural.runs.run_file import RunFile, check_data_folder, run_from
from ptychi_neural.scans.hdf5 import replacing

if TYPE_CHECKING:
    import optuna

SHARE_OF_RANDOM_TRIALS = 0.3

GROWING = ("study.log", "table.csv", "best.toml")
"""Files of a search beside the results of its trials."""

INTERRUPTED = "interrupted"
"""Mark of a trial that does not count, because it was told to stop."""

OF_START = ("simulation.probe_defocus_error", "simulation.probe_guess")
"""Keys of a simulation that leave its patterns as they are."""

OF_PATTERNS = {
    "data": (
        *("folder", "diffraction", "entry", "datasets.patterns", "datasets.mask", "frames"),
        *("dc_at_corner", "crop", "center", "bin", "transpose", "flip_y", "flip_x", "rotate_deg"),
        *("background", "mask", "saturated_counts", "dark_counts"),
    ),
    "reconstructor_options": ("random_seed", "validation.held_out", "loss_function"),
}
"""Keys of which each value has other patterns, other held-out pixels, or another loss."""

MOST_CHECKED = 256
"""Combinations of values up to which all are checked before the first trial."""

LOGARITHMIC_FROM = 10.0
"""Ratio of the ends from which a range of positive numbers is searched in its logarithm."""


@dataclass(frozen=True)
class Choice:
    """Values of one key among which a search chooses: a list, or a range of numbers."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggested(self, trial: "optuna.Trial") -> Any:
        """The value that a trial is to take."""
        if self.values:
            places = range(len(self.values))
            return self.values[cast(int, trial.suggest_categorical(self.key, places))]
        logarithmic = self.low > 0 and self.high >= LOGARITHMIC_FROM * self.low
        if self.is_whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=logarithmic)
        return trial.suggest_float(self.key, self.low, self.high, log=logarithmic)

    def of(self, suggested: Any) -> Any:
        """The value behind a parameter of a trial."""
        return self.values[suggested] if self.values else suggested


@dataclass(frozen=True)
class TuningResult:
    """What a search has found."""

    folder: Path
    table: pd.DataFrame
    """A row for each trial: ``trial``, ``held_out_loss``, the varied keys, ``seconds``."""

    best: dict[str, Any]
    """Values of the varied keys that predict best; none where no trial has come to its end."""

    interrupted: bool
    """Whether the search was told to stop."""


def parse_choices(texts: Sequence[str]) -> list[Choice]:
    """Read what a command line varies.

    Parameters
    ----------
    texts : sequence of str
        ``KEY=LOW..HIGH`` or ``KEY=VALUE,VALUE,...``.

    Raises
    ------
    ValueError
        If a text is neither.

    Examples
    --------
    >>> parse_choices(["data.n_probe_modes=1,3"])[0].values
    (1, 3)
    >>> parse_choices(["probe_options.step_size=1e-4..1e-2"])[0].high
    0.01
    """
    choices = []
    for text in texts:
        key, _, told = text.partition("=")
        ends = told.split("..")
        parts = ends if len(ends) == 2 else told.split(",")
        values: tuple[Any, ...] = tuple(
            flattened(parse_changes([f"{key}={part}"])).get(key) for part in parts
        )
        for name, problem in uncountable({key: list(values)}):
            raise ValueError(f"{name}: {problem}")
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if len(ends) == 2 and numbers and -math.inf < values[0] < values[1] < math.inf:
            choices.append(Choice(key, low=values[0], high=values[1]))
        elif len(ends) == 1 and len(set(map(str, values))) > 1:
            choices.append(Choice(key, values))
        else:
            raise ValueError(
                f"{text!r}: write KEY=LOW..HIGH with two numbers, or KEY=VALUE,VALUE,..."
            )
    return choices


def tune(
    run_file: str | Path,
    choices: Sequence[Choice],
    n_trials: int = 20,
    output_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> TuningResult:
    """Run a run file with other values of some keys, and keep those that predict best.

    Every trial is scored by the lowest loss at the held-out pixels, which are the same in all.
    The folder gets ``table.csv``, ``best.toml``, a results folder for each trial, and the record
    ``study.log``, from which the same command goes on.

    Parameters
    ----------
    run_file : str or Path
        Run file of the neural engine with held-out pixels.
    choices : sequence of Choice
        What is varied.
    n_trials : int
        Trials, with those that an earlier search has made. Of lists of values each combination is
        tried once, if there are no more of them.
    output_folder : str or Path, optional
        None: ``results/<name of the run file>-tuning``.
    data_folder : str or Path, optional
        As for ``read_run_file``.
    changes : mapping, optional
        Contents that take the place of the file's.

    Raises
    ------
    FileExistsError
        If another search writes to the folder.
    ValueError
        If Optuna is not installed, the run file is not valid or has no held-out pixels, or no
        trial could be run.
    """
    optuna = _optuna()
    path = Path(run_file)
    contents = merged(read_keys(path), dict(changes or {}))
    run = run_from(contents, path, data_folder)
    check_data_folder([run], path, data_folder)
    seed = _checked_seed(run)
    contents = merged(contents, {"reconstructor_options": {"random_seed": seed}})
    _check_choices(choices, contents, path, data_folder)
    folder = Path(output_folder or Path("results") / f"{path.stem}-tuning")
    is_new = not place_of(folder).exists()
    with alone_in(folder, GROWING, [path, *run.reads]):
        journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
        n_random = max(3, round(SHARE_OF_RANDOM_TRIALS * n_trials))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(journal),
            study_name=path.stem,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_random),
        )
        _check_same(study, choices, run_from(contents, path, data_folder))

        def held_out_loss(trial: Any) -> float:
            values = {choice.key: choice.suggested(trial) for choice in choices}
            try:
                return tried_loss(trial, values)
            except (ValueError, FloatingPointError) as error:
                say(f"warning: trial {trial.number} with {values} failed: {error}")
                raise

        def tried_loss(trial: Any, values: dict[str, Any]) -> float:
            tried = run_from(merged(contents, values), path, data_folder)
            # Neither counts, and both take time.
            tried.output.intervals, tried.output.formats = False, []
            with interruptible("the batch") as interrupted:
                result = reconstruct(
                    tried, folder / f"trial-{trial.number:03}", show_progress=False
                )
            reconstructor = result.first_task.reconstructor
            assert isinstance(reconstructor, NeuralReconstructor)
            if interrupted():
                stopped.append(trial.number)
                study.stop()
            if result.stopped == "interrupted":
                trial.set_user_attr(INTERRUPTED, True)
                raise optuna.TrialPruned
            return float(reconstructor.validation.loss.min())

        stopped: list[int] = []
        n_trials = _enqueued(study, choices, n_trials)
        done = sum(map(_counts, study.trials))
        bar = Bar(total=max(n_trials, done), initial=done, desc="trial", mininterval=0, miniters=1)

        def count(study: Any, _: Any) -> None:
            if any(trial.value is not None for trial in study.trials):
                bar.set_postfix_str(f"best held-out loss {study.best_value:.6g}", refresh=False)
            bar.update()

        try:
            study.optimize(
                *(held_out_loss, bar.total - done),
                catch=(ValueError, FloatingPointError),
                callbacks=[count],
            )
        finally:
            bar.close()
            table = _table(study, choices)
            with replacing(folder / "table.csv", overwrite=True) as temporary:
                table.to_csv(temporary, index=False)
        best: dict[str, Any] = {}
        if table.held_out_loss.notna().any():
            best = {choice.key: choice.of(study.best_params[choice.key]) for choice in choices}
            best_run = run_from(merged(contents, best), path, data_folder).filled_in()
            with replacing(folder / "best.toml", overwrite=True) as temporary:
                Path(temporary).write_text(tomli_w.dumps(best_run), encoding="utf-8")
        elif not stopped:
            if is_new:
                _remove_vain(folder)
            raise ValueError(
                f"none of {counted(len(table), 'trials')} could be run; see the warnings above."
            )
        return TuningResult(folder, table, best, bool(stopped))


def _remove_vain(folder: Path) -> None:
    """Remove the folder of a search without a trial that could be run, unless it holds a result."""
    for name in GROWING:
        (folder / name).unlink(missing_ok=True)
    for path in (*folder.glob(".study.log.*"), *folder.glob("study.log.*")):
        path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("tune needs Optuna; install it with: pip install optuna.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # Failed trials are told below.
    return optuna


def _checked_seed(run: RunFile) -> int:
    """The seed of all trials, which decides the held-out pixels."""
    options = run.options.reconstructor_options
    if not isinstance(options, NeuralReconstructorOptions) or options.validation.held_out == 0:
        raise ValueError(
            'tune scores by held-out pixels: choose engine = "neural" and '
            "reconstructor_options.validation.held_out above 0."
        )
    return 0 if options.random_seed is None else options.random_seed


def _check_choices(
    choices: Sequence[Choice],
    contents: dict[str, Any],
    path: Path,
    data_folder: str | Path | None,
) -> None:
    """Refuse keys whose values cannot be compared, and values that are wrong with all others."""
    of_patterns = [f"{group}.{name}" for group, names in OF_PATTERNS.items() for name in names]
    for key in (choice.key for choice in choices):
        is_of_patterns = any(f"{key}.".startswith(f"{name}.") for name in ("engine", *of_patterns))
        if is_of_patterns or (key.startswith("simulation.") and key not in OF_START):
            raise ValueError(
                f"--vary {key}: its values differ in patterns or in what is held out of them, so "
                "that their losses cannot be compared; set one value with --set."
            )
    pairs = [[(c.key, value) for value in c.values or (c.low, c.high)] for c in choices]
    if math.prod(map(len, pairs)) > MOST_CHECKED:
        return
    right: set[str] = set()
    wrong: dict[str, ValueError] = {}
    for combination in itertools.product(*pairs):
        try:
            run_from(merged(contents, dict(combination)), path, data_folder)
            right |= set(map(str, combination))
        except ValueError as error:
            for pair in combination:
                wrong.setdefault(str(pair), error)
    for name, why in wrong.items():
        if name not in right:
            raise why


def _check_same(study: "optuna.Study", choices: Sequence[Choice], run: RunFile) -> None:
    """Refuse to mix trials that vary something else, or begin from other settings."""
    contents = tomllib.loads(tomli_w.dumps(run.filled_in()))
    del contents["output"]
    varied = {choice.key for choice in choices}
    settings = {key: value for key, value in flattened(contents).items() if key not in varied}
    attributes = {"choices": [repr(choice) for choice in choices], "settings": settings}
    before = study.user_attrs
    if before.get("choices", attributes["choices"]) != attributes["choices"]:
        raise ValueError(
            "the folder holds a search that varies other keys or values; write elsewhere with "
            "--output FOLDER."
        )
    if different := differing(settings, before.get("settings", settings)):
        raise ValueError(
            f"the folder holds a search with other {', '.join(different)}; go on with the same, or "
            "write elsewhere with --output FOLDER."
        )
    for name, value in attributes.items():
        study.set_user_attr(name, value)


def _counts(trial: Any) -> bool:
    """Whether a trial has come to its end, be it that it failed."""
    return bool(trial.state.is_finished() and INTERRUPTED not in trial.user_attrs)


def _enqueued(study: "optuna.Study", choices: Sequence[Choice], n_trials: int) -> int:
    """Let each combination of values be tried once, where there are no more of them than trials.

    Returns the number of trials that are to be made: another trial of the same settings would
    come to the same loss.
    """
    if not 0 < math.prod(len(choice.values) for choice in choices) <= n_trials:
        return n_trials  # or there are ranges of numbers
    combinations = [
        dict(zip((choice.key for choice in choices), places))
        for places in itertools.product(*(range(len(choice.values)) for choice in choices))
    ]
    tried = [trial.params for trial in study.trials if _counts(trial)]
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.trials if not trial.params]
    for combination in combinations:
        if combination not in (*tried, *waiting):
            study.enqueue_trial(combination)
    return len(combinations)


def _table(study: "optuna.Study", choices: Sequence[Choice]) -> pd.DataFrame:
    rows = []
    for trial in study.trials:
        if not trial.params and trial.value is None:  # it waits
            continue
        values = {c.key: c.of(trial.params[c.key]) for c in choices if c.key in trial.params}
        seconds = np.nan if trial.duration is None else trial.duration.total_seconds()
        score = np.nan if trial.value is None else trial.value
        rows.append({"trial": trial.number, "held_out_loss": score, **values, "seconds": seconds})
    keys = [choice.key for choice in choices]
    table = pd.DataFrame(rows, columns=["trial", "held_out_loss", *keys, "seconds"])
    return table.sort_values("held_out_loss", ignore_index=True)
