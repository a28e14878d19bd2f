"""TOML run files: all that one reconstruction needs, checked before any data are loaded.

Options have pty-chi's names and groups (``[object_options.total_variation]``). TOML has no null:
``"none"`` stands for ``None``. Relative paths are relative to the run file.
"""

import difflib
import json
import logging
import os
import tomllib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import tomli_w
from ptychi.api.options.base import Options
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.utils import jsonize
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import ptychi_neural.api as napi
from ptychi_neural.runs.engines import CATALOGUE
from ptychi_neural.simulation import SimulationOptions

ENGINES: dict[str, type[PtychographyTaskOptions]] = {
    name: engine.options_class for name, engine in CATALOGUE.items() if engine.variant_of is None
}
"""Engine names of run files and the options that choose the engine in pty-chi."""

DATA_VARIABLE = "PTYCHI_NEURAL_DATA"
"""Environment variable that overrides ``data.folder``."""


Model = typing.TypeVar("Model", bound=BaseModel)


class RunFileError(ValueError):
    """Everything that is wrong with a run file.

    Attributes
    ----------
    problems : list of str
        One line each, led by the dotted name of the key.
    """

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n  - ".join([f"{source} cannot be run:", *problems]))
        self.problems = problems


class DataSection(BaseModel):
    """``[data]``: the measured scan, as files."""

    model_config = ConfigDict(extra="forbid")

    folder: Path = Path(".")
    """Folder that the other paths are relative to. ``--data`` overrides it, and so does the
    environment variable PTYCHI_NEURAL_DATA."""

    diffraction: Path
    """HDF5 file of the diffraction patterns."""

    product: Path
    """ptychodus product with probe, positions and object guess."""

    reference: Path | None = None
    """Product or reference file whose object the result is compared with."""

    n_probe_modes: int | None = Field(default=None, ge=1)
    """Incoherent probe modes to start from; None: those of the product. Other numbers make
    Hermite modes from the product's first mode."""


class OutputSection(BaseModel):
    """``[output]``: where the result goes."""

    model_config = ConfigDict(extra="forbid")

    folder: Path | None = None
    """Results folder, relative to the current directory; None: ``results/<run file's name>``."""


class _Frame(BaseModel):
    """The part of a run file that does not depend on the engine."""

    model_config = ConfigDict(extra="forbid")

    engine: typing.Literal[tuple(ENGINES)] = "neural"  # type: ignore[valid-type]
    data: DataSection | None = None
    simulation: SimulationOptions | None = None
    output: OutputSection = OutputSection()


INHERITED = (
    ("probe_options", "optimizable"),
    ("probe_position_options", "optimizable"),
    ("reconstructor_options", "random_seed"),
    ("reconstructor_options", "default_device"),
    ("reconstructor_options", "default_dtype"),
)
"""Options that ``[refine]`` takes from the file where it does not set them itself."""


@dataclass
class Refinement:
    """``[refine]``: another engine that starts from the first one's result."""

    engine: str
    """One of ``ENGINES``."""

    options: PtychographyTaskOptions
    """Options of the engine."""


@dataclass
class RunFile:
    """A valid run file."""

    engine: str
    """One of ``ENGINES``."""

    options: PtychographyTaskOptions
    """Options of the engine, ready for ``PtychographyTask``."""

    data: DataSection | None = None
    """Paths of the scan, absolute; None for a simulated scan."""

    simulation: SimulationOptions | None = None
    """Recipe of the simulated scan; None for a measured scan."""

    refine: Refinement | None = None
    """The engine that goes on where the first ends, if there is one."""

    output_folder: Path = Path("results/run")
    """Results folder, relative to the current directory."""

    chosen: frozenset[str] = field(default_factory=frozenset)
    """Dotted names of the options that the file sets."""

    def filled_in(self) -> dict[str, Any]:
        """The contents of a run file that states every default and gives this run again."""
        contents: dict[str, Any] = {"engine": self.engine}
        for name, section in (("data", self.data), ("simulation", self.simulation)):
            if section is not None:
                dump = TypeAdapter(type(section)).dump_python
                contents[name] = dump(section, mode="json", exclude_none=True)
        contents["output"] = {"folder": str(self.output_folder)}
        if self.refine is not None:
            options = self.refine.options
            contents["refine"] = {"engine": self.refine.engine} | _stated(options, type(options)())
        return contents | _stated(self.options, type(self.options)())

    def write(self, path: str | Path) -> None:
        """Write ``filled_in()`` to a new file."""
        with Path(path).open("xb") as file:
            tomli_w.dump(self.filled_in(), file)


