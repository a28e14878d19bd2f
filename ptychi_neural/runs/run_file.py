"""TOML run files hold all that a reconstruction needs; they are checked before data are loaded.

Options have pty-chi's names and groups (``[object_options.total_variation]``). TOML has no null:
``"none"`` stands for ``None``. Relative paths are relative to the run file.
"""

import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from ptychi.api.options.task import PtychographyTaskOptions
from pydantic import BaseModel, ConfigDict, TypeAdapter

from ptychi_neural.options import GeneratorOptions, NeuralPtychographyOptions
from ptychi_neural.runs.configuration import (
    RunFileError,
    annotations,
    flattened,
    has_keys,
    key_names,
    merged,
    parse_changes,
    read_keys,
    validated,
    without_none,
)
from ptychi_neural.runs.engines import CATALOGUE
from ptychi_neural.runs.measured import contents_of
from ptychi_neural.runs.option_groups import checked_options, options_from, stated
from ptychi_neural.runs.sections import (
    DATA_VARIABLE,
    DataSection,
    RunOutputSection,
    data_folders,
    located,
    names_files,
)
from ptychi_neural.scans.frames import Frames
from ptychi_neural.scans.hdf5 import replacing
from ptychi_neural.simulation import SimulationOptions

__all__ = [
    "DATA_VARIABLE",
    "ENGINES",
    "DataSection",
    "Refinement",
    "RunFile",
    "RunFileError",
    "options_from",
    "parse_changes",
    "read_recipe",
    "read_run_file",
    "run_from",
    "run_of",
]

ENGINES: dict[str, type[PtychographyTaskOptions]] = {
    name: engine.options_class for name, engine in CATALOGUE.items() if engine.variant_of is None
}
"""Engine names of run files and the options that choose the engine in pty-chi."""


class Sections(BaseModel):
    """The sections of a run file that do not depend on the engine."""

    model_config = ConfigDict(extra="forbid")

    engine: typing.Literal[tuple(ENGINES)] = "neural"  # type: ignore[valid-type]
    data: DataSection | None = None
    simulation: SimulationOptions | None = None
    output: RunOutputSection = RunOutputSection()


OF_MODELS: dict[str, type[BaseModel]] = {
    "data": DataSection,
    "data.frames": Frames,
    "output": RunOutputSection,
}
"""Sections whose keys have defaults that are not an engine's."""

