"""Benchmark suites: TOML files that span cells, one for each scan, seed and engine.

A suite has the contents of a run file as its ``[base]``, and the points of its axes change keys of
it. A cell is one point of each axis, one kind of object, one seed and one engine.
"""

import itertools
import json
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ptychi_neural.comparison.engines import ENGINES
from ptychi_neural.runs.configuration import RunFileError, merged
from ptychi_neural.runs.run_file import RunFile, run_from
from ptychi_neural.scans import Scan, select_frames

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")]
"""Part of a file name."""

Moment = Literal["end", "best_held_out", "best_truth"]
"""Epoch of an engine: the last, that of the best held-out likelihood, or that of the smallest error
against the ground truth."""

SUITES = Path(__file__).parent / "suites"
"""Folder of the suites that come with the package and are found by name."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Frames(_Model):
    """The part of a scan that is reconstructed."""

    window_px: float = Field(default=float("inf"), gt=0)
    """Side of the square in the middle of the scan in which positions are kept."""

    every: int = Field(default=1, ge=1)
    """Of those, one of so many frames is kept."""

    def of(self, scan: Scan) -> Scan:
        """The scan with these frames only."""
        middle = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2
        distance = np.abs(scan.positions_px - middle).max(axis=1)
        return select_frames(scan, np.flatnonzero(distance <= self.window_px / 2)[:: self.every])


class Point(_Model):
    """One point of an axis."""

    label: Label

    changes: dict[str, Any] = {}
    """Keys of the run file, dotted or nested, and their values."""

    frames: Frames = Frames()

    max_seconds: float | None = Field(default=None, gt=0)
    """Takes the place of the suite's."""

    bar: float | None = Field(default=None, gt=0)
    """The largest ratio of its error to that of the best baseline that is asked of ``engine``."""

    engine: Label | None = None
    """The one that is compared with the best baseline here. None: the suite's first."""


class Variant(_Model):
    """An engine as a suite runs it."""

    engine: Literal[tuple(ENGINES)] | None = None  # type: ignore[valid-type]
    """None: the engine of the variant's name."""

    changes: dict[str, Any] = {}
    """Options, dotted or nested, that differ from those of all engines and the engine's own."""

    after: Label | None = None
    """Engine of the suite from whose object, probe and positions, as it leaves them, this one
    starts. Its time counts."""

    judged_at: Moment | None = None
    """Takes the place of the suite's."""

    held_out_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Takes the place of the suite's."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Takes the place of the suite's, and of the points'."""


class Figures(_Model):
    """What is drawn besides the course of every engine."""

    map: tuple[Label, Label] | None = None
    """Two axes, the first from left to right, over which ratios of errors are drawn."""

    curves: Label | None = None
    """Axis over which errors are drawn."""


class Reduced(_Model):
    """What the reduced form of a suite keeps; all where nothing is said."""

    axes: dict[Label, list[Label]] = {}

    objects: list[Label] | None = None

    seeds: list[int] | None = None

    engines: list[Label] | None = None