def read_run_file(
    path: str | Path,
    data_folder: str | Path | None = None,
    changes: dict[str, Any] | None = None,
) -> RunFile:
    """Read and check a run file.

    Parameters
    ----------
    path : str or Path
        The TOML file.
    data_folder : str or Path, optional
        Takes the place of ``data.folder``, and goes before the environment variable
        PTYCHI_NEURAL_DATA, which does so too. Files that a simulation names are looked for there
        by their names first.
    changes : dict, optional
        Contents that take the place of the file's, see ``parse_changes``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the file is not valid TOML, has unknown, missing or ill-typed keys, options that the
        engine refuses, or names files that do not exist. All problems are listed at once.
    """
    return run_from(merged(read_toml(Path(path)), changes or {}), Path(path), data_folder)


def run_from(
    contents: dict[str, Any], path: Path, data_folder: str | Path | None = None
) -> RunFile:
    """The run file of these contents, checked as ``read_run_file`` does.

    Parameters
    ----------
    contents : dict
        Contents of a run file.
    path : Path
        The file that they belong to: relative paths are relative to it.
    data_folder : str or Path, optional
        As for ``read_run_file``.

    Raises
    ------
    RunFileError
        If the contents are not those of a valid run file.
    """
    engine = contents.get("engine", "neural")
    # The options of an unknown engine cannot be judged; their groups are those of every engine.
    known_engine = isinstance(engine, str) and engine in ENGINES
    options_class = ENGINES[engine] if known_engine else PtychographyTaskOptions
    groups = _annotations(options_class)
    chosen = {key: value for key, value in contents.items() if key in groups}
    rest = {key: value for key, value in contents.items() if key not in groups and key != "refine"}
    names = [*key_names(_Frame), *key_names(options_class)]

    problems: list[str] = []
    frame = validated(_Frame, rest, names, problems)
    options = _validate_options(options_class, chosen, names, problems) if known_engine else None
    simulation = None
    if frame is not None:
        if (frame.data is None) == (frame.simulation is None):
            problems.append("data, simulation: give one of the two sections")
        if frame.data is not None:
            problems.extend(_locate(frame.data, path.parent, data_folder))
        if frame.simulation is not None:
            folders = [*_data_folders(data_folder), path.parent]
            simulation = _absolute(frame.simulation, folders, "simulation", problems)
    if isinstance(options, napi.NeuralPtychographyOptions):
        problems.extend(_locate_checkpoint(options, path.parent))
    refine = None
    if "refine" in contents:
        refine = _refinement(contents["refine"], chosen, problems)
    if problems or frame is None or options is None:
        raise RunFileError(str(path), problems)
    return RunFile(
        engine=engine,
        refine=refine,
        options=options,
        data=frame.data,
        simulation=simulation,
        output_folder=frame.output.folder or Path("results") / path.stem,
        chosen=frozenset(_dotted(chosen)),
    )


def _refinement(section: Any, of_first: dict[str, Any], problems: list[str]) -> Refinement | None:
    engine = section.get("engine") if isinstance(section, dict) else None
    if engine not in ENGINES:
        problems.append(f"refine.engine: choose from {', '.join(ENGINES)}, not {engine!r}")
        return None
    inherited: dict[str, Any] = {}
    for group, name in INHERITED:
        if name in of_first.get(group, {}):
            inherited.setdefault(group, {})[name] = of_first[group][name]
    chosen = merged(inherited, {key: value for key, value in section.items() if key != "engine"})
    found: list[str] = []
    options = _validate_options(ENGINES[engine], chosen, list(key_names(ENGINES[engine])), found)
    problems.extend(f"refine.{problem}" for problem in found)
    return None if options is None else Refinement(engine, options)