INHERITED = (
    ("probe_options", "optimizable"),
    ("probe_position_options", "optimizable"),
    ("reconstructor_options", "random_seed"),
    ("reconstructor_options", "default_device"),
    ("reconstructor_options", "default_dtype"),
)
"""Options that ``[refine]`` takes from the first engine where it does not set them itself."""


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

    output: RunOutputSection = field(default_factory=RunOutputSection)
    """What belongs to the result; its ``folder`` is ``output_folder``."""

    chosen: frozenset[str] = field(default_factory=frozenset)
    """Dotted names of the options that the file sets."""

    @property
    def product(self) -> Path:
        """The product that it writes by default."""
        return self.output_folder / "product.h5"

    @property
    def stages(self) -> list["RunFile | Refinement"]:
        """The engines that run in a row, each with its ``engine`` name and ``options``."""
        return [self] if self.refine is None else [self, self.refine]

    @property
    def reads(self) -> list[Path]:
        """Files of the measured scan, and the generator to start from."""
        found = []
        if self.data is not None:
            files = (value for _, value in self.data if isinstance(value, Path))
            found = [self.data.folder / file for file in files] + [self.data.product_path]
        if isinstance(self.options, NeuralPtychographyOptions):
            checkpoint = self.options.reconstructor_options.generator.checkpoint
            found += [] if checkpoint is None else [Path(checkpoint)]
        return found

    def filled_in(self) -> dict[str, Any]:
        """Contents of a run file that states every default and gives this run again."""
        contents: dict[str, Any] = {"engine": self.engine}
        for name, section in (("data", self.data), ("simulation", self.simulation)):
            if section is not None:
                dump = TypeAdapter(type(section)).dump_python
                contents[name] = dump(section, mode="json", exclude_none=True)
        output = self.output.model_dump(mode="json", exclude={"folder"})
        contents["output"] = {"folder": str(self.output_folder)} | output
        if self.refine is not None:
            options = self.refine.options
            contents["refine"] = {"engine": self.refine.engine} | stated(options, type(options)())
        return contents | stated(self.options, type(self.options)())

    def write(self, path: str | Path) -> None:
        """Write ``filled_in()`` to a new file, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_text(tomli_w.dumps(self.filled_in()), encoding="utf-8")


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
        Folder that takes the place of ``data.folder``; None: that of the environment variable
        PTYCHI_NEURAL_DATA, where it is set. Files that a simulation names are first looked for
        there, by their names.
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
    run = run_from(merged(read_keys(Path(path)), changes or {}), Path(path), data_folder)
    check_data_folder([run], Path(path), data_folder)
    return run


def check_data_folder(
    runs: Sequence[RunFile], path: Path, data_folder: str | Path | None = None
) -> None:
    """Refuse a data folder for scans none of which has any data.

    Raises
    ------
    RunFileError
        If all scans are simulated without files.
    """
    simulated = [run.simulation for run in runs if run.simulation is not None]
    without_files = len(simulated) == len(runs) and not any(map(names_files, simulated))
    if data_folder is not None and without_files:
        problem = f"--data {data_folder}: a simulation without files has none; leave it out"
        raise RunFileError(str(path), [problem])


def run_from(
    contents: dict[str, Any], path: Path, data_folder: str | Path | None = None
) -> RunFile:
    """Make a run file of its contents, checked as ``read_run_file`` does.

    Parameters
    ----------
    contents : dict
        Contents of a run file.
    path : Path
        The file that they belong to. Relative paths are relative to its folder.
    data_folder : str or Path, optional
        As for ``read_run_file``.

    Raises
    ------
    RunFileError
        If the contents are not those of a valid run file.
    """
    engine = contents.get("engine", "neural")
    # Options of an unknown engine cannot be checked, but every engine has the same groups.
    known_engine = isinstance(engine, str) and engine in ENGINES
    options_class = ENGINES[engine] if known_engine else PtychographyTaskOptions
    groups = annotations(options_class)
    chosen = {key: value for key, value in contents.items() if key in groups}
    rest = {key: value for key, value in contents.items() if key not in groups and key != "refine"}
    names = [*key_names(Sections), *key_names(options_class)]

    problems: list[str] = []
    if {"scans", "training"} & rest.keys():
        problem = "of a training file, which ptychi-neural train takes"
        raise RunFileError(str(path), [f"scans, training: {problem}"])
    data = rest.get("data")
    if "simulation" in rest and isinstance(data, dict) and "diffraction" not in data:
        keys = ", ".join(f"data.{name}" for name in rest.pop("data")) or "data"
        problems.append(
            f"{keys}: a simulated scan takes no [data]; leave it out, or write the scan to files "
            "(ptychi-neural simulate) and name them in data.diffraction"
        )
    frame = validated(Sections, without_none(Sections, rest), names, problems)
    options = checked_options(options_class, chosen, names, problems) if known_engine else None
    simulation = None
    if frame is not None:
        if (frame.data is None) == (frame.simulation is None):
            problems.append("data, simulation: give one of the two sections")
        if frame.data is not None:
            frame.data.locate(path.parent, data_folder, problems)
        if frame.simulation is not None:
            folders = [*data_folders(data_folder), path.parent]
            simulation = located(frame.simulation, folders, "simulation", problems)
    if isinstance(options, NeuralPtychographyOptions):
        _locate_checkpoint(options.reconstructor_options.generator, path.parent, problems)
    other_result = engine != "neural" or "refine" in contents
    if frame is not None and frame.output.intervals and other_result:
        problems.append("output.intervals: the result has to be the neural engine's, leave it out")
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
        output=frame.output,
        chosen=frozenset(flattened(chosen)),
    )


def beside_defaults(contents: dict[str, Any]) -> dict[str, Any]:
    """What contents of ``filled_in`` say beside all defaults, by dotted name."""
    usual = ENGINES[contents.get("engine", "neural")]()
    default = flattened(stated(usual, usual))
    for section, model in OF_MODELS.items():
        fields = model.model_fields.items()
        default |= {f"{section}.{name}": info.default for name, info in fields}
    return {name: v for name, v in flattened(contents).items() if default.get(name) != v}


def run_of(
    path: Path,
    product: Path | None,
    changes: Sequence[str],
    data_folder: str | Path | None = None,
) -> RunFile:
    """The run file itself, or one of a file of patterns and the file of its positions."""
    contents = parse_changes(changes)
    if has_keys(path):
        if product is not None:
            raise ValueError(f"{path} names its product itself; give one of the two.")
        return read_run_file(path, data_folder, contents)
    contents = contents_of(path, product, contents)
    try:
        return run_from(contents, Path("run.toml").resolve(), data_folder)
    except RunFileError as error:  # There is no run file that it could name.
        raise RunFileError(str(path), error.problems) from None


def _locate_checkpoint(generator: GeneratorOptions, base: Path, problems: list[str]) -> None:
    """Make the path of the generator to start from absolute; add a line if there is no file."""
    if generator.checkpoint is not None:
        generator.checkpoint = str((base / generator.checkpoint).resolve())
        if not Path(generator.checkpoint).is_file():
            problems.append(
                f"reconstructor_options.generator.checkpoint: no file {generator.checkpoint}"
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
    options = checked_options(ENGINES[engine], chosen, list(key_names(ENGINES[engine])), found)
    problems.extend(f"refine.{problem}" for problem in found)
    return None if options is None else Refinement(engine, options)


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
    contents = {"simulation": {}} if path is None else read_keys(Path(path))
    values = merged(contents, changes or {}).get("simulation")
    source, base = ("The recipe", Path()) if path is None else (str(path), Path(path).parent)
    problems: list[str] = []
    frame = validated(Sections, {"simulation": values}, list(key_names(Sections)), problems)
    if frame is None or frame.simulation is None:
        raise RunFileError(source, problems or ["simulation: required"])
    recipe = located(frame.simulation, [*data_folders(None), base], "simulation", problems)
    if problems:
        raise RunFileError(source, problems)
    return recipe