class Suite(_Model):
    """A benchmark suite."""

    name: Label
    """Name of the results folder."""

    description: str

    base: dict[str, Any]
    """Contents of a run file."""

    axes: dict[Label, list[Point]] = Field(min_length=1)

    objects: list[Label] = []
    """Kinds of simulated objects; none: that of the base."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Seeds of both simulation and engine."""

    engines: dict[Label, Variant] = Field(min_length=1)
    """The first is the one that is compared with the others."""

    baselines: list[Label] = []
    """Engines of which the best in each cell is the measure of the others."""

    judged_at: Moment = "best_held_out"
    """When engines are judged."""

    held_out_fraction: float = Field(default=0.03, ge=0, lt=1)
    """Share of the detector's pixels that no engine sees."""

    half_scans: bool = False
    """Whether two halves of the scan, every second frame each, are reconstructed and compared."""

    max_seconds: float = Field(gt=0)
    """Wall time after which an engine is stopped."""

    equal_seconds: float | None = Field(default=None, gt=0)
    """Wall time at which all engines are scored."""

    n_snapshots: int = Field(default=20, ge=2)
    """About how many epochs of a run are scored."""

    figures: Figures = Figures()

    reduced: Reduced = Reduced()

    @model_validator(mode="after")
    def _names_exist(self) -> "Suite":
        axes = {name: [point.label for point in points] for name, points in self.axes.items()}
        named: list[tuple[str, Collection[Any] | None, Collection[Any]]] = [
            ("baselines", self.baselines, self.engines),
            ("figures.map", self.figures.map, axes),
            ("figures.curves", self.figures.curves and [self.figures.curves], axes),
            ("reduced.objects", self.reduced.objects, self.objects),
            ("reduced.seeds", self.reduced.seeds, self.seeds),
            ("reduced.engines", self.reduced.engines, self.engines),
            ("reduced.axes", self.reduced.axes, axes),
            *(
                (f"axes.{k}.{point.label}.engine", point.engine and [point.engine], self.engines)
                for k, points in self.axes.items()
                for point in points
            ),
            *((f"reduced.axes.{k}", v, axes.get(k, ())) for k, v in self.reduced.axes.items()),
        ]
        problems = [
            f"{key}: there is no {', '.join(map(str, unknown))}, only {', '.join(map(str, known))}"
            for key, names, known in named
            if (unknown := [name for name in names or () if name not in known])
        ]
        for name, labels in axes.items():
            if not labels or len(set(labels)) < len(labels):
                problems.append(f"axes.{name}: needs points with different labels")
            if name in ("object", "seed", "engine"):
                problems.append(f"axes.{name}: the name is taken, choose another")
        for name, variant in self.engines.items():
            engine = variant.engine or name
            if engine not in ENGINES:
                problems.append(f"engines.{name}.engine: required, one of {', '.join(ENGINES)}")
            if variant.after is not None and (
                variant.after not in self.engines or self.engines[variant.after].after is not None
            ):
                problems.append(
                    f"engines.{name}.after: must be an engine of the suite that is after none"
                )
            untold = engine == "network-off-tv" and "simulation" not in self.base
            chooses = self.judged(name) == "best_held_out" or untold
            if chooses and self.held_out(name) == 0:
                problems.append(
                    f"engines.{name}.held_out_fraction: above 0, because held-out pixels choose "
                    "its epoch or weight"
                )
            if self.judged(name) == "best_truth" and "simulation" not in self.base:
                problems.append(f"engines.{name}.judged_at: best_truth needs base.simulation")
        if problems:
            raise ValueError("\n  - ".join(problems))
        return self

    def judged(self, engine: str) -> Moment:
        """When an engine is judged."""
        return self.engines[engine].judged_at or self.judged_at

    def held_out(self, engine: str) -> float:
        """Share of the detector's pixels that an engine does not see."""
        fraction = self.engines[engine].held_out_fraction
        return self.held_out_fraction if fraction is None else fraction

    def without_start(self, engine: str) -> str | None:
        """The engine of the suite that is as one that is ``after`` another, but starts empty."""
        variant = self.engines[engine]
        if variant.after is None:
            return None
        alone = variant.model_copy(update={"engine": variant.engine or engine, "after": None})
        for name, other in self.engines.items():
            if other.model_copy(update={"engine": other.engine or name}) == alone:
                return name
        return None

    def cells(self, whole: bool) -> list["Cell"]:
        """The cells of the whole or the reduced form; those of one scan follow each other."""
        kept = Reduced() if whole else self.reduced
        axes = [
            [point for point in points if point.label in kept.axes.get(name, [point.label])]
            for name, points in self.axes.items()
        ]
        objects: Sequence[str | None] = self.objects if kept.objects is None else kept.objects
        seeds = self.seeds if kept.seeds is None else kept.seeds
        engines = list(self.engines) if kept.engines is None else kept.engines
        scans = itertools.product(itertools.product(*axes), objects or [None], seeds)
        cells = []
        for points, kind, seed in scans:
            coordinates = dict(zip(self.axes, (point.label for point in points)))
            changes: dict[str, Any] = {"reconstructor_options.random_seed": seed}
            if "simulation" in self.base:
                changes["simulation.seed"] = seed
            if kind is not None:
                coordinates["object"] = changes["simulation.object.kind"] = kind
            limits = [point.max_seconds for point in points if point.max_seconds is not None]
            cells += [
                Cell(
                    coordinates={**coordinates, "seed": str(seed)},
                    engine=engine,
                    seed=seed,
                    contents=merged(self.base, changes, *(point.changes for point in points)),
                    frames=[point.frames for point in points],
                    max_seconds=self.engines[engine].max_seconds
                    or min(limits, default=self.max_seconds),
                )
                for engine in engines
            ]
        return cells


@dataclass(frozen=True)
class Cell:
    """One engine on one scan."""

    coordinates: dict[str, str]
    """Labels of the points of all axes, the object and the seed."""

    engine: str
    """Name of the variant."""

    seed: int

    contents: dict[str, Any]
    """Contents of the run file."""

    frames: list[Frames]
    """Parts of the scan, one after the other."""

    max_seconds: float

    @property
    def key(self) -> str:
        """The cell's name, and that of its record."""
        labels = {**self.coordinates, "engine": self.engine}
        return ",".join(f"{name}={label}" for name, label in labels.items())


def read_suite(suite: str | Path) -> tuple[Suite, Path]:
    """Read and check a suite.

    Parameters
    ----------
    suite : str or Path
        The TOML file, or the name of one in ``SUITES``.

    Returns
    -------
    Suite
        The suite.
    Path
        Its file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RunFileError
        If the file is not valid TOML, or has unknown, missing or ill-typed keys.
    """
    path = Path(suite)
    if not path.is_file():
        path = SUITES / f"{suite}.toml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no suite {suite}, nor {path}.")
    try:
        text = json.dumps(tomllib.loads(path.read_text(encoding="utf-8")), default=str)
        return TypeAdapter(Suite).validate_json(text, strict=True), path
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFileError(str(path), [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise RunFileError(str(path), [_described(detail) for detail in error.errors()]) from None


def run_file(cell: Cell, suite_path: Path, data_folder: str | Path | None = None) -> RunFile:
    """The run file of a cell; relative paths are relative to the suite's file.

    Parameters
    ----------
    cell : Cell
        The cell.
    suite_path : Path
        File of the suite.
    data_folder : str or Path, optional
        Takes the place of ``data.folder``, as does the environment variable PTYCHI_NEURAL_DATA.

    Raises
    ------
    RunFileError
        If the contents are not those of a valid run file.
    """
    try:
        return run_from(cell.contents, suite_path, data_folder)
    except RunFileError as error:
        raise RunFileError(f"{suite_path}, {cell.key}", error.problems) from None


def _described(detail: Any) -> str:
    """One line on a problem that pydantic found, led by the dotted name of the key."""
    known = {"extra_forbidden": "unknown key", "missing": "required"}
    message = known.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    key = ".".join(map(str, detail["loc"]))
    return f"{key}: {message}" if key else message