def options_from(
    options_class: type[PtychographyTaskOptions], *contents: dict[str, Any], source: str
) -> PtychographyTaskOptions:
    """Options from the option groups of run files, checked as those are.

    Parameters
    ----------
    options_class : type
        Options of an engine.
    *contents : dict
        What differs from the engine's defaults; later ones take the place of earlier ones.
    source : str
        Where they come from, for the error.

    Raises
    ------
    RunFileError
        If there are unknown or ill-typed keys, or options that the engine refuses.
    """
    chosen: dict[str, Any] = {}
    for group in contents:
        chosen = merged(chosen, group)
    problems: list[str] = []
    options = _validate_options(options_class, chosen, list(key_names(options_class)), problems)
    if options is None or problems:
        raise RunFileError(source, problems)
    return options


def read_recipe(
    path: str | Path | None = None, changes: dict[str, Any] | None = None
) -> SimulationOptions:
    """Read and check a recipe: the ``[simulation]`` section of a run file, which may have others.

    Parameters
    ----------
    path : str or Path, optional
        The TOML file; None: the default recipe.
    changes : dict, optional
        Contents that take the place of the file's, see ``parse_changes``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the section is missing or not valid.
    """
    contents = {"simulation": {}} if path is None else read_toml(Path(path))
    values = merged(contents, changes or {}).get("simulation")
    source, base = ("The recipe", Path()) if path is None else (str(path), Path(path).parent)
    problems: list[str] = []
    frame = validated(_Frame, {"simulation": values}, list(key_names(_Frame)), problems)
    if frame is None or frame.simulation is None:
        raise RunFileError(source, problems or ["simulation: required"])
    recipe = _absolute(frame.simulation, [*_data_folders(None), base], "simulation", problems)
    if problems:
        raise RunFileError(source, problems)
    return recipe


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Contents of a run file from ``dotted.key=value``, the value as in TOML or a bare word.

    Raises
    ------
    RunFileError
        If one is not of that form.

    Examples
    --------
    >>> parse_changes(["engine=rpie", "reconstructor_options.num_epochs=5"])
    {'engine': 'rpie', 'reconstructor_options': {'num_epochs': 5}}
    """
    contents: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        for text in (change, f"{key}{equals}{json.dumps(value)}"):
            try:
                contents = merged(contents, tomllib.loads(text))
                break
            except tomllib.TOMLDecodeError:
                continue
        else:
            raise RunFileError("--set", [f"{change!r} is not dotted.key=value"])
    return contents


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFileError(str(path), [f"not valid TOML: {error}"]) from error


def merged(contents: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Contents of a run file with changes, group by group."""
    result = dict(contents)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _data_folders(data_folder: str | Path | None) -> list[Path]:
    """The folder that takes the place of those in run files, if there is one."""
    folder = data_folder or os.environ.get(DATA_VARIABLE)
    return [Path(folder).resolve()] if folder else []


def _locate(data: DataSection, base: Path, data_folder: str | Path | None) -> Iterator[str]:
    """Make the folder absolute, and tell which files are not in it."""
    data.folder = [*_data_folders(data_folder), (base / data.folder).resolve()][0]
    for name in ("diffraction", "product", "reference"):
        file: Path | None = getattr(data, name)
        if file is not None and not (data.folder / file).is_file():
            yield f"data.{name}: no file {data.folder / file} (--data FOLDER or {DATA_VARIABLE})"


def _absolute(model: Model, folders: list[Path], prefix: str, problems: list[str]) -> Model:
    """The same model with absolute paths: relative to the last folder, unless a file of that name
    is in one before it. Files that do not exist are problems."""
    *before, base = folders
    updates: dict[str, Any] = {}
    for name, value in model:
        if isinstance(value, Path):
            by_name = [] if value.is_absolute() else [folder / value.name for folder in before]
            found = [path for path in (*by_name, base / value) if path.is_file()]
            updates[name] = [*found, base / value][0].resolve()
            if not found:
                problems.append(
                    f"{prefix}.{name}: no file {updates[name]} (--data FOLDER or {DATA_VARIABLE})"
                )
        elif isinstance(value, BaseModel):
            updates[name] = _absolute(value, folders, f"{prefix}.{name}", problems)
    return model.model_copy(update=updates)


def _locate_checkpoint(options: napi.NeuralPtychographyOptions, base: Path) -> Iterator[str]:
    generator = options.reconstructor_options.generator
    if generator.checkpoint is not None:
        generator.checkpoint = str((base / generator.checkpoint).resolve())
        if not Path(generator.checkpoint).is_file():
            yield f"reconstructor_options.generator.checkpoint: no file {generator.checkpoint}"


def _validate_options(
    options_class: type[PtychographyTaskOptions],
    chosen: dict[str, Any],
    names: list[str],
    problems: list[str],
) -> PtychographyTaskOptions | None:
    data_problems: list[str] = []
    values = _over_defaults(options_class(), chosen, data_problems)
    options = validated(options_class, values, names, problems)
    problems.extend(data_problems)
    if options is None or data_problems:
        return None
    logging.disable(logging.WARNING)  # the task checks again, and warns then
    try:
        options.check()
    except ValueError as error:
        problems.append(str(error))
    finally:
        logging.disable(logging.NOTSET)
    return options


def _over_defaults(
    defaults: Options, chosen: dict[str, Any], problems: list[str], prefix: str = ""
) -> dict[str, Any]:
    """The chosen values over the defaults: some groups have defaults that are not their class's."""
    values = _stated(defaults, defaults)
    annotations = _annotations(type(defaults))
    for name, value in chosen.items():
        default = getattr(defaults, name, None)
        if isinstance(default, Options) and isinstance(value, dict):
            values[name] = _over_defaults(default, value, problems, f"{prefix}{name}.")
        elif name in annotations and name not in defaults.get_non_data_fields():
            problems.append(f"{prefix}{name}: comes from the scan, not from the run file")
        else:
            optional = NoneType in typing.get_args(annotations.get(name))
            values[name] = None if optional and value == "none" else value
    return values


def _stated(group: Options, defaults: Options) -> dict[str, Any]:
    """The values of a group as TOML has them: None only where the default is not None."""
    values: dict[str, Any] = {}
    for name, value in group.get_non_data_fields().items():
        default = getattr(defaults, name)
        if isinstance(value, Options):
            values[name] = _stated(value, default)
        elif value is not None:
            values[name] = jsonize(value)
        elif default is not None:
            values[name] = "none"
    return values


def validated(model: type, values: dict[str, Any], names: list[str], problems: list[str]) -> Any:
    """An instance of a pydantic model or dataclass, or None and a line for each problem.

    Validation is that of JSON in strict mode: ``"3"`` or ``true`` is no integer, while the name
    of an enum's member is one.
    """
    text = json.dumps(values, default=str)  # str: dates and times, which no option takes
    try:
        return TypeAdapter(model).validate_json(text, strict=True)
    except ValidationError as error:
        described: dict[str, list[str]] = {}
        for detail in error.errors():
            unknown = detail["type"] in ("unexpected_keyword_argument", "extra_forbidden")
            key = _key(detail["loc"], names)
            if unknown:
                key = ".".join(filter(None, (key, str(detail["loc"][-1]))))
                message = "unknown key" + _suggestion(key, names)
            elif detail["type"].startswith("missing") and isinstance(detail["loc"][-1], str):
                message = "required"
            else:
                message = detail["msg"].removeprefix("Value error, ")
                if not isinstance(detail["input"], dict):
                    message += f", not {detail['input']!r}"
            described.setdefault(key, []).append(message)  # a union: a message for each member
        problems.extend(f"{key}: {'; or: '.join(lines)}" for key, lines in described.items())
        return None


def _key(location: tuple[int | str, ...], names: list[str]) -> str:
    """Dotted name of the innermost known key of a location in pydantic's error.

    Besides keys, locations name members of unions and indexes.
    """
    key = ""
    for part in location:
        longer = f"{key}.{part}" if key else str(part)
        if longer in names:
            key = longer
    return key


def _suggestion(key: str, names: list[str]) -> str:
    """The nearest key of the same group, or else one of that very name in another group."""
    parent, _, name = key.rpartition(".")
    siblings = [n.rpartition(".")[2] for n in names if n.rpartition(".")[0] == parent]
    elsewhere = [n for n in names if n.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.75)
    close = close or elsewhere[:1] or difflib.get_close_matches(name, siblings, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def key_names(model: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys of a model."""
    for name, annotation in _annotations(model).items():
        yield prefix + name
        for group in (annotation, *typing.get_args(annotation)):
            yield from key_names(group, f"{prefix}{name}.")


def _annotations(model: Any) -> dict[str, Any]:
    """Names and types of the fields of a pydantic model or dataclass; empty for other types."""
    fields = getattr(model, "__pydantic_fields__", {})
    return {name: info.annotation for name, info in fields.items()}


def _dotted(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
